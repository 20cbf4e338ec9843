from pathlib import Path

import msgspec
import pytest
import yaml
from support.paths import CONFIGS

from anoseg_engines.errors import ConfigError
from anoseg_engines.placement import Region
from anoseg_engines.strict_yaml import FORMAT
from anosegd.capture.config import DemoSource, FileSource, FolderSource, GenicamSource, UrlSource, concealing_element
from anosegd.config import (
    DEFAULT_CONTROL,
    CameraConfig,
    Config,
    ControlConfig,
    EngineConfig,
    EvidenceConfig,
    JournalConfig,
    PublishConfig,
    load_config,
)

SMALL = "engine: {bundle: store/x}\ncameras:\n  top:\n    policy: wait\n    source: {kind: folder, path: images}\n"


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_config(path)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return str(caught.value)


def test_reference_file_states_the_defaults() -> None:
    """configs/reference.yaml lists every key, and every optional one with the code's default."""
    raw = yaml.safe_load((CONFIGS / "reference.yaml").read_text())
    assert raw.pop("format") == FORMAT  # of the file, whatever is in it
    config = load_config(CONFIGS / "reference.yaml")
    assert set(raw) == set(Config.__struct_fields__)
    assert set(raw["engine"]) == set(EngineConfig.__struct_fields__)
    assert set(raw["publish"]) == set(PublishConfig.__struct_fields__)
    assert set(raw["journal"]) == set(JournalConfig.__struct_fields__)
    assert set(raw["control"]) == set(ControlConfig.__struct_fields__)
    assert set(raw["evidence"]) == set(EvidenceConfig.__struct_fields__)
    assert config.journal is not None
    assert config.evidence is not None
    assert config == Config(
        engine=EngineConfig(bundle=config.engine.bundle),
        cameras=config.cameras,
        journal=JournalConfig(path=config.journal.path),  # left out, there is neither journal nor control socket
        evidence=EvidenceConfig(folder=config.evidence.folder),
        control=ControlConfig(),
    )
    assert set(raw["cameras"]["device"]) == set(CameraConfig.__struct_fields__)
    for name, camera in config.cameras.items():
        source = camera.source
        assert set(raw["cameras"][name]["source"]) == {"kind", *type(source).__struct_fields__}
        required = {f.name: getattr(source, f.name) for f in msgspec.structs.fields(source) if f.required}
        policy = {"policy": camera.policy} if isinstance(source, FolderSource) else {}
        assert camera == msgspec.convert(
            {"source": {"kind": raw["cameras"][name]["source"]["kind"], **required}, **policy}, CameraConfig
        )


@pytest.mark.parametrize(
    "path",
    sorted(p for p in CONFIGS.glob("*.yaml") if not p.name.startswith(("train", "bridge", "archive", "products"))),
    ids=lambda p: p.name,
)
def test_shipped_configurations_load(path: Path) -> None:
    """Every configuration shipped with the daemon is accepted."""
    assert load_config(path).cameras


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    """Relative paths do not depend on the folder in which the daemon is started."""
    config = load(tmp_path, SMALL)
    assert config.engine.bundle == str(tmp_path / "store/x")
    source = config.cameras["top"].source
    assert isinstance(source, FolderSource)
    assert source.path == str(tmp_path / "images")


def test_everything_set_is_read(tmp_path: Path) -> None:
    """Region, deadline and a file source arrive as written."""
    config = load(
        tmp_path,
        "station: s\nengine: {bundle: /b}\n"
        "publish: {masks: off, endpoint: 'tcp://[::1]:5570'}\ncameras:\n  a-1:\n"
        "    source: {kind: file, path: v.mp4, loop: true}\n"
        "    region: {x: 1, y: 2, width: 3, height: 4}\n    deadline_ms: 80\n"
        "  b: {source: {kind: demo}, policy: every}\n",
    )
    camera = config.cameras["a-1"]
    assert camera.region == Region(1, 2, 3, 4)
    assert camera.deadline_ms == 80
    assert camera.source == FileSource(path=str(tmp_path / "v.mp4"), loop=True)
    assert config.cameras["b"].source == DemoSource()
    assert config.publish.masks is False


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("engine:", "engin:"), ["line 1: engin: unknown key", "did you mean 'engine'?"]),
        (("policy:", "polcy:"), ["line 4: cameras.top.polcy: unknown key", "did you mean 'policy'?"]),
        (("policy: wait", "policy: sometimes"), ["line 4: cameras.top.policy", "'sometimes'"]),
        (
            ("policy: wait", "policy: wait\n    deadline_ms: soon"),
            ["line 5: cameras.top.deadline_ms: expected a number", "'soon'"],
        ),
        (("policy: wait", "policy: wait\n    deadline_ms: -1"), ["line 5: cameras.top.deadline_ms", "-1"]),
        (
            ("kind: folder", "kind: foldr"),
            ["line 5: cameras.top.source.kind: 'foldr' is unknown", "device, url, genicam, file, folder, demo"],
        ),
        (("kind: folder", "kind: [folder]"), ["line 5: cameras.top.source.kind: ['folder'] is unknown", "device, url"]),
        (("kind: folder, ", ""), ["line 5: cameras.top.source: 'kind' is missing"]),
        ((", path: images", ""), ["line 5: cameras.top.source: 'path' is missing"]),
        (("{bundle: store/x}", "{bundle: 3}"), ["line 1: engine.bundle: expected text, found 3"]),
        (("{bundle: store/x}", "7"), ["line 1: engine: expected a mapping"]),
        (("cameras:", "engine: {bundle: y}\ncameras:"), ["line 2: engine: appears twice"]),
        (("  top:", "  to p:"), ["line 3: cameras.to p"]),
        (("    policy: wait\n", ""), ["line 3: cameras.top: a folder has no rate of its own", "policy: wait"]),
        (("kind: folder, path: images", "kind: device, device: 0"), ["line 3: cameras.top: a live camera cannot wait"]),
        (("policy: wait", "policy: wait\n    region: {x: 0, y: 0, width: 0, height: 4}"), ["line 5: cameras.top.region: "]),
        (
            ("engine:", "publish: {endpoint: 'tcp://0.0.0.0:5570'}\nengine:"),
            ["line 1: publish.endpoint: tcp://0.0.0.0:5570", "without keys", "Set `keys`"],
        ),
        (("engine:", "publish: {endpoint: 'tcp://*:5570'}\nengine:"), ["publish.endpoint: tcp://*:5570"]),
        (("engine:", "publish: {endpoint: 'tcp://127.0.0.1'}\nengine:"), ["not an endpoint"]),
        (("engine:", "publish: {endpoint: 'tcp://127.0.0.1:70000'}\nengine:"), ["not an endpoint"]),
        (("engine:", "publish: {endpoint: 'ipc://relative'}\nengine:"), ["absolute path"]),
        (
            ("engine:", f"publish: {{endpoint: '{DEFAULT_CONTROL}'}}\ncontrol: {{}}\nengine:"),
            ["control.endpoint is publish.endpoint"],
        ),
        (
            ("engine:", "publish: {endpoint: 'ipc:///tmp/x'}\ncontrol: {endpoint: 'ipc:///tmp/../tmp//x'}\nengine:"),
            ["control.endpoint is publish.endpoint"],
        ),
        (
            ("engine:", "publish: {endpoint: 'tcp://localhost:5570'}\ncontrol: {endpoint: 'tcp://127.0.0.1:05570'}\nengine:"),
            ["control.endpoint is publish.endpoint"],
        ),
        (("engine:", "]"), ["line 1: not valid YAML"]),
        (("engine:", "a: &a {b: *a}\nengine:"), ["nested more than"]),
        (("engine:", "day: 2024-99-99\nengine:"), ["line 1: day"]),
    ],
    ids=lambda value: value[1].strip() if isinstance(value, tuple) else "",
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], says: list[str]) -> None:
    """A mistake is refused with file, line, key and a hint."""
    message = refused(tmp_path, SMALL.replace(*change, 1))
    assert str(tmp_path / "c.yaml") in message
    for words in says:
        assert words in message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("policy: wait", f"policy: wait\n    {key}: 1"),
            [f"line 5: cameras.top.{key}: was removed", "chooses the pauses itself"],
        )
        for key in ("restart_min_s", "restart_max_s")
    ]
    + [
        (
            ("kind: folder, path: images", "kind: device, device: 0, backend: v4l2"),
            ["cameras.top.source.backend", "through v4l2"],
        ),
        (("engine:", "journal: {path: x, block: 500}\nengine:"), ["line 1: journal.block", "how many numbers"]),
        (("engine:", "publish: {mask_queue: 4}\nengine:"), ["line 1: publish.mask_queue", "8 maps"]),
        (("engine:", "publish: {send_hwm: 400}\nengine:"), ["line 1: publish.send_hwm", "2000 messages"]),
        (("engine:", "publish: {linger_ms: 400}\nengine:"), ["line 1: publish.linger_ms", "one second"]),
    ],
    ids=["restart_min_s", "restart_max_s", "backend", "block", "mask_queue", "send_hwm", "linger_ms"],
)
def test_a_removed_key_is_refused_with_what_to_do(tmp_path: Path, change: tuple[str, str], says: list[str]) -> None:
    """A key of an earlier version is named as such, with its line, and the message says what the daemon does instead."""
    message = refused(tmp_path, SMALL.replace(*change, 1))
    for words in [*says, "was removed", "delete this line"]:
        assert words in message


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    """Missing, empty, binary, huge and other files are refused in the same way."""
    for data in (
        b"",
        b"- 1\n",
        b"\x00\x01\xff",
        b"a" * (2 << 20),
        b"[" * 100_000,
        b"x: 1\n" * 3,
        b"cameras: {}\nengine: {bundle: x}\n",
    ):
        path = tmp_path / "c.yaml"
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=r"c\.yaml"):
            load_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_the_period_that_is_set_in_a_camera_is_what_its_exposure_allows() -> None:
    assert GenicamSource(camera="A-B-1", fps=20).set_period_s == 0.05
    assert GenicamSource(camera="A-B-1", fps=60, exposure_us=50_000).set_period_s == 0.05
    assert GenicamSource(camera="A-B-1", exposure_us=50_000).set_period_s == 0


def test_a_file_of_a_newer_format_is_refused_first(tmp_path: Path) -> None:
    """Whatever else is in it: its keys may be unknown here. The message names the line, both formats and what to do."""
    path = tmp_path / "c.yaml"
    text = "new_key: 1\nformat: 2\nengine: {bundle: b}\ncameras: {a: {source: {kind: demo}}}\n"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"(?s)c.yaml, line 2: format: .*format 2; this program reads .* up to 1.*update"):
        load_config(path)
    for wrong in ("0", "-1", "true", "1.0", "'1'", "null", "[1]"):
        path.write_text(text.replace("new_key: 1\n", "").replace("format: 2", f"format: {wrong}"))
        with pytest.raises(ConfigError, match=r"line 1: format: .* is not a format"):
            load_config(path)
    path.write_text(text.replace("new_key: 1\n", "").replace("format: 2", "format: 1"))
    assert load_config(path).cameras.keys() == {"a"}


PASSWORDS = {
    "address for a source": "source: 'rtsp://admin:geheim@10.0.0.9/1'",
    "address for a kind": "source: {kind: 'rtsp://admin:geheim@10.0.0.9/1'}",
    "address as a key": "source: {'rtsp://admin:geheim@10.0.0.9/1': }",
    "address as a number": "source: {kind: url, url: u, transport: 'rtsp://admin:geheim@10.0.0.9/1'}",
    "addresses in a list": "source: ['rtsp://admin:geheim@10.0.0.9/1']",
    "no scheme": "source: 'admin:geheim@10.0.0.9/1'",
    "blanks": "source: 'rtsp://admin:ge geheim @10.0.0.9/1'",
    "tag": "source: !rtsp://admin:geheim@10.0.0.9/1 {}",
    "policy": "{source: {kind: demo}, policy: 'rtsp://admin:geheim@10.0.0.9/1'}",
    "path": "source: 'rtsp://10.0.0.9/user=admin&password=geheim'",
    "query": "source: {kind: 'http://10.0.0.9/?user=admin&pwd=geheim'}",
}


@pytest.mark.parametrize("camera", PASSWORDS.values(), ids=PASSWORDS.keys())
def test_a_refused_configuration_keeps_its_passwords_to_itself(tmp_path: Path, camera: str) -> None:
    """The message names file, line and key."""
    path = tmp_path / "line.yaml"
    path.write_text(f"engine: {{bundle: b}}\ncameras:\n  a:\n    {camera}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "line 4" in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("pipeline", "element"),
    [
        ("v4l2src ! image/jpeg,width=640 ! appsink", None),
        ("nvarguscamerasrc ! video/x-raw(memory:NVMM) ! nvvidconv ! video/x-raw,format=BGR ! appsink", None),
        ("rtspsrc location=rtsp://camera/decode ! rtpjpegdepay ! appsink", None),
        ("v4l2src ! jpegdec ! videoconvert ! appsink", "jpegdec"),
        ("rtspsrc location=rtsp://camera/live!rtph264depay!avdec_h264 ! videoconvert ! appsink", "avdec_h264"),
        (
            "rtspsrc location=rtsp://camera/live ! rtph265depay ! nvv4l2decoder enable-max-performance=1 ! appsink",
            "nvv4l2decoder",
        ),
        ("uridecodebin uri=rtsp://camera/live ! videoconvert ! appsink", "uridecodebin"),
    ],
)
def test_a_pipeline_that_decodes_is_found(pipeline: str, element: str | None) -> None:
    """A decoder within GStreamer hides damage, so a pipeline that has one is refused; depayloaders and addresses are none."""
    assert concealing_element(UrlSource(url=pipeline, backend="gstreamer")) == element
    assert concealing_element(UrlSource(url=pipeline)) is None


def test_a_video_file_read_with_gstreamer_is_refused() -> None:
    """OpenCV chooses the decoder itself, and it hides damage."""
    assert concealing_element(FileSource(path="parts.mp4", backend="gstreamer")) is not None
    assert concealing_element(FileSource(path="parts.mp4")) is None
