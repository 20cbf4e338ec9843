"""Which frames of a video are whole after a loss, by what FFmpeg reports."""

import pytest

from anosegd.capture.sources import frame_check
from anosegd.capture.sources.ffmpeg_messages import Losses, losses_in
from anosegd.capture.sources.frame_check import REORDERED, FrameCheck

DAMAGED = Losses(here="concealing 112 DC")
GONE = Losses(before="Frame num gap 5 3")
READ_BADLY = Losses(here="Packet corrupt", after="Packet corrupt")


def whole_frames(frames: str, losses: dict[int, Losses], *, delay: int = 0, typed: bool = True) -> str:
    """Play a video, and return "." for each whole frame and "x" for each other.

    Args:
        frames: The frames' types; K is a key frame, I an intra-coded frame that later ones look behind.
        losses: What FFmpeg reports by frame.
        delay: By how many packets the decoder is behind.
        typed: Whether OpenCV names the frames' types.
    """
    check, seen = FrameCheck(), ""
    for grab in range(len(frames)):
        taken = min(grab + delay, len(frames) - 1)
        first = 0 if grab == 0 else taken  # the first grab takes as many packets as the decoder needs
        reported = [losses[packet] for packet in range(first, taken + 1) if packet in losses]
        problem = check.grabbed(
            reported[0] if reported else Losses(),
            key_packet=frames[taken] == "K" and grab + delay < len(frames),
            frame_type=("I" if frames[grab] in "KI" else frames[grab]) if typed else "",
        )
        seen += "." if problem is None else "x"
    return seen


def test_after_a_damaged_frame_all_are_damaged_until_the_next_key_frame() -> None:
    """Frames that build on a damaged frame are not whole, the next key frame and those after it are."""
    assert whole_frames("KPPPPKPPP", {}) == "........."
    assert whole_frames("KPPPPKPPP", {2: DAMAGED}) == "..xxx...."
    assert whole_frames("KPPPPKPPP", {2: GONE}) == "..xxx...."


def test_a_damaged_key_frame_is_no_new_beginning() -> None:
    """A damaged key frame leaves everything damaged until the next one; a frame missing before it does not touch it."""
    assert whole_frames("KPPKPPKPP", {3: DAMAGED}) == "...xxx..."
    assert whole_frames("KPPKPPKPP", {3: GONE}) == "........."
    assert whole_frames("KPPKPPKPP", {0: DAMAGED}) == "xxx......"


def test_an_intra_coded_frame_that_is_no_key_frame_is_no_new_beginning() -> None:
    """Frames after it may look behind it."""
    assert whole_frames("KPPIPPKPP", {1: DAMAGED}) == ".xxxxx..."


def test_a_reader_that_is_ahead_of_the_decoder() -> None:
    """A container's reader reports a damaged packet one frame early; then the next key frame is not trusted either."""
    assert whole_frames("KPPPKPPPKPPP", {1: READ_BADLY}) == ".xxx........"
    assert whole_frames("KPPPKPPPKPPP", {3: READ_BADLY}) == "...xxxxx...."


def test_reordered_frames_are_traced_to_their_packets() -> None:
    """With a decoder that is behind, what it reports belongs to a frame that comes later, and key frames are matched."""
    assert whole_frames("KPPPPPKPPPPPKPPP", {}, delay=2) == "." * 16
    # Reported with frame 6, when the decoder takes frame 8: the key frame 6 is whole, what follows is not.
    assert whole_frames("KPPPPPKPPPPPKPPP", {8: DAMAGED}, delay=2) == "......." + "xxxxx" + "...."
    # The key frame itself, which the decoder takes two frames early.
    assert whole_frames("KPPPPPKPPPPPKPPP", {6: DAMAGED}, delay=2) == "....xxxxxxxx...."


def test_an_opencv_that_names_no_types() -> None:
    """Without the frames' types, a key frame counts only when it must have come, whatever the reordering."""
    video = ("K" + "P" * 49) * 3
    seen = whole_frames(video, {10: DAMAGED}, typed=False)
    assert seen == "." * 10 + "x" * (40 + REORDERED) + "." * (100 - REORDERED)


def test_the_wait_for_a_key_frame_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A video that gets no key frame after a loss is known by the time, and a key frame ends the wait, also a damaged one."""
    now, check = 100.0, FrameCheck()
    monkeypatch.setattr(frame_check.time, "monotonic", lambda: now)
    waited = []
    for kind in "KPxPPkPK":
        now += 5.0
        losses = DAMAGED if kind in "xk" else Losses()
        check.grabbed(losses, key_packet=kind in "Kk", frame_type="I" if kind in "Kk" else "P")
        waited.append(check.waiting_s)
    assert waited == [0, 0, 0, 5, 10, 0, 0, 0]


def test_packets_that_were_read_in_advance_are_not_trusted() -> None:
    """A loss among packets that were read before the first grab may concern each of them."""
    check = FrameCheck()
    check.distrust("RTP: missed 3 packets", packets=4)
    seen = [check.grabbed(Losses(), key_packet=n % 5 == 0, frame_type="I" if n % 5 == 0 else "P") for n in range(15)]
    assert [n for n, problem in enumerate(seen) if problem is None] == [10, 11, 12, 13, 14]


def test_messages_are_read_for_what_they_mean() -> None:
    """Losses are found at every level, harmless errors are passed over, and errors before a key frame do not touch it."""
    key = (48, "nal_unit_type: 5(IDR), nal_ref_idc: 3")
    failed, gap = (16, "no frame!"), (48, "Frame num gap 7 5")
    missed, corrupt = (24, "RTP: missed 2 packets"), (24, "Packet corrupt (stream = 0, dts = 133200).")
    assert losses_in([(48, "nal_unit_type: 1(Coded slice), nal_ref_idc: 2"), (24, "deprecated pixel format used")]) == Losses()
    assert losses_in([(16, "SEI type 5 size 40 truncated at 8")]) == Losses()
    assert losses_in([(32, "concealing 160 DC, 160 AC, 160 MV errors in P frame")]).here
    assert losses_in([gap]) == Losses(before=gap[1])
    assert losses_in([failed, key]) == Losses(before=failed[1])
    assert losses_in([key, failed]) == Losses(here=failed[1])
    assert losses_in([missed, key]) == Losses(here=missed[1])
    assert losses_in([corrupt, key]) == Losses(here=corrupt[1], after=corrupt[1])


def test_frames_that_the_decoder_drops_before_a_key_frame_do_not_touch_it() -> None:
    """H.265 frames without their references are dropped until the key frame, all in one grab."""
    inter, parameters = (48, "nal_unit_type: 1(TRAIL_R), nuh_layer_id: 0"), (48, "nal_unit_type: 33(SPS), nuh_layer_id: 0")
    key, gone = (48, "nal_unit_type: 19(IDR_W_RADL), nuh_layer_id: 0"), (16, "Error constructing the frame RPS.")
    missed, corrupt = (24, "RTP: missed 2 packets"), (24, "Packet corrupt (stream = 0, dts = 133200).")
    dropped = [inter, gone, inter, gone]
    assert losses_in([*dropped, parameters, key]) == Losses(before=gone[1], dropped=True)
    # The protocol's reader speaks of the packet that it reads, the container's of the one after it.
    assert losses_in([missed, *dropped, parameters, key]).here == ""
    assert losses_in([*dropped, missed, parameters, key]).here == missed[1]
    assert losses_in([corrupt, *dropped, parameters, key]).here == ""
    assert losses_in([inter, gone, corrupt, inter, gone, parameters, key]).here == corrupt[1]
    after = losses_in([*dropped, corrupt, parameters, key])
    assert (after.here, after.after) == ("", corrupt[1])


def test_frames_that_lead_a_key_frame_and_are_dropped_harm_none_after_it() -> None:
    """After a loss the frames that are shown before an open key frame are dropped; those after it are whole."""
    key, leading = (48, "nal_unit_type: 21(CRA_NUT), nuh_layer_id: 0"), (48, "nal_unit_type: 9(RASL_R), nuh_layer_id: 0")
    gone, dropped = (16, "Could not find ref with POC 96"), (16, "Error constructing the frame RPS.")
    corrupt = (24, "Packet corrupt (stream = 0, dts = 133200).")
    assert losses_in([key, leading, gone, dropped]) == Losses()
    assert losses_in([leading, gone]) == Losses(before=gone[1])  # it was not dropped
    assert losses_in([leading, dropped, corrupt]).here == corrupt[1]
    assert losses_in([(48, "nal_unit_type: 1(TRAIL_R), nuh_layer_id: 0"), gone, dropped]).here == dropped[1]


def test_a_damaged_packet_that_was_dropped_does_not_touch_the_key_frame() -> None:
    """What the container's reader announced for the next packet concerned a frame that the decoder dropped."""
    check, kinds = FrameCheck(), "KPPKPP"
    losses = {2: READ_BADLY, 3: Losses(before="Error constructing the frame RPS.", dropped=True)}
    seen = [
        check.grabbed(losses.get(n, Losses()), key_packet=k == "K", frame_type="I" if k == "K" else "P")
        for n, k in enumerate(kinds)
    ]
    assert [problem is None for problem in seen] == [True, True, False, True, True, True]
