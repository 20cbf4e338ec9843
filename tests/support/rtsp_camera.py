"""An RTSP camera, made with GStreamer: `/usr/bin/python3 rtsp_camera.py PORT [OPTIONS]`. Needs the system's Python.

It shows noise that fills the picture, or a still part with a sensor's noise. It prints `ready` when it listens. A line on its
standard input changes what it sends, as a camera with a fault would:

    repeat     the encoder is given one picture again and again, under stamps that advance
    stop       the stamps stand still, while pictures go on
    jump N     the stamps jump by N seconds
    fine       everything as it should be
    good, bad  a good or a defective part is in the picture

Without PORT it only checks that GStreamer has the elements it needs.

Debian: gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly
"""

import argparse
import random
import sys
import threading
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

# Noise with little contrast: the tests' bundle passes it, and no two pictures are equal.
SNOW = (
    "videotestsrc is-live=true pattern=snow ! videobalance contrast=0.25 brightness=0.3"
    " ! video/x-raw,width={width},height={height},framerate={rate}/1"
)
STILL = (
    "appsrc name=source is-live=true format=time block=true"
    " caps=video/x-raw,format=GRAY8,width={width},height={height},framerate={rate}/1"
)
X264 = "x264enc tune=zerolatency speed-preset=ultrafast {quality} key-int-max={key}"
CODECS = {
    "h264": f"videoconvert ! video/x-raw,format=I420 ! {X264} ! rtph264pay name=pay0 pt=96",
    "mjpeg": "videoconvert ! video/x-raw,format=I420 ! jpegenc quality=85 ! rtpjpegpay name=pay0 pt=26",
}
LEVEL, PICTURES = 125, 40
"""The tests' bundle passes a part of this grey."""
EARLIER_NS = 3600 * Gst.SECOND
"""So far the time stamps can jump back."""


class Camera(GstRtspServer.RTSPMediaFactory):
    """Makes a stream for each client."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self._options = options
        self.repeat = self.stop = self.bad = False
        self.jump_ns = 0
        seeds = range(PICTURES if options.still else 0)
        self.pictures = {bad: [self._picture(bad, seed) for seed in seeds] for bad in (False, True)}

    def do_create_element(self, url: object) -> Gst.Element:
        options = self._options
        values = {"width": options.width, "height": options.height, "rate": options.rate, "key": options.key}
        quality = f"pass=quant quantizer={options.quantizer}" if options.quantizer else ""
        source = (STILL if options.still else SNOW).format(**values)
        codec = CODECS[options.codec].format(**values, quality=quality)
        element = Gst.parse_launch(f"( {source} ! {codec} )")
        Stamps(self, element.get_by_name("pay0"))
        if options.still:
            threading.Thread(target=self._feed, args=(element.get_by_name("source"),), daemon=True).start()
        return element

    def command(self, line: str) -> None:
        """Act on a line of standard input."""
        word, _, value = line.strip().partition(" ")
        if word == "jump":
            self.jump_ns += int(float(value) * Gst.SECOND)
        elif word in ("good", "bad"):
            self.bad = word == "bad"
        else:
            self.repeat, self.stop = word == "repeat", word == "stop"

    def _feed(self, source: Gst.Element) -> None:
        """Push pictures at the camera's pace, until the client has gone."""
        period, number = Gst.SECOND // self._options.rate, 0
        began, last = time.monotonic(), None
        while True:
            time.sleep(max(0.0, began + number * period / Gst.SECOND - time.monotonic()))
            if last is None or not self.repeat:
                pictures = self.pictures[self.bad]
                fresh = bytes(LEVEL + random.randrange(-6, 7) for _ in range(self._options.width))  # a row like no other
                last = fresh + pictures[number % len(pictures)][self._options.width :]
            buffer = Gst.Buffer.new_wrapped(last)
            buffer.pts = buffer.dts = number * period
            buffer.duration = period
            number += 1
            if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK and number > self._options.rate:
                return

    def _picture(self, bad: bool, seed: int) -> bytes:
        """A still part with a sensor's noise: grey, shaded from left to right; a defective one has a white block."""
        rng, options = random.Random(seed), self._options
        width, height = options.width, options.height
        noise = [round(rng.gauss(0, options.noise)) for _ in range(width * 8)]
        rows = bytearray()
        for y in range(height):
            shift = rng.randrange(len(noise) - width) if len(noise) > width else 0
            row = [LEVEL + x * 12 // width + noise[shift + x] for x in range(width)]
            if bad and height // 4 <= y < height // 2:
                row[width // 4 : width // 2] = [250] * (width // 2 - width // 4)
            rows += bytes(min(255, max(0, value)) for value in row)
        return bytes(rows)


class Stamps:
    """Makes the RTP time stamps of one stream."""

    def __init__(self, camera: Camera, payloader: Gst.Element) -> None:
        self._camera = camera
        self._true_ns = self._stamp_ns = 0
        payloader.get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, self._stamp)
        both = Gst.PadProbeType.BUFFER | Gst.PadProbeType.BUFFER_LIST
        payloader.get_static_pad("src").add_probe(both, self._restore)

    def _stamp(self, pad: Gst.Pad, info: Gst.PadProbeInfo) -> Gst.PadProbeReturn:
        """Set the time that becomes the RTP time stamp."""
        buffer = info.get_buffer()
        self._true_ns = buffer.pts
        if not self._camera.stop:
            self._stamp_ns = EARLIER_NS + buffer.pts + self._camera.jump_ns
        buffer.pts = buffer.dts = self._stamp_ns
        return Gst.PadProbeReturn.OK

    def _restore(self, pad: Gst.Pad, info: Gst.PadProbeInfo) -> Gst.PadProbeReturn:
        """Put the true time back: it tells GStreamer when to send the packets."""
        if info.type & Gst.PadProbeType.BUFFER_LIST:
            packets = [info.get_buffer_list().get(i) for i in range(info.get_buffer_list().length())]
        else:
            packets = [info.get_buffer()]
        for packet in packets:
            packet.pts = packet.dts = self._true_ns
        return Gst.PadProbeReturn.OK


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", nargs="?")
    parser.add_argument("--still", action="store_true", help="a still part instead of moving noise")
    parser.add_argument("--codec", choices=CODECS, default="h264")
    parser.add_argument("--key", type=int, default=5, help="a key frame every so many frames (5)")
    parser.add_argument("--noise", type=float, default=1.0, help="standard deviation of the sensor's noise in grey values (1)")
    parser.add_argument("--quantizer", type=int, default=0, help="H.264's quantizer; 0: constant bit rate")
    parser.add_argument("--rate", type=int, default=25, help="frames per second (25)")
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--height", type=int, default=120)
    options = parser.parse_args()
    Gst.init(None)
    needed = ("videotestsrc", "videobalance", "videoconvert", "appsrc", "x264enc", "rtph264pay", "jpegenc", "rtpjpegpay")
    if missing := [name for name in needed if not Gst.ElementFactory.find(name)]:
        print(f"GStreamer lacks {', '.join(missing)}")
        return 1
    if options.port is None:
        return 0
    camera = Camera(options)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=options.port)
    server.get_mount_points().add_factory("/live", camera)
    if server.attach(None) == 0:
        print("cannot listen")
        return 1
    print("ready", flush=True)
    threading.Thread(target=lambda: [camera.command(line) for line in sys.stdin], daemon=True).start()
    GLib.MainLoop().run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
