"""The topic image.<camera>: pictures of judged parts for those who subscribe, and never at the cost of verdicts."""

import json
import socket as socketlib
import time
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import zmq
from support.anosegd_line import Line, run_anosegd, wait_until
from support.tiny_bundle import bad_part, good_part
from support.zmtp import frame, handshake

from anosegd.client import Client
from anosegd.publish.images import Subscriptions

LOOP = "top:\n  source: {kind: folder, path: images, fps: 20, loop: true}\n  policy: every\n"
REGION = "  region: {x: 10, y: 5, width: 60, height: 40}\n"


def write(folder: Path, size: int = 0) -> None:
    folder.mkdir()
    for i, image in enumerate((good_part(), bad_part())):
        if size:
            image = np.random.default_rng(i).integers(0, 256, (size, size, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), image)


def test_a_subscriber_sees_the_picture_of_each_verdict(line: Line) -> None:
    """The picture is that of the part whose number it has, cut to the region; the header fits the schema."""
    write(line.folder / "images")
    line.run(line.config(LOOP + REGION))
    line.listener.wait_for_verdicts(3)  # subscribed to everything, which asks for no pictures
    assert not [m for m in line.listener.received if m.topic.startswith("image")]
    schema = json.loads(run_anosegd("schema").stdout)["image"]
    with Client(line.endpoint) as client:
        pictures = client.pictures("top")
        for picture in (next(pictures) for _ in range(6)):
            jsonschema.validate(picture.header, schema)
            broken = {k: v for k, v in picture.header.items() if k != "station"}
            assert not jsonschema.Draft202012Validator(schema).is_valid(broken)
            assert picture.header["region"] == {"x": 10, "y": 5, "width": 60, "height": 40}
            seq = picture.header["seq"]
            wait_until(lambda: line.listener.take() is None or line.listener.verdicts[-1]["seq"] >= seq, "verdict")  # noqa: B023
            (verdict,) = [v for v in line.listener.verdicts if v["seq"] == picture.header["seq"]]
            image = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            assert image.shape == (40, 60, 3) == (picture.header["height"], picture.header["width"], 3)
            expected = (bad_part() if verdict["outcome"] == "FAIL" else good_part())[5:45, 10:70]
            assert np.abs(image.astype(int) - expected).mean() < 4
        pictures.close()
        masks = client.pictures("top", topic="mask")
        mask = next(masks)
        assert (mask.header["schema"], mask.data[:4]) == ("anoseg.mask/1", b"\x89PNG")
        masks.close()


def test_pictures_end_with_the_last_subscriber(line: Line) -> None:
    """Nothing is encoded while nobody subscribes; a subscriber to another camera gets nothing."""
    write(line.folder / "images")
    line.run(line.config(LOOP))
    context = zmq.Context()
    with context, context.socket(zmq.SUB) as subscriber:
        subscriber.linger = 0
        subscriber.subscribe(b"image.top")
        subscriber.connect(line.endpoint)
        line.listener.wait_for(lambda m: m.topic == "image.top")  # the listener receives what others have started
        subscriber.unsubscribe(b"image.top")
        subscriber.subscribe(b"image.top2")
        give_up_at = time.monotonic() + 30
        while "image.top" in {m.topic for m in (line.listener.take() for _ in range(40)) if m is not None}:
            assert time.monotonic() < give_up_at


def test_nobody_ends_the_pictures_of_others(line: Line) -> None:
    """One client ends a subscription that it does not have, another one that it has twice, and a third one disconnects."""
    write(line.folder / "images")
    line.run(line.config(LOOP))
    begin, end = frame(b"\1image.top"), frame(b"\0image.top")
    context = zmq.Context()
    with context, context.socket(zmq.SUB) as subscriber:
        subscriber.linger = 0
        subscriber.subscribe(b"image.top")
        subscriber.connect(line.endpoint)
        for sent in (end, begin + end, begin + begin + end + end, begin + begin, begin):
            assert subscriber.poll(30_000), "there are pictures before"
            with socketlib.socket(socketlib.AF_UNIX) as peer:
                peer.settimeout(10)
                peer.connect(line.endpoint.removeprefix("ipc://"))
                handshake(peer, b"SUB")
                peer.sendall(sent)
                time.sleep(0.5)  # until it has been taken
            time.sleep(0.5)  # until the daemon knows that the connection has ended
            while subscriber.poll(0):
                subscriber.recv_multipart()
            assert subscriber.poll(30_000), f"no picture after {sent!r}"


def test_a_subscriber_that_does_not_read_costs_no_memory_and_no_verdict(line: Line) -> None:
    """The daemon keeps a limited amount of pictures for it, and every verdict goes out."""
    write(line.folder / "images", size=1200)  # JPEG of about 1.3 MB
    daemon = line.run(line.config(LOOP))
    line.listener.wait_for_verdicts(2)
    context = zmq.Context()
    with context, context.socket(zmq.SUB) as subscriber:
        subscriber.linger = 0
        subscriber.rcvhwm = 1
        subscriber.rcvbuf = 4096
        subscriber.subscribe(b"image.top")
        subscriber.connect(line.endpoint)

        def memory_mb() -> float:
            status = Path(f"/proc/{daemon.process.pid}/status").read_text()
            return int(status.split("RssAnon:")[1].split()[0]) / 1024

        line.listener.wait_for(lambda m: m.topic == "image.top")
        before = memory_mb()
        n = len(line.listener.verdicts)
        line.listener.wait_for_verdicts(n + 150)
        assert memory_mb() - before < 150  # 150 pictures of 1.3 MB would be 195 MB
    assert daemon.terminate() == 0
    line.listener.drain()
    seqs = [v["seq"] for v in line.listener.verdicts]
    assert seqs == list(range(1, len(seqs) + 1))


def test_pictures_can_be_turned_off(line: Line) -> None:
    """With publish.images false, no subscription brings any."""
    write(line.folder / "images")
    config = line.config(LOOP)
    config.write_text(config.read_text().replace(f"'{line.endpoint}'", f"'{line.endpoint}', images: false"))
    line.run(config)
    with Client(line.endpoint) as client:
        assert list(client.pictures("top", idle_s=3.0)) == []
    assert line.listener.wait_for_verdicts(3)


def test_only_subscriptions_to_images_count() -> None:
    """A subscription to a prefix of an image's topic counts until it ends; one to everything never does."""
    subscribers: dict[bytes, int] = {}
    subscriptions = Subscriptions()
    subscriptions.follow(subscribers)
    subscribers |= {b"": 1, b"im": 1, b"verdict.top": 1}
    assert not subscriptions.want("top")
    for topic in (b"image", b"image.to", b"image.top"):
        subscribers[topic] = 1
        assert subscriptions.want("top")
        assert subscriptions.want("side") == (topic == b"image")
        del subscribers[topic]
        assert not subscriptions.want("top")
