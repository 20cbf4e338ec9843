"""The table of bad inputs: what a user does, and what the program must answer. `test_bad_inputs.py` runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anosegd.control.requests import MAX_PART_ID

Make = Callable[[Path], object]
"""Changes the folder in which the command runs."""


def nothing(_: Path) -> None:
    """The command alone is the bad input."""


@dataclass(frozen=True)
class Row:
    """A bad input.

    Attributes:
        command: What the user types, or, as bytes, a message to the control socket.
        outcome: The exit code; for a message, the error code of the answer.
        words: All of them appear in the answer: the file, key, line or option at fault, and what is wrong with it.
        make: Makes the bad input in the folder in which the command runs. There are already: `c.yaml`, a valid configuration;
            `store/1`, a bundle; `images`, 12 good images; `data`, images and masks in the MVTec AD layout.
    """

    command: str | bytes
    outcome: int | str
    words: tuple[str, ...]
    make: Make = nothing


CAMERA = "engine: {bundle: store}\ncameras:\n  a:\n    source: {kind: folder, path: images}\n    policy: wait\n"
"""A valid configuration. What rows add is in line 6."""


# ---- how bad inputs are made


def own(folder: Path, name: str) -> Path:
    """Give the row a copy of a folder that the rows share."""
    path = folder / name
    if path.is_symlink():
        shared = path.resolve()
        path.unlink()
        shutil.copytree(shared, path)
    return path


def text(name: str, content: str | bytes) -> Make:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def picture(name: str, content: bytes | np.ndarray[Any, Any]) -> Make:
    """Put a file or an image into a copy of one of the shared folders."""

    def make(folder: Path) -> None:
        path = own(folder, Path(name).parts[0]) / Path(*Path(name).parts[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else cv2.imencode(path.suffix, content)[1].tobytes())

    return make


def linked(name: str) -> Make:
    """Put a link in the place of a file; it leads nowhere."""

    def make(folder: Path) -> None:
        without(name)(folder)
        (folder / name).symlink_to("none")

    return make


def without(name: str) -> Make:
    def make(folder: Path) -> None:
        path = own(folder, Path(name).parts[0]) / Path(*Path(name).parts[1:])
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def manifest(**changes: object) -> Make:
    """Change the bundle's manifest."""

    def make(folder: Path) -> None:
        path = own(folder, "store") / "1" / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return make


def config(content: str | bytes, *words: str, command: str = "anosegd check c.yaml", outcome: int = 2) -> Row:
    """A whole configuration."""
    return Row(command, outcome, ("c.yaml", *words), text("c.yaml", content))


def camera(line: str, *words: str) -> Row:
    """A line that is added to the camera, and refused as line 6."""
    return config(f"{CAMERA}    {line}\n", "line 6", *words)


def source(line: str, *words: str) -> Row:
    """Another source, refused as line 4."""
    content = CAMERA.replace("{kind: folder, path: images}", line).replace("policy: wait", "policy: latest")
    return config(content, "line 4", "cameras.a.source", *words)


def top(line: str, *words: str) -> Row:
    """A line at the end of the configuration, refused as line 6."""
    return config(f"{CAMERA}{line}\n", "line 6", *words)


def engine(line: str, *words: str) -> Row:
    """Another line 1."""
    return config(CAMERA.replace("engine: {bundle: store}", line), "line 1", *words)


def checked(content: str, outcome: int, *words: str) -> Row:
    """A configuration that can be read, and is then compared with what there is."""
    return Row("anosegd check c.yaml", outcome, words, text("c.yaml", content))


def live(line: str, outcome: int, *words: str) -> Row:
    """A source that can be read, and is then checked."""
    content = CAMERA.replace("{kind: folder, path: images}", line).replace("policy: wait", "policy: latest")
    return checked(content, outcome, *words)


def train(content: str, *words: str) -> Row:
    """A training configuration."""
    return Row("anoseg-train fit --data images --out store2/x --config t.yaml", 2, ("t.yaml", *words), text("t.yaml", content))


def fleet(content: str, *words: str, options: str = "", make: Make = nothing) -> Row:
    """A file of products."""

    def both(folder: Path) -> None:
        text("p.yaml", content)(folder)
        make(folder)

    return Row(f"anoseg-train fleet p.yaml{options}", 2, words, both)


def message(fields: str | dict[str, object], error: str, *words: str) -> Row:
    """A message to the control socket."""
    return Row(fields.encode() if isinstance(fields, str) else json.dumps(fields).encode(), error, words)


STEPS = np.arange(48 * 80).reshape(48, 80).astype(np.uint8)
GREY = np.full((48, 80, 3), 128, np.uint8)
JPEG = cv2.imencode(".jpg", GREY)[1].tobytes()
MASK = np.zeros((48, 80), np.uint8)
MASK[10:20, 10:20] = 255

EVALUATE = "anoseg-train evaluate --bundle store --data data"
CALIBRATE = "anoseg-train calibrate --bundle store --data images"
VERIFY = "anoseg-engine verify store/1"
REINSPECT = "anoseg-engine reinspect --bundle store --out o --images "

# ---- the rows

YAML = [
    config("", "line 1", "'engine' is missing"),
    config("# nothing\n", "'engine' is missing"),
    config("- 1\n", "line 1", "expected a mapping"),
    config("engine: {bundle: store}\n", "line 1", "'cameras' is missing"),
    config("engine: {bundle: store}\ncameras: {}\n", "line 2", "cameras", "must not be empty"),
    config("engine: [\n", "line 2", "not valid YAML"),
    config("cameras:\n\ta: 1\n", "line 2", "not valid YAML", "\\t"),
    config(CAMERA + "---\nx: 1\n", "line 6", "another document"),
    config(b"\xff\xd8\xff\xe0 JPEG", "line 1", "not UTF-8 text"),
    config(CAMERA.encode() + "# Prüfplatz\n".encode("latin-1"), "line 6", "not UTF-8 text", "save the file as UTF-8"),
    config(CAMERA + "station: a\0b\n", "line 6", "U+0000"),
    config("a" * (2 << 20), "larger than", "not a configuration"),
    config("[" * 100_000, "nested too deep"),
    config(CAMERA + "a: &a {b: *a}\n", "nested more than"),
    config(CAMERA.replace("engine:", "engin:"), "line 1", "engin: unknown key", "did you mean 'engine'?"),
    config(CAMERA + "engine: {bundle: y}\n", "line 6", "engine: appears twice"),
    config(CAMERA + "  a: {source: {kind: demo}}\n", "line 6", "cameras.a: appears twice"),
    config(CAMERA + "  b: {<<: 1}\n", "line 6", "cameras.b.<<"),
    config(CAMERA + "? [a]\n: 1\n", "line 6", "a key must be plain text"),
    top("format: 2", "format 2", "update anoseg-edge"),
    top("format: one", "'one' is not a format"),
    top("station: !!python/object/apply:os.getcwd []", "station", "YAML tag"),
    top("station: on", "station", "without quotes, YAML reads on as true", "'on'"),
    source("{kind: folder, path: images, fps: 1e400}", "fps", "expected a number", "no number is so large"),
    source("{kind: folder, path: images, fps: nan}", "fps", "give a finite number"),
    top("station: 12:30", "station", "12:30 is ambiguous", "750"),
    top("station: 4", "station", "expected text", "'4'"),
    top("station: ''", "station: must not be empty"),
    top(f"station: {'x' * 65}", "station", "at most 64 characters"),
    top('station: "a\\nb"', "station", "line breaks"),
    top('station: "\\ud800"', "station", "U+D800"),
    top("exit_when_finished: 'yes'", "exit_when_finished", "expected true or false"),
    top("drain_timeout_s: -1", "drain_timeout_s", "greater than 0"),
    top("drain_timeout_s: 61", "drain_timeout_s", "at most 60"),
    top("on_journal_failure: ignore", "on_journal_failure", "'ignore' is unknown", "unknown, continue"),
]

CAMERAS = [
    camera("policy: wait", "cameras.a.policy: appears twice"),
    camera("polcy: wait", "cameras.a.polcy: unknown key", "did you mean 'policy'?"),
    camera("rotate: 45", "cameras.a.rotate", "45 is unknown", "0, 90, 180, 270"),
    camera("rotate: 010", "cameras.a.rotate", "010 is ambiguous"),
    camera("region: {x: 0100, y: 0, width: 1, height: 1}", "region.x", "0100 is ambiguous", "would be 64"),
    camera("region: {x: -1, y: 0, width: 1, height: 1}", "cameras.a.region", "at least 0"),
    camera("region: {x: 0, y: 0, width: 0, height: 1}", "cameras.a.region", "at least 1"),
    camera("region: {x: 0, y: 0, width: 1.5, height: 1}", "region.width", "whole number", "1.5"),
    camera("region: {x: 0, y: 0, width: 10}", "cameras.a.region", "'height' is missing"),
    camera("region: [0, 0, 10, 10]", "cameras.a.region", "expected a mapping"),
    camera("region: {x: 0, y: 0, width: 1000000000, height: 1000000000}", "cameras.a.region", "max_frame_mb"),
    camera("mm_per_pixel: 0,5", "cameras.a.mm_per_pixel", "expected a number", "write 0.5"),
    camera("mm_per_pixel: .nan", "cameras.a.mm_per_pixel", ".nan is not a finite number"),
    camera("recipe: 7", "cameras.a.recipe", "expected text", "'7'"),
    camera('recipe: "a\\tb"', "cameras.a.recipe", "control characters"),
    camera("deadline_ms: .inf", "cameras.a.deadline_ms", ".inf is not a finite number"),
    camera("deadline_ms: -5", "cameras.a.deadline_ms", "greater than 0", "-5"),
    camera("deadline_ms: 1:30", "cameras.a.deadline_ms", "1:30 is ambiguous"),
    camera("deadline_ms: 200 ms", "cameras.a.deadline_ms", "expected a number", "'200 ms'"),
    camera("stall_timeout_s: 1.0e+300", "cameras.a.stall_timeout_s", "at most 604800"),
    camera("open_timeout_s: 0", "cameras.a.open_timeout_s", "at least 0.5"),
    camera("max_frame_mb: 4096", "cameras.a.max_frame_mb", "at most 1024"),
    camera("queue: 0", "cameras.a.queue", "at least 1"),
    camera("review_from: 1.5", "cameras.a.review_from", "less than 1"),
    camera("score_threshold: 0", "cameras.a.score_threshold", "greater than 0"),
    camera("trigger: free", "cameras.a.trigger", "expected a mapping"),
    camera("trigger: {kind: hard}", "trigger.kind", "'hard' is unknown", "free, interval, software, hardware"),
    camera("trigger: {kind: interval, every_ms: 0}", "trigger.every_ms", "at least 1"),
    camera("trigger: {kind: interval}", "cameras.a.trigger", "'every_ms' is missing"),
    camera("rules: {name: x}", "cameras.a.rules", "expected a list"),
    camera("rules: [{name: x}, {threshold: 0.5}]", "cameras.a.rules[1]", "'name' is missing"),
    camera("rules: [{name: x, threshold: 2}]", "cameras.a.rules[0].threshold", "at most 1"),
    camera("rules: [{name: x, min_area: -1}]", "cameras.a.rules[0].min_area", "at least 0"),
    camera("rules: [{name: x, ignore: true, threshold: 0.5}]", "cameras.a.rules[0]", "ignores its region"),
    camera("rules: [{name: x}, {name: x}]", "cameras.a.rules", "same name"),
    camera("presence: {empty: images/00.png, share: 5}", "cameras.a.presence.share", "at most 1"),
    camera("quality: {darkest: 2}", "cameras.a.quality.darkest", "at most 1"),
    config(f"{CAMERA}    rules: [{{name: x, ignore: true}}]\n", "line 3", "cameras.a", "every part would pass"),
    config(f"{CAMERA}    trigger: {{kind: software}}\n", "line 3", "cameras.a", "policy: every"),
    config(CAMERA.replace("wait", "every"), "line 3", "cameras.a", "a folder has no rate"),
    config(CAMERA.replace("  a:", "  top camera:"), "line 3", "cameras.top camera", "letters, digits"),
    config(CAMERA.replace("  a:", '  "a\\n":'), "line 3", "not allowed"),
    config(CAMERA.replace("  a:", f"  {'x' * 64}:"), "line 3", "1 to 63 characters"),
    config(CAMERA.replace("wait", "sometimes"), "line 5", "cameras.a.policy", "'sometimes' is unknown", "latest, every, wait"),
]

SOURCES = [
    source("{kind: Folder, path: images}", "kind", "'Folder' is unknown", "folder, demo"),
    source("{path: images}", "'kind' is missing", "folder, demo"),
    source("folder", "expected a mapping"),
    source("{kind: folder}", "'path' is missing"),
    source("{kind: folder, path: ''}", "path", "must not be empty"),
    source('{kind: folder, path: "a\\0b"}', "path", "U+0000"),
    source("{kind: device, device: 010}", "device", "010 is ambiguous"),
    source("{kind: device, device: -1}", "device", "at least 0"),
    source("{kind: device, device: yes}", "device", "found yes"),
    source("{kind: device, device: 0, serial: 0123}", "serial", "'0123'"),
    source("{kind: device, device: 0, fourcc: MJPEG}", "fourcc", "at most 4 characters"),
    source("{kind: device, device: 0, backend: v4l2}", "backend", "was removed"),
    source("{kind: device, device: 0, fps: 0}", "fps", "at least"),
    source("{kind: url, url: 'rtsp://camera/1', transport: tpc}", "transport", "'tpc' is unknown", "tcp, udp"),
    source("{kind: url, url: ''}", "url", "must not be empty"),
    source("{kind: genicam, camera: 22012345}", "camera", "'22012345'"),
    source("{kind: genicam, camera: x, pixel_format: RGB}", "pixel_format", "choose one of", "Mono8"),
    source("{kind: genicam, camera: x, exposure_us: 1e4}", "exposure_us", "write 10000"),
    source("{kind: file}", "'path' is missing"),
    source("{kind: demo, seed: -1}", "seed", "at least 0"),
    source("{kind: demo, parts: 0}", "parts", "at least 1"),
    checked(CAMERA.replace("path: images", "path: none"), 2, "cameras.a.source", "none: no such folder"),
    checked(CAMERA.replace("path: images", "path: data"), 2, "cameras.a.source", "no images in this folder"),
    checked(CAMERA.replace("kind: folder, path: images", "kind: file, path: none.mp4"), 2, "cameras.a.source", "none.mp4"),
    checked(CAMERA.replace("kind: folder, path: images", "kind: file, path: images"), 2, "cameras.a.source", "no such file"),
    live("{kind: url, url: 'rtsp://camera:99999/1'}", 2, "cameras.a.source", "port 99999 is not a port"),
    live("{kind: url, url: 'v4l2src ! jpegdec ! appsink', backend: gstreamer}", 2, "cameras.a.source"),
    live("{kind: url, url: camera1}", 0, "warning: source.url is not an address"),
    live("{kind: url, url: 'rtsp:///1'}", 0, "warning: source.url names no host"),
    live("{kind: url, url: 'rtsp://user:ge'}", 0, "warning: source.url has a port that is not a number"),
]

RECIPES = [
    top("recipes: {b: {bundle: store}}", "recipes.b", "'cameras' is missing"),
    top("recipes: {b: {bundel: store, cameras: {a: {}}}}", "recipes.b.bundel", "did you mean 'bundle'?"),
    top("recipes: {b: {cameras: {}}}", "recipes.b.cameras", "camera 'a' is missing"),
    top("recipes: {b: {cameras: {a: {}, aa: {}}}}", "recipes.b.cameras.aa", "no such camera", "did you mean 'a'?"),
    top("recipes: {b: {cameras: {a: {regoin: null}}}}", "recipes.b.cameras.a.regoin", "did you mean 'region'?"),
    top("recipes: {b: {cameras: {a: {deadline_ms: 5}}}}", "recipes.b.cameras.a.deadline_ms", "unknown key"),
    top(
        "recipes: {b: {cameras: {a: {source: {exposure: 3}}}}}",
        "recipes.b.cameras.a.source.exposure",
        "kind folder has no such",
    ),
    config(
        "engine: {bundle: store}\ncameras: {a: {source: {kind: device, device: 0, gain: 3}}}\n"
        "recipes: {b: {cameras: {a: {source: {exposure: 3}}}}}\n",
        "recipes.b.cameras.a.source.exposure",
        "set exposure of its source in cameras",
    ),
    top("recipes: {b: {cameras: {a: {source: {width: 640}}}}}", "recipes.b.cameras.a.source.width", "unknown key"),
    top("recipes: {b: {cameras: {a: {region: {x: -1, y: 0, width: 1, height: 1}}}}}", "b.cameras.a.region", "at least 0"),
    top("recipes: {b: {cameras: {a: {rules: [{name: x, ignore: true}]}}}}", "recipes.b.cameras.a", "every part would pass"),
    top("recipes: {default: {cameras: {a: {}}}}", "recipes.default", "the default recipe has this name"),
    top('recipes: {"b\\n": {cameras: {a: {}}}}', "recipes", "control characters"),
    top("recipes: {'': {cameras: {a: {}}}}", "recipes", "must not be empty"),
    top("recipes: {'b ': {cameras: {a: {}}}}", "recipes.b : 'b ' begins or ends with a space"),
    config(f"{CAMERA}    recipe: ' a'\nrecipes: {{b: {{cameras: {{a: {{}}}}}}}}\n", "cameras.a.recipe", "begins or ends with"),
    top(f"recipes: {{{'ü' * 61}: {{cameras: {{a: {{}}}}}}}}", "up to 120 bytes, this one has 122: choose a shorter one"),
    config(f"{CAMERA}    recipe: ''\nrecipes: {{b: {{cameras: {{a: {{}}}}}}}}\n", "the default recipe needs a name"),
    config(
        f"{CAMERA}  c: {{source: {{kind: demo}}, recipe: x}}\nrecipes: {{b: {{cameras: {{a: {{}}, c: {{}}}}}}}}\n",
        "cameras.c.recipe",
        "all cameras have the same one",
    ),
    checked(
        f"{CAMERA}recipes: {{b: {{bundle: stor, cameras: {{a: {{}}}}}}}}\n", 2, "recipes.b.bundle", "did you mean 'store'?"
    ),
    checked(
        f"{CAMERA}recipes: {{b: {{cameras: {{a: {{presence: {{empty: none.png}}}}}}}}}}\n", 2, "recipes.b.cameras.a", "none.png"
    ),
    checked(
        f"{CAMERA}recipes: {{b: {{cameras: {{a: {{region: {{x: 0, y: 0, width: 900, height: 9}}}}}}}}}}\n",
        0,
        "recipe b",
        "camera a: warning: the region reaches beyond",
    ),
]

STATION = [
    *(
        top(f"publish: {{endpoint: '{endpoint}'}}", "publish.endpoint", *words)
        for endpoint, *words in [
            ("tcp://0.0.0.0:5570", "only loopback", "Set `keys`"),
            ("tcp://*:5570", "give the IP address"),
            ("tcp://camera:5570", "give the IP address"),
            ("tcp://127.0.0.1", "not an endpoint"),
            ("tcp://127.0.0.1:0", "not an endpoint"),
            ("tcp://127.0.0.1:99999", "not an endpoint"),
            ("tcp://::1:5570", "not an endpoint"),
            ("tcp://[127.0.0.1:5570", "not an endpoint"),
            ("tcp://127.0.0.1:5570 ", "not an endpoint"),
            ("udp://127.0.0.1:5570", "not an endpoint"),
            ("ipc://relative", "absolute path"),
            ("ipc:///", "name of the socket is missing"),
            ("ipc://@", "name of the socket is missing"),
            ("ipc:///" + "x" * 120, "longer than 107 bytes"),
        ]
    ),
    top("control: {endpoint: here}", "control.endpoint", "not an endpoint"),
    checked(
        f"{CAMERA}publish: {{endpoint: 'tcp://127.0.0.1:5599'}}\ncontrol: {{endpoint: 'tcp://localhost:5599'}}\n",
        *(2, "c.yaml", "control.endpoint is publish.endpoint (tcp://127.0.0.1:5599)"),
    ),
    checked(f"{CAMERA}publish: {{endpoint: 'ipc:///no/such/s'}}\n", 2, "publish.endpoint", "/no/such: no such folder"),
    checked(f"{CAMERA}publish: {{endpoint: 'ipc:///proc/version'}}\n", 2, "publish", "/proc/version is a file, not a socket"),
    top("publish: {mask_queue: 4}", "publish.mask_queue", "was removed"),
    top("journal: verdicts.db", "journal", "expected a mapping"),
    top("journal: {}", "journal", "'path' is missing"),
    top("journal: {path: ''}", "journal.path", "must not be empty"),
    top("journal: {path: v.db, sync: fast}", "journal.sync", "'fast' is unknown", "normal, full"),
    top("journal: {path: v.db, keep_days: .nan}", "journal.keep_days", ".nan is not a finite number"),
    top("journal: {path: v.db, keep_mb: 1_024}", "journal.keep_mb", "1_024", "write 1024"),
    top("evidence: kept", "evidence", "expected a mapping"),
    top("evidence: {}", "evidence", "'folder' is missing"),
    top("evidence: {folder: ''}", "evidence.folder", "must not be empty"),
    top("evidence: {folder: kept, format: bmp}", "evidence.format", "'bmp' is unknown", "png, jpeg"),
    top("evidence: {folder: kept, keep_day: 3}", "evidence", "keep_day", "keep_days"),
    top("evidence: {folder: kept, good_share: 2}", "evidence.good_share"),
    top("evidence: {folder: kept, max_gb: 0}", "evidence.max_gb"),
    top("evidence: {folder: kept, min_free: 1}", "evidence.min_free"),
    checked(f"{CAMERA}evidence: {{folder: c.yaml}}\n", 2, "evidence.folder", "c.yaml: is not a folder"),
    checked(f"{CAMERA}evidence: {{folder: images/00.png/kept}}\n", 2, "evidence.folder", "00.png: is not a folder"),
    checked(f"{CAMERA}journal: {{path: none/v.db}}\n", 2, "journal.path", "none: no such folder"),
    checked(f"{CAMERA}journal: {{path: images}}\n", 2, "journal.path", "images is not a file"),
    checked(f"{CAMERA}journal: {{path: c.yaml}}\n", 2, "journal.path", "c.yaml", "this configuration file itself"),
    checked(f"{CAMERA}journal: {{path: images/00.png}}\n", 2, "journal.path", "00.png is not a journal, but another file"),
    top("control: {endpoint: null}", "control.endpoint", "expected text, found nothing"),
    config(f"{CAMERA}    trigger: {{kind: software}}\n".replace("wait", "every"), "control"),
    engine("engine: store", "engine", "expected a mapping"),
    engine("engine: {}", "engine", "'bundle' is missing"),
    engine("engine: {bundle: }", "engine.bundle", "expected text"),
    engine("engine: {bundle: store, runtime: CPU}", "engine.runtime", "'CPU' is unknown", "cpu-bf16"),
    engine("engine: {bundle: store, threads: 999}", "engine.threads", "at most 256"),
    engine("engine: {bundle: store, threads: 2.0}", "engine.threads", "whole number", "write 2"),
    engine("engine: {bundle: store, build: maybe}", "engine.build", "true or false"),
    engine("engine: {bundle: store, prove_every_min: 0}", "engine.prove_every_min", "greater than 0"),
    checked(CAMERA.replace("bundle: store", "bundle: none"), 2, "none: no such bundle"),
    checked(CAMERA.replace("bundle: store", "bundle: images"), 2, "images", "manifest.json is missing"),
    checked(
        f"{CAMERA}    region: {{x: 0, y: 0, width: 90, height: 48}}\n", 0, "warning: the region reaches beyond 00.png (80×48)"
    ),
    checked(f"{CAMERA}    review_from: 0.9\n", 0, "warning: review_from 0.9 is not below the threshold 0.5"),
    checked(f"{CAMERA}    presence: {{empty: none.png}}\n", 2, "cameras.a", "presence.empty", "none.png"),
    checked(f"{CAMERA}    presence: {{empty: c.yaml}}\n", 2, "cameras.a", "c.yaml", "not a readable image"),
    checked(
        f"{CAMERA}    rules: [{{name: far, region: {{x: 500, y: 0, width: 9, height: 9}}}}]\n"
        "    region: {x: 0, y: 0, width: 80, height: 48}\n",
        *(2, "cameras.a", "rule 'far'", "does not touch the part"),
    ),
]

TRAINING = [
    train("trainning: {}\n", "line 1", "trainning: unknown key", "did you mean 'training'?"),
    train("training:\n  batchsize: 3\n", "line 2", "training.batchsize", "did you mean 'batch'?"),
    train("training: {batch: many}\n", "training.batch", "whole number"),
    train("training: {batch: 1}\n", "training.batch", "at least 2"),
    train("training: {batch: 016}\n", "training.batch", "016 is ambiguous"),
    train("training: {minutes: 1:30}\n", "training.minutes", "1:30 is ambiguous"),
    train("training: {minutes: .inf}\n", "training.minutes", ".inf is not a finite number"),
    train("training: {minutes: null}\n", "training", "would never end"),
    train("training: {learning_rate: 1e-3}\n", "training.learning_rate", "write 0.001"),
    train("training: {precision: fp16}\n", "training.precision", "'fp16' is unknown", "auto, bf16, fp32"),
    train("training: {device: gpu}\n", "training.device", "'gpu' is unknown", "auto, cpu, cuda"),
    train("training: {threads: 999}\n", "training.threads", "at most 256"),
    train("training:\n\n  crop: 100\n", "line 3", "training.crop", "multiple of 32"),
    train("input: {mode: stretch}\n", "input.mode", "'stretch' is unknown", "auto, resize, tile"),
    train("input:\n  height: 100\n", "line 2", "input.height", "multiple of 32"),
    train("input: {height: 32, overlap: 32}\n", "input", "smaller than a tile"),
    train("false_reject: 1\n", "false_reject", "less than 1"),
    train("false_reject: 1%\n", "false_reject", "expected a number", "'1%'"),
    train("coordinates: no way\n", "coordinates", "true or false"),
    train("network: {encoder: resnet}\n", "network.encoder", "'resnet' is unknown", "efficientnet-lite0, scratch"),
    train("network: {widths: [16, 32]}\n", "network.widths", "exactly 5 items"),
    train("network: {widths: [16, 32, 64, 96, x]}\n", "network.widths[4]", "whole number"),
    train("network: {encoder_weights: w.pt}\n", "network", "encoder_sha256"),
    train("network: {encoder_sha256: abc}\n", "network.encoder_sha256", "'abc' is not allowed"),
    train("memory: {strides: [8, 9]}\n", "memory.strides[1]", "9 is unknown", "2, 4, 8, 16, 32"),
    train("memory: {strides: []}\n", "memory.strides", "must not be empty"),
    train("memory: {strides: [8, 8]}\n", "memory.strides", "twice"),
    train("views: {network: 0, memory: 0, whole_image: 0}\n", "views", "no image would have a score"),
    train("variation: {zoom: -0.1}\n", "variation.zoom", "at least 0"),
    train("defects: {more: 1.0}\n", "defects.more", "at most 0.95"),
    train("loss: {l1: 0, bce: 0, dice: 0}\n", "loss", "all 0"),
    train("holdout:\n  group: '('\n", "line 2", "holdout.group", "not a regular expression"),
    train("holdout: {validation: 0.5, calibration: 0.5}\n", "holdout", "must not exceed 0.8"),
    train("format: 9\n", "format 9"),
    Row("anoseg-train fit --data images --out store2/x --config none.yaml", 2, ("none.yaml", "cannot be read")),
    Row("anoseg-train fit --data images --out store2/x --config images", 2, ("images", "cannot be read")),
]

ONE_PRODUCT = "store: s\nproducts:\n  a: {data: images}\n"
"""A valid file of products."""

FLEET = [
    fleet("store: s\n", "p.yaml, line 1", "'products' is missing"),
    fleet("store: s\nproducts: {}\n", "p.yaml, line 2", "products: must not be empty"),
    fleet(ONE_PRODUCT + "minuts: 3\n", "p.yaml, line 4", "minuts: unknown key", "did you mean 'minutes'?"),
    fleet("store: s\nproducts:\n  a: {data: images, gpu: 1}\n", "p.yaml, line 3", "products.a.gpu: unknown key", "'gpus'"),
    fleet("store: s\nproducts:\n  a: {}\n", "p.yaml, line 3", "products.a: 'data' is missing"),
    fleet("store: s\nproducts:\n  a/b: {data: images}\n", "p.yaml, line 3", "'a/b' is not allowed", "letters, digits"),
    fleet(ONE_PRODUCT + "  a: {data: images}\n", "p.yaml, line 4", "products.a: appears twice"),
    fleet("store: s\nproducts:\n  plans: {data: images}\n", "p.yaml", "products.plans", "cannot be named 'plans'"),
    fleet(
        "store: s\nproducts:\n  fleet.html: {data: images}\n",
        "p.yaml",
        "products.fleet.html",
        "because a file of the report is",
    ),
    fleet(ONE_PRODUCT + "gpus: 1.5\n", "p.yaml, line 4", "gpus", "must be at most 1, found 1.5"),
    fleet(ONE_PRODUCT + "cores: 0\n", "p.yaml, line 4", "cores", "at least 1"),
    fleet(ONE_PRODUCT + "cores: 4096\n", "a needs 4096 cores; this machine has", "--ray"),
    fleet(ONE_PRODUCT + "cores: 4096\n", "a needs 4096 cores; this machine has", options=" --dry-run"),
    fleet(ONE_PRODUCT + "config: none.yaml\n", "p.yaml", "products.a: ", "none.yaml: cannot be read"),
    fleet(ONE_PRODUCT + "config: t.yaml\n", "t.yaml, line 1: trainning: unknown key", make=text("t.yaml", "trainning: 1\n")),
    fleet(
        "store: s\nproducts:\n  a: {data: none}\n  b: {data: images}\n  c: {data: gone}\n",
        *("p.yaml", "products.a: ", "none: no such folder", "products.c: ", "gone: no such folder"),
    ),
    fleet(ONE_PRODUCT + "  b: {data: images, out: s/a}\n", "p.yaml", "products.a and products.b: both would write"),
    fleet("store: c.yaml/s\nproducts:\n  a: {data: images}\n", "products.a: out: ", "c.yaml is not a folder"),
    fleet(ONE_PRODUCT, "--only aa: p.yaml has no such product", "did you mean 'a'?", options=" --only aa"),
    fleet(ONE_PRODUCT, "--ray nowhere: is not an address", options=" --ray nowhere"),
]

COMMANDS = [
    Row("anosegd", 2, ("COMMAND",)),
    Row("anosegd chek c.yaml", 2, ("chek", "check")),
    Row("anosegd check", 2, ("CONFIG",)),
    Row("anosegd check none.yaml", 2, ("none.yaml", "cannot be read")),
    Row("anosegd check images", 2, ("images", "cannot be read")),
    Row("anosegd check c.yaml --once", 2, ("--once",)),
    Row("anosegd tail c.yaml --count 0", 2, ("--count", "at least 1")),
    Row("anosegd tail c.yaml --count many", 2, ("--count", "'many' is not a whole number")),
    Row("anosegd tail c.yaml --connect tcp://127.0.0.1:1", 2, ("--connect", "not allowed with")),
    *(
        Row(f"anosegd {command} '{moment}'", 2, (option, moment))
        for command, option in [("tail c.yaml --since", "--since"), ("export c.yaml --csv x.csv --until", "--until")]
        for moment in ("25:00", "22", "yesterday", "8 h", "2026-13-01", "06.00", "1e9h", "2026-11-22T24:30")
    ),
    Row("anosegd trigger c.yaml --camera a --part-id ''", 2, ("--part-id", "is empty: leave the option out")),
    Row("anosegd trigger c.yaml --camera a --request-id ''", 2, ("--request-id", "is empty")),
    Row("anosegd trigger c.yaml --camera ''", 2, ("--camera", "is empty")),
    Row("anosegd changes c.yaml --limit 500", 2, ("--limit", "must be at most 200")),
    Row("anosegd pause c.yaml --minutes 500 --who x", 2, ("--minutes", "from 1 to 480 minutes")),
    Row("anosegd pause c.yaml --minutes 5 --who ''", 2, ("--who", "say it in words")),
    Row("anosegd export c.yaml", 2, ("--csv",)),
    Row("anosegd export c.yaml --csv none/x.csv", 2, ("none/x.csv", "none is not a folder")),
    Row("anosegd export c.yaml --csv c.yaml/x.csv", 2, ("c.yaml is not a folder",)),
    Row("anosegd export c.yaml --csv images", 2, ("images: exists already",)),
    Row(f"anosegd export c.yaml --csv {'x' * 300}", 2, ("xxx: cannot be written (File name too long)",)),
    Row("anosegd status c.yaml --timeout soon", 2, ("--timeout", "soon")),
    Row("anosegd status c.yaml --timeout nan", 2, ("--timeout", "above 0", "nan")),
    Row("anosegd status c.yaml --timeout -1", 2, ("--timeout",)),
    Row("anosegd status --connect nowhere", 2, ("nowhere",)),
    Row("anosegd status --connect tcp://127.0.0.1:99999", 2, ("99999",)),
    Row("anosegd replay --control nowhere", 2, ("nowhere",)),
    Row("anosegd replay c.yaml --from -1", 2, ("--from",)),
    Row("anosegd replay c.yaml --from 5 --to 2", 2, ("--to 2 is before --from 5",)),
    Row("anosegd trigger c.yaml", 2, ("--camera",)),
    Row("anosegd trigger c.yaml --camera a --timeout nan", 2, ("--timeout", "above 0", "nan")),
    Row("anosegd swap c.yaml", 2, ("--bundle",)),
    Row("anosegd set-threshold c.yaml", 2, ("VALUE",)),
    Row("anosegd set-threshold --control tcp://127.0.0.1:1 a 1.5 --who me --why x", 2, ("1.5",)),
    Row("anosegd set-threshold --control tcp://127.0.0.1:1 a high --who me --why x", 2, ("high",)),
    Row("anosegd set-threshold --control tcp://127.0.0.1:1 a 0.5 --who me --why ' '", 2, ("--why",)),
    Row("anosegd demo --out c.yaml/x", 2, ("--out", "c.yaml is not a folder")),
    Row("anosegd demo-images --out c.yaml", 2, ("--out", "c.yaml is not a folder")),
    Row("anosegd cameras c.yaml --out c.yaml", 2, ("--out", "c.yaml is not a folder")),
    Row("anosegd demo --fps 0", 2, ("--fps", "above 0")),
    Row("anosegd demo --fps nan", 2, ("--fps", "above 0")),
    Row("anosegd demo --seed -1", 2, ("--seed", "at least 0")),
    Row("anosegd demo --parts 0", 2, ("--parts", "at least 1")),
    Row("anosegd demo --bundle none", 2, ("none",)),
    Row("anosegd demo-images --out images", 2, ("images",)),
    Row("anosegd --print-completion fish", 2, ("fish", "bash")),
    Row("anoseg-train", 2, ("command",)),
    Row("anoseg-train train --data images", 2, ("train", "fit")),
    Row("anoseg-train fit --data images", 2, ("--out",)),
    Row("anoseg-train fit --data images --out store2/x --minutes 0", 2, ("--minutes", "0")),
    Row("anoseg-train fit --data images --out store2/x --minutes nan", 2, ("--minutes", "nan")),
    Row("anoseg-train fit --data images --out store2/x --steps 1.5", 2, ("--steps", "1.5")),
    Row("anoseg-train fit --data images --out store2/x --seed -1", 2, ("--seed", "-1")),
    Row("anoseg-train fit --data images --out store2/x --false-reject 1", 2, ("--false-reject", "share between 0 and 1")),
    Row("anoseg-train fit --data images --out store2/x --false-reject 1%", 2, ("--false-reject", "1%")),
    Row("anoseg-train fit --data images --out store2/x --quick --resume", 2, ("--quick", "--resume")),
    Row("anoseg-train fit --data images --out c.yaml", 2, ("--out", "c.yaml")),
    Row("anoseg-train fit --data images --out c.yaml/x", 2, ("--out", "c.yaml is not a folder")),
    Row("anoseg-train fit --data images --out /proc/x/y", 2, ("--out", "/proc cannot be written")),
    Row("anoseg-train fit --data images --out store2/x --work c.yaml", 2, ("--work", "c.yaml is not a folder")),
    Row("anoseg-train fit --data images --out store2/plans", 2, ("--out", "not 'plans'")),
    Row("anoseg-train fit --data images --out 'store2/my part'", 2, ("--out", "my part")),
    Row("anoseg-train evaluate --bundle store --data data --json c.yaml/x", 2, ("--json", "c.yaml is not a folder")),
    Row("anoseg-train evaluate --bundle store --data data --json images", 2, ("--json", "images: is a folder")),
    Row("anoseg-train evaluate --bundle store --data data --overlays c.yaml", 2, ("--overlays", "c.yaml is not a folder")),
    Row("anoseg-train evaluate --bundle store --data data --runtime gpu", 2, ("'gpu' is unknown", "tensorrt")),
    Row(f"{CALIBRATE} --group '('", 2, ("--group", "not a regular expression")),
    Row(f"{CALIBRATE} --config c.yaml", 2, ("--config and --camera belong together",)),
    Row(
        f"{CALIBRATE} --config c.yaml --camera b",
        2,
        ("c.yaml", "'b' is missing", "known here: a"),
    ),
    Row("anoseg-train ablate --data data --out c.yaml", 2, ("--out", "c.yaml is not a folder")),
    Row("anoseg-engine", 2, ("command",)),
    Row("anoseg-engine bench store --threads -1", 2, ("--threads", "0 to 256")),
    Row("anoseg-engine bench store --seconds 0", 2, ("--seconds", "above 0")),
    Row("anoseg-engine bench store --max-batch 0", 2, ("--max-batch", "at least 1")),
    Row("anoseg-engine bench store --runtime gpu", 2, ("--runtime", "gpu")),
    Row("anoseg-engine bench store --json c.yaml/x", 2, ("--json", "c.yaml is not a folder")),
    Row(REINSPECT + "none", 2, ("none: no such folder or list",)),
    Row(REINSPECT + "e", 2, ("e: no images in this folder or below it",), lambda folder: (folder / "e").mkdir()),
    Row(REINSPECT + "store/1/model.onnx", 2, ("store/1/model.onnx: is not a text file",)),
    Row(REINSPECT + "images/00.png", 2, ("images/00.png: is an image, not a list",)),
    Row(REINSPECT + "l", 2, ("l: the list names no images",), text("l", "\n \n")),
    Row(REINSPECT + "l", 2, ("l:2: ", "seq"), text("l", 'images/00.png\n{"file": "a", "verdict": {"seq": "x"}}\n')),
    Row(REINSPECT + "l", 2, ("l:1: ",), text("l", '{"file": "\\ud800"}\n')),
    Row(REINSPECT + "l", 2, ("none of 2 images could be inspected", "a.png"), text("l", "a.png\nb.png\n")),
    Row(REINSPECT + "images --out c.yaml", 2, ("--out c.yaml", "is not a folder")),
    Row(REINSPECT + "images --out images", 2, ("--out images: is not empty",)),
    Row(REINSPECT + "images --runtime tensorrt", 3, ("tensorrt",)),
    Row(REINSPECT + "images --runtime cpu-int8", 3, ("no INT8 network",)),
    Row(REINSPECT + "images --runtime gpu", 2, ("--runtime", "gpu")),
    Row(REINSPECT + "images --shard-size 0", 2, ("--shard-size", "at least 1")),
    Row(REINSPECT + "images --engines 2", 2, ("--engines needs --ray",)),
    Row(REINSPECT + "images --ray cluster", 2, ("--ray cluster: is not an address",)),
    Row(REINSPECT + "images --ray --threads 2", 2, ("--threads has no effect with --ray",)),
    Row(REINSPECT.replace("store", "none") + "images", 2, ("none: no such bundle",)),
    Row("anoseg-engine diff images store", 2, ("images: is not a result of",)),
    Row("anoseg-engine diff none store", 2, ("none: no such folder",)),
    Row("anoseg-engine verify none", 2, ("none: no such bundle",)),
    Row("anoseg-engine list images", 2, ("images",)),
    Row("anoseg-engine release store", 2, ("store",)),
    Row("anoseg-engine release store/7", 2, ("store/7",)),
]

BUNDLES = [
    Row(VERIFY, 2, ("store/1", "manifest.json"), without("store/1/manifest.json")),
    Row(VERIFY, 3, ("store/1", "model.onnx"), without("store/1/model.onnx")),
    Row(VERIFY, 3, ("model.onnx", "SHA-256"), picture("store/1/model.onnx", b"other")),
    Row(VERIFY, 3, ("golden/00.png", "SHA-256"), picture("store/1/golden/00.png", GREY)),
    Row(VERIFY, 3, ("manifest.json",), picture("store/1/manifest.json", b"")),
    Row(VERIFY, 3, ("manifest.json",), picture("store/1/manifest.json", b"{}")),
    Row(VERIFY, 3, ("manifest.json",), picture("store/1/manifest.json", b"\xff\xfe")),
    Row(VERIFY, 3, ("manifest.json", "score_threshold"), manifest(score_threshold=2.0)),
    Row(VERIFY, 3, ("manifest.json", "changed after it was written"), manifest(score_threshold=0.25)),
    Row(VERIFY, 3, ("manifest.json", "schema version 99"), manifest(schema_version=99)),
    Row(VERIFY, 3, ("manifest.json",), manifest(files={"../../etc/passwd": "0" * 64})),
    Row("anosegd check c.yaml", 3, ("model.onnx", "SHA-256"), picture("store/1/model.onnx", b"other")),
    Row(
        "anoseg-train evaluate --bundle store --data data",
        3,
        ("model.onnx", "SHA-256"),
        picture("store/1/model.onnx", b"other"),
    ),
    Row("anoseg-engine list store", 3, ("releases.json", "not a list of releases"), picture("store/releases.json", b"[")),
]

DATA = [
    Row("anoseg-train fit --data none --out store2/x", 2, ("none: no such folder", "--data")),
    Row("anoseg-train fit --data store --out store2/x", 2, ("store: no images found",)),
    Row("anoseg-train fit --data . --out store2/x", 2, ("no images found", "there are images in images below it")),
    Row("anoseg-train fit --data c.yaml --out store2/x", 2, ("c.yaml: is a file, not a folder",)),
    Row("anoseg-train calibrate --bundle store --data c.yaml", 2, ("c.yaml: is a file, not a folder",)),
    Row(EVALUATE.replace("data data", "data c.yaml"), 2, ("c.yaml: is a file, not a folder",)),
    Row("anoseg-train fit --data data/test/good --out store2/x", 2, ("data/test/good: 3 good images", "at least 10")),
    Row(CALIBRATE, 2, ("images/03.png", "0 bytes"), picture("images/03.png", b"")),
    Row(CALIBRATE, 2, ("images/03.png", "not a readable image"), picture("images/03.png", b"\x89PNG\r\n\x1a\n rubbish")),
    Row(CALIBRATE, 2, ("images/03.jpg", "not a whole JPEG image"), picture("images/03.jpg", JPEG[:-40] + JPEG[-2:])),
    Row(CALIBRATE, 2, ("images/03.tif", "8 or 16 bit"), picture("images/03.tif", np.zeros((48, 80), np.float32))),
    Row(
        CALIBRATE,
        2,
        ("images/03.png", "a link to something that does not exist"),
        linked("images/03.png"),
    ),
    Row(EVALUATE.replace("data data", "data none"), 2, ("none", "no such folder")),
    Row(
        EVALUATE.replace("data data", "data images"),
        2,
        ("images: a flat folder of 12 images", "ground_truth/<defect>/<name>_mask.png"),
    ),
    Row(EVALUATE, 2, ("data/test", "good and defective images are both needed"), without("data/test/good")),
    Row(EVALUATE, 2, ("data/ground_truth/spot/01_mask.png", "missing"), without("data/ground_truth/spot/01_mask.png")),
    Row(EVALUATE, 2, ("data/ground_truth/spot/00_mask.png",), picture("data/ground_truth/spot/00_mask.png", MASK[:20])),
    Row(EVALUATE, 2, ("data/ground_truth/spot/00_mask.png",), picture("data/ground_truth/spot/00_mask.png", b"rubbish")),
    Row(EVALUATE, 2, ("data/ground_truth/spot/00_mask.png",), picture("data/ground_truth/spot/00_mask.png", b"")),
    Row(
        EVALUATE,
        2,
        ("data/ground_truth/spot/00_mask.png",),
        picture("data/ground_truth/spot/00_mask.png", STEPS),
    ),
    Row(EVALUATE, 2, ("data/test/spot/00.png",), picture("data/test/spot/00.png", b"rubbish")),
    Row(EVALUATE, 0, ("not read, because of their format", "a.gif"), picture("data/test/good/a.gif", b"GIF89a")),
]

TRIGGER = {"op": "trigger", "id": 1, "camera": "a"}
MESSAGES = [
    message("", "bad_request"),
    message("{", "bad_request"),
    message("[]", "bad_request", "object"),
    message('{"op": "status"', "bad_request"),
    message("\udc80".encode("utf-8", "surrogateescape").decode("latin-1"), "bad_request"),
    message("[" * 5000, "bad_request"),
    message({"id": 1}, "bad_request", "op"),
    message({"op": "explode"}, "bad_request", "op 'explode' is unknown"),
    message({"op": 7}, "bad_request", "op"),
    message({"op": "status", "more": 1}, "bad_request", "more"),
    message({"op": "status", "id": 1.5}, "bad_request", "id"),
    message({"op": "status", "id": "x" * 65}, "bad_request", "id"),
    message({"op": "replay"}, "bad_request", "from"),
    message({"op": "replay", "from": -1}, "bad_request", "from"),
    message({"op": "replay", "from": "1"}, "bad_request", "from"),
    message({"op": "replay", "from": 1, "limit": 5000}, "bad_request", "limit"),
    message({"op": "since", "time_ns": "06:00"}, "bad_request", "time_ns"),
    message({"op": "since", "time_ns": -1}, "bad_request", "time_ns"),
    message({"op": "consumer", "name": ""}, "bad_request", "name"),
    message({"op": "consumer", "name": "../x"}, "bad_request", "name"),
    message({"op": "forget", "name": "x\n"}, "bad_request", "name"),
    message({"op": "ack", "name": "x", "journal_id": "j"}, "bad_request", "seq"),
    message({"op": "swap"}, "bad_request", "bundle"),
    message({"op": "swap", "bundle": ""}, "bad_request", "bundle is empty"),
    message({"op": "swap", "bundle": "/a\0b"}, "bad_request", "bundle", "NUL"),
    message({"op": "set_threshold", "camera": "a", "value": 1.5, "who": "x", "why": "y"}, "bad_request", "value"),
    message({"op": "set_threshold", "camera": "a", "value": "high", "who": "x", "why": "y"}, "bad_request", "value"),
    message({"op": "changes", "limit": 500}, "bad_request", "limit must be at most 200"),
    message({"op": "set_threshold", "camera": "a", "value": 0.5, "who": " ", "why": "y"}, "bad_request", "who is empty"),
    message({"op": "set_threshold", "camera": "a", "value": 0.5, "who": "x"}, "bad_request", "why"),
    message({"op": "pause", "minutes": 0.5, "who": "x"}, "bad_request", "minutes must be at least 1"),
    message({"op": "pause", "minutes": 481, "who": "x"}, "bad_request", "minutes must be at most 480"),
    message({"op": "pause", "minutes": 5, "who": " "}, "bad_request", "who is empty"),
    message({"op": "pause", "who": "x"}, "bad_request", "minutes is missing"),
    message({"op": "resume"}, "bad_request", "who is missing"),
    message({"op": "trigger"}, "bad_request", "camera is missing"),
    message(TRIGGER | {"camera": "x" * 64}, "bad_request", "camera is too long: at most 63 characters"),
    message(TRIGGER | {"part_id": ""}, "bad_request", "part_id is empty: leave it out, or give a name"),
    message(TRIGGER | {"part_id": 7}, "bad_request", "part_id must be text or nothing, not a whole number"),
    message(TRIGGER | {"part_id": "x" * (MAX_PART_ID + 1)}, "bad_request", "part_id", str(MAX_PART_ID)),
    message(TRIGGER | {"part_id": "a\0b"}, "bad_request", "part_id", "NUL"),
    message(TRIGGER | {"part": "7"}, "bad_request", "part"),
    message(TRIGGER | {"recipe": ""}, "bad_request", "recipe is empty: leave it out, or give a name"),
    message({"op": "recipe", "id": 1}, "bad_request", "name is missing"),
    message({"op": "recipe", "id": 1, "name": "base", "who": "a\nb"}, "bad_request", "who contains a control character"),
    message('{"op": "trigger", "camera": "a", "part_id": "\\ud800"}', "bad_request"),
    message(TRIGGER | {"request_id": ""}, "bad_request", "request_id is empty: leave it out"),
]

ROWS = [*YAML, *CAMERAS, *SOURCES, *RECIPES, *STATION, *TRAINING, *FLEET, *COMMANDS, *BUNDLES, *DATA, *MESSAGES]
