"""Passwords that stand in the wrong key, or in words of a library, are shown nowhere."""

import io
import json
import logging
from pathlib import Path

import pytest
from support.anosegd_line import Line, run_anosegd

from anoseg_engines.errors import DataError
from anosegd import logs
from anosegd.control.requests import error_reply
from anosegd.outcome import Unknown
from anosegd.publish.verdict import _detail

ADDRESS = "rtsp://admin:geheim@10.0.0.9/1"
VALUES = {
    "address": ADDRESS,
    "no scheme": "admin:geheim@10.0.0.9/1",
    "setting": "cam?user=admin&password=geheim",
    "password with a slash": "rtsp://admin:x/geheim@10.0.0.9/1",
    "password with spaces": "rtsp://admin:x geheim @10.0.0.9/1",
}
KEYS = {
    "file": "a: {source: {kind: file, path: '%s'}}",
    "folder": "a: {source: {kind: folder, path: '%s'}, policy: wait}",
    "device": "a: {source: {kind: device, device: '%s'}}",
    "serial": "a: {source: {kind: device, device: /dev/nothing, serial: '%s'}}",
    "genicam": "a: {source: {kind: genicam, camera: '%s'}}",
    "pixel format": "a: {source: {kind: genicam, camera: c, pixel_format: '%s'}}",
    "gstreamer": "a: {source: {kind: url, backend: gstreamer, url: 'rtspsrc location=%s ! avdec_h264 ! appsink'}}",
    "presence": "a: {source: {kind: demo}, presence: {empty: '%s'}}",
    "journal": "a: {source: {kind: demo}}\njournal: {path: '%s'}",
    "bundle": "a: {source: {kind: demo}}\nengine: {bundle: '%s'}",
    "runtime": "a: {source: {kind: demo}}\nengine: {bundle: b, runtime: '%s'}",
    "endpoint": "a: {source: {kind: demo}}\npublish: {endpoint: '%s'}",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_a_password_in_any_key_is_not_printed(tmp_path: Path, tiny_store: Path, key: str, value: str) -> None:
    """`check` refuses the configuration. An address is shown with both its slashes."""
    camera, _, more = (key % value).partition("\n")
    engine = "" if more.startswith("engine") else f"engine: {{bundle: {tiny_store}}}\n"
    path = tmp_path / "line.yaml"
    path.write_text(f"{engine}{more}\ncameras:\n  {camera}\n")
    done = run_anosegd("check", str(path))
    said = done.stdout + done.stderr
    assert "geheim" not in said
    assert "rtsp:/" not in said.replace("rtsp://", "")
    assert done.returncode == 2 or value != ADDRESS


def test_a_socket_of_a_service_instance_is_no_login(tmp_path: Path, tiny_store: Path) -> None:
    """The @ of a systemd instance may be in a socket's path."""
    folder = tmp_path / "anoseg@line"
    folder.mkdir()
    path = tmp_path / "line.yaml"
    publish = f"publish: {{endpoint: 'ipc://{folder}/p'}}"
    path.write_text(f"engine: {{bundle: {tiny_store}}}\n{publish}\ncameras: {{a: {{source: {{kind: demo}}}}}}\n")
    done = run_anosegd("check", str(path))
    assert done.returncode == 0, done.stderr
    assert f"publishes at ipc://{folder}/p" in done.stdout


@pytest.mark.parametrize("key", ["recipe", "rules"])
def test_a_label_with_a_login_is_refused(tmp_path: Path, tiny_store: Path, key: str) -> None:
    """Labels are copied into verdicts."""
    label = (
        f"recipe: '{ADDRESS}'"
        if key == "recipe"
        else f"rules: [{{name: '{ADDRESS}', region: {{x: 0, y: 0, width: 9, height: 9}}}}]"
    )
    path = tmp_path / "line.yaml"
    path.write_text(f"engine: {{bundle: {tiny_store}}}\ncameras:\n  a: {{source: {{kind: demo}}, {label}}}\n")
    done = run_anosegd("check", str(path))
    assert done.returncode == 2
    assert f"cameras.a.{key}" in done.stderr
    assert "geheim" not in done.stderr


def test_a_device_with_a_password_runs_without_showing_it(line: Line) -> None:
    """The camera is lost for ever: state, log and the answer of `status` say why."""
    daemon = line.run(line.config("eye: {source: {kind: device, device: 'admin:geheim@10.0.0.9/1'}}"))
    state = line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "lost")
    assert "10.0.0.9/1" in state["cameras"]["eye"]["last_error"]
    done = run_anosegd("status", "--connect", line.endpoint)
    assert daemon.terminate() == 0
    assert "geheim" not in daemon.log + done.stdout + "".join(str(m.header) for m in line.listener.received)


def test_errors_contain_no_password() -> None:
    """Whoever raises them, and whatever they quote."""
    error = DataError(f"{ADDRESS}: no such folder", hint="not rtsp:/admin:geheim@10.0.0.9/1")
    assert "geheim" not in f"{error} {error!r} {error.what} {error.hint}"


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JournalFormatter(), logs.JsonFormatter()])
def test_log_lines_contain_no_password(formatter: logging.Formatter) -> None:
    """Neither in a field, whatever its type, nor in a traceback."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger("anosegd")
    before, logger.handlers[:] = logger.handlers[:], [handler]
    try:
        raise OSError(f"cannot open {ADDRESS}")
    except OSError as error:
        logs.error("thread.died", exception=error, path=Path(ADDRESS), what=[ADDRESS], count=3, share=0.5)
    finally:
        logger.handlers[:] = before
    assert "geheim" not in stream.getvalue()
    assert "10.0.0.9/1" in stream.getvalue()
    if isinstance(formatter, logs.JsonFormatter):
        assert json.loads(stream.getvalue())["count"] == 3


def test_verdicts_and_answers_contain_no_password() -> None:
    """A library's words can get into both."""
    assert _detail(Unknown("camera_lost", f"{ADDRESS}: gone")) == "rtsp://***@10.0.0.9/1: gone"
    assert error_reply(1, "refused", f"{ADDRESS}: gone")["message"] == "rtsp://***@10.0.0.9/1: gone"
