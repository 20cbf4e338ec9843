"""The messages of a capture process that has ended."""

import os
import socket
import subprocess

from anosegd.cameras.capture_handle import CaptureHandle
from anosegd.capture.protocol import Finished, Release, Tick, encode
from anosegd.capture.shared_slots import Slots


def test_last_messages_of_a_process_that_left_some_of_ours_unread() -> None:
    """What the process sent before its end arrives, although the daemon's last messages never reached it."""
    link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(["true"], stderr=subprocess.PIPE)
    slots = Slots.create(1, 4096)
    never = os.eventfd(0, os.EFD_CLOEXEC)
    handle = CaptureHandle(process, link, slots, grace_s=0.0, url="")
    try:
        theirs.send(encode(Tick()))
        theirs.send(encode(Finished(3)))
        handle.send(Release(0))
        theirs.close()
        received = []
        while (messages := handle.receive(1.0, never)) is not None:
            received += messages
        assert received == [Tick(), Finished(3)]
    finally:
        handle.kill()
        slots.close_fd()
        os.close(never)
