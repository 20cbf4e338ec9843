"""An RTSP camera that plays a video file and loses packets: `/usr/bin/python3 lossy_rtsp_camera.py PORT FILE CODEC SHARE`.

It needs the system's Python and prints `ready` when it listens. CODEC is h264 or h265, SHARE the share of RTP packets lost.

Debian: gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer


def main() -> int:
    port, file, codec, share = sys.argv[1:]
    Gst.init(None)
    # What the server takes for the payloader drops packets, so that they lack in the sequence that the client sees.
    launch = (
        f"( filesrc location={file} ! tsdemux ! {codec}parse ! rtp{codec}pay pt=96 mtu=600"
        f" ! identity name=pay0 drop-probability={share} )"
    )
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    server.get_mount_points().add_factory("/live", GstRtspServer.RTSPMediaFactory(launch=launch))
    if server.attach(None) == 0:
        print("cannot listen")
        return 1
    print("ready", flush=True)
    GLib.MainLoop().run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
