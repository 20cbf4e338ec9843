"""An RTSP camera with H.264, made with GStreamer: `/usr/bin/python3 rtsp_camera.py PORT`. Needs the system's Python.

Prints `ready` when it listens. Without PORT it only checks that GStreamer has the elements it needs.

Debian: gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

# Noise with little contrast: the tests' bundle passes it, and no two pictures are equal.
PIPELINE = (
    "( videotestsrc is-live=true pattern=snow ! videobalance contrast=0.25 brightness=0.3"
    " ! video/x-raw,width=160,height=120,framerate=25/1"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 ! rtph264pay name=pay0 pt=96 )"
)


def main() -> int:
    Gst.init(None)
    missing = [name for name in ("videotestsrc", "videobalance", "x264enc", "rtph264pay") if not Gst.ElementFactory.find(name)]
    if missing:
        print(f"GStreamer lacks {', '.join(missing)}")
        return 1
    if len(sys.argv) < 2:
        return 0
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=sys.argv[1])
    factory = GstRtspServer.RTSPMediaFactory(launch=PIPELINE, shared=True)
    server.get_mount_points().add_factory("/live", factory)
    if server.attach(None) == 0:
        print("cannot listen")
        return 1
    print("ready", flush=True)
    GLib.MainLoop().run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
