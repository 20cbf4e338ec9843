"""The whole daemon: images in, verdicts and masks out, received with nothing but pyzmq."""

import dataclasses
import json
import os
import socket
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.anosegd_line import Line, run_anosegd
from support.tiny_bundle import THRESHOLD, bad_part, good_part, tiny_draft, tiny_model, write_tiny_bundle

from anoseg_engines.bundle import load_bundle
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_engines.errors import DataError
from anoseg_engines.images import read_image
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import InputSpec, Region
from anosegd.capture.sources.folder import images_of

FOLDER = "top:\n  source: {kind: folder, path: images}\n  policy: wait\n"


def write_images(folder: Path, n: int, *, bad_every: int = 3) -> list[str]:
    """n images of different sizes, every `bad_every`th with a defect; returns their names in order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for i in range(n):
        image = bad_part(48 + i, 80) if i % bad_every == bad_every - 1 else good_part(48 + i, 80)
        names.append(f"{i:03}.png")
        assert cv2.imwrite(str(folder / names[-1]), image)
    return names


def test_folder_one_verdict_an_image_in_order(line: Line) -> None:
    """Every image gets one verdict, in order of name, numbered without a gap, with the score the network gives."""
    names = write_images(line.folder / "images", 30)
    daemon = line.run(line.config(FOLDER), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    verdicts = line.listener.verdicts
    assert [v["source"] for v in verdicts] == names
    assert [v["seq"] for v in verdicts] == list(range(1, 31))
    assert [v["sequence"] for v in verdicts] == list(range(1, 31))
    assert [v["outcome"] for v in verdicts] == ["FAIL" if i % 3 == 2 else "PASS" for i in range(30)]
    assert len({(v["journal_id"], v["run_id"]) for v in verdicts}) == 1
    assert len({v["part_id"] for v in verdicts}) == 30
    for v in verdicts:
        assert v["threshold"] == THRESHOLD
        assert (v["score"] >= THRESHOLD) == (v["outcome"] == "FAIL")
        assert v["engine"]["name"] == "tiny"
        assert v["engine"]["version"] == 1
        assert v["durable"] is False
        assert 0 < v["timings_ms"]["inference"] <= v["timings_ms"]["inspect"] <= v["timings_ms"]["total"]
        assert v["captured_at"] <= v["committed_at"]


def test_parts_inspected_concurrently_keep_their_own_results(line: Line) -> None:
    """With three cameras of different sizes and numbers of tiles, each verdict has the score of its own image."""
    sizes = {"one": (32, 32), "wide": (32, 144), "tall": (96, 32)}
    store = line.folder / "store" / "tiled"
    spec = InputSpec(height=32, width=32, mode="tile", scale=1.0, overlap=8)
    write_bundle(store, dataclasses.replace(tiny_draft(spec), product="tiled"))
    rng = np.random.default_rng(0)
    cameras = ""
    for name, (height, width) in sizes.items():
        (line.folder / name).mkdir()
        for i in range(40):
            image = np.full((height, width, 3), 120, np.uint8)
            y, x = rng.integers(0, height - 8), rng.integers(0, width - 8)
            image[y : y + 8, x : x + 8] = rng.integers(0, 256)
            cv2.imwrite(str(line.folder / name / f"{i:02}.png"), image)
        cameras += f"{name}:\n  source: {{kind: folder, path: {name}, preload: true}}\n  policy: wait\n"
    config = line.config(cameras, store=store)
    config.write_text(config.read_text().replace("threads: 1", "threads: 2"))
    daemon = line.run(config, "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert len(line.listener.verdicts) == 120
    engine = load_engine(load_bundle(store), threads=2)
    assert engine.parallel
    expected = {}
    for name, (height, width) in sizes.items():
        placement = engine.place(Region(0, 0, width, height))
        for path in (line.folder / name).iterdir():
            expected[name, path.name] = engine.inspect(read_image(path), placement).score
    engine.close()
    assert len(set(expected.values())) > 60
    assert {(v["camera"], v["source"]): v["score"] for v in line.listener.verdicts} == expected
    for name in sizes:
        assert [v["sequence"] for v in line.listener.verdicts if v["camera"] == name] == list(range(1, 41))


def test_defects_and_masks_are_at_the_spot(line: Line) -> None:
    """The defect's box is in camera pixels, and the decoded mask shows it at the same place."""
    write_images(line.folder / "images", 3)
    region = "  region: {x: 10, y: 5, width: 60, height: 40}\n"
    daemon = line.run(line.config(FOLDER + region), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    verdict = line.listener.verdicts[2]
    (defect,) = verdict["defects"]
    for key, value in {"x": 20, "y": 10, "width": 20, "height": 20}.items():
        assert abs(defect[key] - value) <= 1.5, defect
    masks = {m.header["seq"]: m for m in line.listener.received if m.topic == "mask.top"}
    assert set(masks) == {v["seq"] for v in line.listener.verdicts}
    header, (png,) = masks[verdict["seq"]].header, masks[verdict["seq"]].payload
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.dtype == np.uint8
    assert image.shape == (header["height"], header["width"])
    assert header["region"] == {"x": 10, "y": 5, "width": 60, "height": 40}
    ys, xs = np.nonzero(image >= 255 * THRESHOLD)
    assert abs(xs.min() / header["scale_x"] + 10 - 20) <= 1.5
    assert abs(ys.max() / header["scale_y"] + 5 - 30) <= 1.5
    order = [m.topic for m in line.listener.received if m.header.get("seq") == verdict["seq"]]
    assert order == ["verdict.top", "mask.top"]


def test_headers_fit_the_published_schema(line: Line) -> None:
    """`anosegd schema` describes the messages that are sent, UNKNOWN included."""
    write_images(line.folder / "images", 2)
    (line.folder / "images" / "001.png").write_bytes(b"")
    daemon = line.run(line.config(FOLDER), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    schemas = json.loads(run_anosegd("schema").stdout)
    assert set(schemas) == {"verdict", "mask", "image", "state"}
    seen = set()
    for message in line.listener.received:
        kind = message.topic.split(".")[0]
        seen.add(kind)
        jsonschema.Draft202012Validator(schemas[kind]).validate(message.header)
        assert message.header["schema"] == f"anoseg.{kind}/1"
        broken = {k: v for k, v in message.header.items() if k != "station"}
        assert not jsonschema.Draft202012Validator(schemas[kind]).is_valid(broken)
    assert seen == set(schemas) - {"image"}  # which only a subscription starts: see publish/test_images.py


def test_unreadable_images_are_unknown_and_named(line: Line) -> None:
    """Empty, truncated and text files are UNKNOWN, the detail names them, and the other images are inspected."""
    names = [*write_images(line.folder / "images", 6), "006.jpg"]
    folder = line.folder / "images"
    jpeg = cv2.imencode(".jpg", bad_part())[1].tobytes()
    (folder / names[6]).write_bytes(jpeg[: len(jpeg) * 55 // 100] + jpeg[-2:])  # the defect may be in what is missing
    (folder / names[1]).write_bytes(b"")
    (folder / names[2]).write_bytes((folder / names[2]).read_bytes()[:40])
    (folder / names[4]).write_text("not an image")
    daemon = line.run(line.config(FOLDER), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    verdicts = line.listener.verdicts
    assert [v["source"] for v in verdicts] == names
    for i, v in enumerate(verdicts):
        if i in (1, 2, 4, 6):
            assert (v["outcome"], v["reason"], v["score"], v["threshold"]) == ("UNKNOWN", "unreadable", None, None)
            assert names[i] in v["detail"]
        else:
            assert v["outcome"] in ("PASS", "FAIL")
    assert "Traceback" not in daemon.log


def test_images_that_are_not_whole_or_not_alone_are_unknown(line: Line) -> None:
    """What decoders show without a word: a progressive JPEG without its last scans, two JPEGs in a file, several pages."""
    folder = line.folder / "images"
    folder.mkdir()
    good, bad = (cv2.imencode(".jpg", part)[1].tobytes() for part in (good_part(), bad_part()))
    progressive = cv2.imencode(".jpg", bad_part(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    (folder / "0.jpg").write_bytes(progressive[: progressive.rindex(b"\xff\xda")] + b"\xff\xd9")
    (folder / "1.jpg").write_bytes(good + bad)
    (folder / "2.jpg").write_bytes(good + bytes(100))
    cv2.imwritemulti(str(folder / "3.tif"), [good_part(), bad_part()])
    daemon = line.run(line.config(FOLDER), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert [v["reason"] for v in line.listener.verdicts] == ["unreadable", "unreadable", None, "unreadable"]
    details = [v["detail"] for v in line.listener.verdicts]
    assert "scans are missing" in details[0]
    assert "more than one image" in details[1]
    assert "several pages" in details[3]


def test_grey_and_16_bit_images(line: Line) -> None:
    """Grey and 16-bit images are inspected like 8-bit colour images."""
    folder = line.folder / "images"
    folder.mkdir()
    grey = bad_part()[:, :, 0]
    cv2.imwrite(str(folder / "0.png"), grey)
    cv2.imwrite(str(folder / "1.png"), good_part()[:, :, 0].astype(np.uint16) * 256)
    daemon = line.run(line.config(FOLDER), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert [v["outcome"] for v in line.listener.verdicts] == ["FAIL", "PASS"]


def test_a_grey_camera_gives_the_verdicts_of_a_colour_camera(line: Line) -> None:
    """Its frames stay one channel from the file to the network: also turned, and compared with the empty place."""
    for kind in ("grey", "colour"):
        folder = line.folder / kind
        folder.mkdir()
        for i, part in enumerate((bad_part(), good_part(), np.full((48, 80, 3), 10, np.uint8))):
            cv2.imwrite(str(folder / f"{i}.png"), part[:, :, 0] if kind == "grey" else part)
    cv2.imwrite(str(line.folder / "empty.png"), np.rot90(np.full((48, 80, 3), 10, np.uint8)))
    camera = (
        "  policy: wait\n  rotate: 90\n  region: {x: 4, y: 6, width: 40, height: 70}\n"
        "  presence: {empty: empty.png, difference: 20, share: 0.05}\n"
    )
    both = "".join(f"{kind}:\n  source: {{kind: folder, path: {kind}}}\n{camera}" for kind in ("grey", "colour"))
    daemon = line.run(line.config(both), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    found = {kind: [v for v in line.listener.verdicts if v["camera"] == kind] for kind in ("grey", "colour")}
    assert [v["outcome"] for v in found["grey"]] == ["FAIL", "PASS"]  # the third image shows the empty place
    for grey, colour in zip(found["grey"], found["colour"], strict=True):
        assert (grey["score"], grey["defects"]) == (colour["score"], colour["defects"])


def test_region_beyond_the_image_is_unknown(line: Line) -> None:
    """A part that is smaller than the configured region is UNKNOWN, and the daemon goes on."""
    write_images(line.folder / "images", 3)
    daemon = line.run(line.config(FOLDER + "  region: {x: 0, y: 0, width: 80, height: 50}\n"), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert [v["reason"] for v in line.listener.verdicts] == ["region", "region", None]
    assert "reaches beyond the image" in line.listener.verdicts[0]["detail"]


def test_image_larger_than_a_slot_is_unknown(line: Line) -> None:
    """A frame larger than max_frame_mb is UNKNOWN, and the detail says what to change."""
    folder = line.folder / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.bmp"), np.full((700, 700, 3), 120, np.uint8))
    cv2.imwrite(str(folder / "1.bmp"), good_part())
    daemon = line.run(line.config(FOLDER + "  max_frame_mb: 1\n"), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    first, second = line.listener.verdicts
    assert first["reason"] == "unreadable"
    assert "raise max_frame_mb" in first["detail"]
    assert second["outcome"] == "PASS"


def blind_draft() -> BundleDraft:
    """The tiny network, but its score is NaN for an image that is 128 everywhere."""
    model = onnx.load_from_string(tiny_model())
    model.graph.node[-1].output[0] = "largest"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(1, np.float32), "one"))
    model.graph.node.extend(
        [
            helper.make_node("ReduceSum", ["map_single", "plane"], ["sum"], keepdims=0),
            helper.make_node("Div", ["sum", "sum"], ["one_or_nan"]),
            helper.make_node("Sub", ["one_or_nan", "one"], ["zero_or_nan"]),
            helper.make_node("Add", ["largest", "zero_or_nan"], ["score"]),
        ]
    )
    return dataclasses.replace(tiny_draft(), model_onnx=model.SerializeToString())


def test_part_that_the_engine_fails_on_is_unknown(line: Line) -> None:
    """If the engine fails on a part, that part is UNKNOWN: engine, and the daemon goes on."""
    folder = line.folder / "images"
    folder.mkdir()
    for i, image in enumerate((good_part(), np.full((48, 80, 3), 128, np.uint8), bad_part())):
        cv2.imwrite(str(folder / f"{i}.png"), image)
    write_bundle(line.folder / "store" / "blind", blind_draft())
    daemon = line.run(line.config(FOLDER, store=line.folder / "store" / "blind"), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    verdicts = line.listener.verdicts
    assert [(v["outcome"], v["reason"]) for v in verdicts] == [("PASS", None), ("UNKNOWN", "engine"), ("FAIL", None)]
    assert "nan" in verdicts[1]["detail"]
    assert [e["part"] for e in daemon.events if e["event"] == "part.not_inspected"] == [verdicts[1]["part_id"]]


def test_file_that_is_no_video_ends_a_run_with_once(line: Line) -> None:
    """With --once, a file without a frame ends the run with exit code 1 and a message that names it."""
    (line.folder / "v.mp4").write_text("no video")
    cameras = "film:\n  source: {kind: file, path: v.mp4}\n  policy: wait\n"
    daemon = line.run(line.config(cameras), "--once")
    assert daemon.wait() == 1
    assert "anosegd: camera film: " in daemon.log
    assert "v.mp4" in daemon.log
    assert "Traceback" not in daemon.log


def test_subfolders_when_recursive(line: Line) -> None:
    """Subfolders are inspected in one run; each verdict names the file with its folder."""
    write_images(line.folder / "images" / "b" / "deep", 2)
    write_images(line.folder / "images" / "a", 2)
    daemon = line.run(line.config(FOLDER.replace("path: images", "path: images, recursive: true")), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert [v["source"] for v in line.listener.verdicts] == ["a/000.png", "a/001.png", "b/deep/000.png", "b/deep/001.png"]


def write_video(path: Path, n: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (80, 48))
    assert writer.isOpened()
    for i in range(n):
        writer.write(bad_part() if i % 4 == 3 else good_part())
    writer.release()


def test_files_of_other_formats_are_said(line: Line) -> None:
    """A folder's files that are not read are named by check and in the log; the rarer endings of JPEG get a verdict."""
    write_images(line.folder / "images", 2)
    for name in ("x.gif", "y.avif", "notes.txt"):
        (line.folder / "images" / name).write_bytes(b"x")
    (line.folder / "images" / "z.jfif").write_bytes(cv2.imencode(".jpg", bad_part())[1].tobytes())
    words = "not read because of their format: x.gif, y.avif"
    config = line.config(FOLDER)
    assert words in run_anosegd("check", config).stdout
    daemon = line.run(config, "--once")
    assert daemon.wait() == 0, daemon.log
    assert words in daemon.log
    line.listener.drain()
    assert [(v["source"], v["outcome"]) for v in line.listener.verdicts][-1] == ("z.jfif", "FAIL")


def test_video_file_one_verdict_a_frame(line: Line) -> None:
    """Every frame of a video file is inspected, and its end ends the run."""
    write_video(line.folder / "v.avi", 25)
    daemon = line.run(line.config("film:\n  source: {kind: file, path: v.avi}\n  policy: wait\n"), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert [v["outcome"] for v in line.listener.verdicts] == ["FAIL" if i % 4 == 3 else "PASS" for i in range(25)]
    assert {m.topic for m in line.listener.received} == {"verdict.film", "mask.film", "state"}


def test_looped_sources_go_on(line: Line) -> None:
    """A looped file and a looped folder begin again, in the same order."""
    write_video(line.folder / "v.avi", 5)
    names = write_images(line.folder / "images", 3)
    cameras = (
        "film:\n  source: {kind: file, path: v.avi, loop: true}\n  policy: wait\n"
        "top:\n  source: {kind: folder, path: images, loop: true, fps: 50}\n  policy: wait\n"
    )
    daemon = line.run(line.config(cameras))
    line.listener.wait_for_verdicts(40)
    by_camera: dict[str, list[dict[str, object]]] = {"film": [], "top": []}
    while min(map(len, by_camera.values())) < 10:
        message = line.listener.wait_for(lambda m: m.topic.startswith("verdict."))
        by_camera[message.header["camera"]].append(message.header)
    assert daemon.terminate() == 0
    sources = [v["source"] for v in line.listener.verdicts if v["camera"] == "top"]
    assert sources == [names[i % 3] for i in range(len(sources))]


def test_two_cameras_share_one_engine(line: Line) -> None:
    """Each camera's verdicts are complete and in order; the station numbers them without a gap."""
    first, second = write_images(line.folder / "a", 20), write_images(line.folder / "b", 20)
    cameras = (
        "left:\n  source: {kind: folder, path: a}\n  policy: wait\n"
        "right:\n  source: {kind: folder, path: b}\n  policy: wait\n  recipe: lid\n"
    )
    daemon = line.run(line.config(cameras), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    verdicts = line.listener.verdicts
    assert [v["seq"] for v in verdicts] == list(range(1, 41))
    assert [v["source"] for v in verdicts if v["camera"] == "left"] == first
    assert [v["source"] for v in verdicts if v["camera"] == "right"] == second
    assert {v["recipe"] for v in verdicts if v["camera"] == "right"} == {"lid"}


def test_demo_line(line: Line) -> None:
    """The parts of the simulated line have part ids of their own."""
    daemon = line.run(line.config("line:\n  source: {kind: demo, fps: 50, parts: 8}\n  policy: wait\n"), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert [v["part_id"] for v in line.listener.verdicts] == [f"demo-{i:06d}" for i in range(8)]


def test_masks_off(line: Line) -> None:
    """With `masks: off` only verdicts and states are sent."""
    write_images(line.folder / "images", 3)
    config = line.config(FOLDER)
    config.write_text(config.read_text().replace("publish: {", "publish: {masks: off, "))
    daemon = line.run(config, "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert {m.topic for m in line.listener.received} == {"verdict.top", "state"}


def slow_bundle(folder: Path) -> Path:
    """A bundle that takes long for a large image, which it cuts into hundreds of tiles."""
    write_tiny_bundle(folder / "store" / "slow", InputSpec(64, 64, "tile", 1.0, 0))
    return folder / "store" / "slow"


def test_late_results_are_not_published(line: Line) -> None:
    """A part past its deadline is UNKNOWN: deadline, once; its late result is not sent."""
    folder = line.folder / "images"
    folder.mkdir()
    for i in range(4):
        cv2.imwrite(str(folder / f"{i}.bmp"), np.full((1500, 1500, 3), 120, np.uint8))
    config = line.config(FOLDER + "  deadline_ms: 1\n", store=slow_bundle(line.folder))
    daemon = line.run(config, "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert [(v["outcome"], v["reason"], v["score"]) for v in line.listener.verdicts] == [("UNKNOWN", "deadline", None)] * 4
    assert [v["source"] for v in line.listener.verdicts] == [f"{i}.bmp" for i in range(4)]


def test_overrun_is_unknown(line: Line) -> None:
    """Under policy every, each part has a verdict, in order: inspected, or UNKNOWN: overrun."""
    folder = line.folder / "images"
    folder.mkdir()
    for i in range(30):
        cv2.imwrite(str(folder / f"{i:02}.bmp"), np.full((1500, 1500, 3), 120, np.uint8))
    cameras = "top:\n  source: {kind: folder, path: images, fps: 500}\n  policy: every\n  queue: 1\n"
    daemon = line.run(line.config(cameras, store=slow_bundle(line.folder)), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    verdicts = line.listener.verdicts
    assert [v["source"] for v in verdicts] == [f"{i:02}.bmp" for i in range(30)]
    overruns = sum(v["reason"] == "overrun" for v in verdicts)
    assert {v["reason"] for v in verdicts} == {None, "overrun"}
    health = line.listener.last_state()["cameras"]["top"]
    assert (health["frames"], health["overruns"], health["dropped"]) == (30, overruns, 0)


def test_latest_drops_are_counted(line: Line) -> None:
    """Under policy latest, frames = verdicts + dropped; the newest frame is always inspected."""
    folder = line.folder / "images"
    folder.mkdir()
    for i in range(30):
        cv2.imwrite(str(folder / f"{i:02}.bmp"), np.full((1500, 1500, 3), 120, np.uint8))
    cameras = "top:\n  source: {kind: folder, path: images, fps: 500}\n  policy: latest\n"
    daemon = line.run(line.config(cameras, store=slow_bundle(line.folder)), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    verdicts = line.listener.verdicts
    health = line.listener.last_state()["cameras"]["top"]
    assert health["frames"] == 30
    assert health["dropped"] > 0
    assert health["dropped"] + len(verdicts) == 30
    assert verdicts[-1]["source"] == "29.bmp"
    assert {v["outcome"] for v in verdicts} == {"PASS"}


def test_a_version_that_is_being_copied_does_not_stop_the_line(line: Line) -> None:
    """The whole version before it inspects; log, state and `check` say so. A damaged one is exit code 3."""
    write_images(line.folder / "images", 3)
    store = line.folder / "store" / "part"
    for _ in range(3):
        write_tiny_bundle(store)
    model = store / "3" / "model.onnx"
    content = model.read_bytes()
    model.unlink()
    config = line.config(FOLDER, store=store)
    daemon = line.run(config, "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert {v["engine"]["version"] for v in line.listener.verdicts} == {2}
    (warned,) = [e for e in daemon.events if e["event"] == "bundle.passed_over"]
    assert "version 3 lacks model.onnx; version 2 is used instead" in warned["what"]
    daemon = line.run(config)  # with --once, it may end before the first heartbeat
    line.listener.wait_for_state(lambda state: "version 3 lacks" in str(state["detail"]))
    assert daemon.terminate() == 0
    checked = run_anosegd("check", str(config))
    assert checked.returncode == 0
    assert "version 3 lacks model.onnx" in checked.stdout
    model.write_bytes(content[:-1])
    assert line.run(config, "--once").wait() == 3
    model.write_bytes(content)
    daemon = line.run(config, "--once")
    assert daemon.wait() == 0
    assert "bundle.passed_over" not in daemon.log


def test_file_names_of_any_encoding(line: Line) -> None:
    """A Latin-1 name in the middle of a folder ends no camera: every file gets a verdict that names it."""
    folder = line.folder / "images"
    names = write_images(folder, 6)
    odd = b"001_gr\xf6\xdfe.png"
    (folder / names[1]).rename(os.fsdecode(bytes(folder) + b"/" + odd))
    (folder / names[3]).rename(os.fsdecode(bytes(folder) + b"/003_\xff\xfe.png"))
    Path(os.fsdecode(bytes(folder) + b"/003_\xff\xfe.png")).write_bytes(b"no image")
    Path(os.fsdecode(bytes(folder) + b"/not_read_\xe9.xyz")).touch()
    for more in ("", ", preload: true", ", recursive: true"):
        before = len(line.listener.verdicts)
        daemon = line.run(line.config(FOLDER.replace("path: images", f"path: images{more}")), "--once")
        assert daemon.wait() == 0, daemon.log
        line.listener.drain()
        verdicts = line.listener.verdicts[before:]
        assert [v["source"] for v in verdicts] == [
            "000.png",
            "001_gr\\xf6\\xdfe.png",
            "002.png",
            "003_\\xff\\xfe.png",
            "004.png",
            "005.png",
        ]
        assert [v["outcome"] for v in verdicts] == ["PASS", "PASS", "FAIL", "UNKNOWN", "PASS", "FAIL"]
        assert "003_\\xff\\xfe.png" in verdicts[3]["detail"]
        assert line.listener.last_state()["cameras"]["top"]["restarts"] == 0


@pytest.mark.parametrize("more", ["", ", preload: true", ", recursive: true"])
def test_nothing_that_is_named_like_an_image_is_passed_over(line: Line, more: str) -> None:
    """A link to nothing, a pipe, a socket and a folder are parts that cannot be inspected, and do not hold up the others."""
    folder = line.folder / "images"
    write_images(folder, 2)
    (folder / "00_link.png").symlink_to("nothing.png")
    os.mkfifo(folder / "01_pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "02_socket.bmp"))
    (folder / "03_folder.png").mkdir()
    write_images(folder / "03_folder.png", 1)
    (folder / "04_linked.png").symlink_to(line.folder)
    (folder / "other").symlink_to(line.folder)
    daemon = line.run(line.config(FOLDER.replace("path: images", f"path: images{more}")), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    details = {v["source"]: v["detail"] for v in line.listener.verdicts if v["reason"] == "unreadable"}
    assert "is a link to something that does not exist" in details["00_link.png"]
    assert "is a pipe, not an image file" in details["01_pipe.jpg"]
    assert "is a socket, not an image file" in details["02_socket.bmp"]
    assert "is a folder, not an image file" in details["04_linked.png"]
    sources = [v["source"] for v in line.listener.verdicts]
    if "recursive" in more:
        assert "03_folder.png/000.png" in sources
        (opened,) = [e for e in daemon.events if e["event"] == "camera.running"]
        assert "links to folders, which are not followed: other" in opened["source"]
    else:
        assert "is a folder, not an image file" in details["03_folder.png"]
    assert len(sources) == len(set(sources)) == 7
    assert line.listener.last_state()["cameras"]["top"]["restarts"] == 0


def test_a_subfolder_that_cannot_be_listed_is_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are missing there: that must be seen. The test's user may list every folder, so the system refuses here."""
    write_images(tmp_path / "images", 1)
    (tmp_path / "images" / "locked").mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = images_of(tmp_path / "images", recursive=True)
    assert [path.name for path in found] == ["000.png", "locked"]
    with pytest.raises(DataError, match="is a folder"):
        read_image(found[1])


def test_a_configuration_in_a_folder_of_another_encoding_is_refused(line: Line) -> None:
    """In one line, with the folder's name."""
    folder = Path(os.fsdecode(bytes(line.folder) + b"/gr\xf6\xdfe"))
    folder.mkdir()
    path = line.config(FOLDER)
    path.rename(folder / "line.yaml")
    done = run_anosegd("check", str(folder / "line.yaml"))
    assert done.returncode == 2
    assert "gr\\xf6\\xdfe: this folder's name is not UTF-8" in done.stderr
