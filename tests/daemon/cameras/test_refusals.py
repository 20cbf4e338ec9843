"""Cameras that refuse: the reason is said with the address, the password never, and a wrong password is tried rarely."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.anosegd_line import Line, run_anosegd
from support.refusing_camera import Refusals, http_camera, rtsp_camera, snapshot_camera

from anoseg_engines.errors import LoginRefusedError
from anosegd.cameras import logins
from anosegd.cameras.logins import PAUSE_S, TRIES, WINDOW_S, Logins, login_of, without_login
from anosegd.capture.child import Capture
from anosegd.capture.config import CaptureConfig, DemoSource, UrlSource
from anosegd.capture.link import Link
from anosegd.capture.protocol import Away, Job
from anosegd.capture.shared_slots import Slots
from anosegd.capture.sources.devices import why_not
from anosegd.capture.sources.refusal import check_address, native_output, refusal, unexplained
from anosegd.capture.waiting import PartWait

PASSWORD = "ge-heim!4711"
QUICK = "  open_timeout_s: 2\n  stall_timeout_s: 1\n"


@contextmanager
def nobody() -> Iterator[Refusals]:
    yield Refusals(port=1)


CASES = {
    "http 401": (
        lambda: http_camera(401),
        "http://u:{pw}@127.0.0.1:{port}/video",
        "refuses the user name or the password (401",
    ),
    "http 403": (
        lambda: http_camera(403),
        "http://u:{pw}@127.0.0.1:{port}/video",
        "refuses the user name or the password (403",
    ),
    "http 401 without a login": (
        lambda: http_camera(401),
        "http://127.0.0.1:{port}/video",
        "asks for a user name and a password (401",
    ),
    "http 401 with a login in the query": (
        lambda: http_camera(401),
        "http://127.0.0.1:{port}/video?usr=u&pwd={pw}",
        "refuses the user name or the password (401",
    ),
    "http 404": (lambda: http_camera(404), "http://u:{pw}@127.0.0.1:{port}/video", "there is no such path on the camera (404"),
    "snapshot": (snapshot_camera, "http://u:{pw}@127.0.0.1:{port}/image.jpg", "it is the address of a snapshot"),
    "snapshot without a name": (
        lambda: snapshot_camera("application/octet-stream"),
        "http://u:{pw}@127.0.0.1:{port}/image",
        "it is the address of a snapshot",
    ),
    "http 503": (lambda: http_camera(503), "http://u:{pw}@127.0.0.1:{port}/video", "the camera answers 503"),
    "rtsp 401": (
        lambda: rtsp_camera("401 Unauthorized"),
        "rtsp://u:{pw}@127.0.0.1:{port}/live",
        "refuses the user name or the password (401",
    ),
    "rtsp 404": (
        lambda: rtsp_camera("404 Not Found"),
        "rtsp://u:{pw}@127.0.0.1:{port}/live",
        "there is no such path on the camera (404",
    ),
    "name not found": (nobody, "rtsp://u:{pw}@no-such-camera.invalid/live", "the name no-such-camera.invalid was not found"),
    "refused": (nobody, "rtsp://u:{pw}@127.0.0.1:{port}/live", "nothing listens at this address and port"),
    "http refused": (nobody, "http://u:{pw}@127.0.0.1:{port}/live", "nothing listens at this address and port"),
    "slash in the password": (
        nobody,
        "http://u:{pw}/x?y#z@127.0.0.1:{port}/live",
        "the user name or the password contains / ? or #",
    ),
    "bad scheme": (nobody, "rtps://u:{pw}@127.0.0.1:{port}/live", "the scheme rtps:// is unknown"),
    "no scheme": (nobody, "u:{pw}@127.0.0.1/live", "the url has no scheme"),
}


@pytest.mark.parametrize(("camera", "url", "said"), CASES.values(), ids=CASES.keys())
def test_the_reason_is_said_and_the_password_is_not(
    line: Line,
    camera: "contextlib.AbstractContextManager[Refusals]",
    url: str,
    said: str,
) -> None:
    """State and log give the reason and the address; no message of the daemon holds the password."""
    with camera() as refusals:  # type: ignore[operator]
        address = url.format(pw=PASSWORD, port=refusals.port)
        daemon = line.run(line.config(f"eye:\n  source: {{kind: url, url: '{address}'}}\n{QUICK}"))
        state = line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "lost")
        error = state["cameras"]["eye"]["last_error"]
        assert said in error
        shown = url.rpartition("@")[2].rpartition("://")[2].partition("?usr")[0]
        assert shown.format(port=refusals.port) in error
        time.sleep(1.5)
        assert len(refusals.logins) <= 1
        assert daemon.terminate() == 0
    assert [e["error"] for e in daemon.events if e["event"] == "camera.lost"] == [error]
    for text in (daemon.log, *(str(m.header) for m in line.listener.received)):
        assert PASSWORD not in text
        assert "ge-heim" not in text


def test_a_password_before_the_host_is_sent_as_the_camera_asks(line: Line) -> None:
    """Settings such as a token change nothing: a camera that asks for Digest is not sent the password in clear text."""
    with http_camera(401, 'Digest realm="camera", nonce="1f2e"') as camera:
        address = f"http://u:{PASSWORD}@127.0.0.1:{camera.port}/v?channel=1&token=abc"
        daemon = line.run(line.config(f"eye:\n  source: {{kind: url, url: '{address}'}}\n{QUICK}"))
        line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "lost")
        assert camera.ways == ["Digest"]
        assert daemon.terminate() == 0


def test_a_wrong_password_is_tried_rarely_by_all_cameras_of_a_host(line: Line) -> None:
    """Two cameras send it at once; then nobody does, and the third says that it waits. Another host's camera does not wait."""
    with rtsp_camera("401 Unauthorized") as recorder, http_camera(404) as other:
        cameras = "".join(
            f"c{n}:\n  source: {{kind: url, url: 'rtsp://u:{PASSWORD}@127.0.0.1:{recorder.port}/{n}'}}\n{QUICK}"
            for n in range(4)
        )
        cameras += f"other:\n  source: {{kind: url, url: 'http://u:other@127.0.0.1:{other.port}/x'}}\n{QUICK}"
        daemon = line.run(line.config(cameras))
        line.listener.wait_for_state(lambda s: all(c["state"] == "lost" for c in s["cameras"].values()))
        state = line.listener.wait_for_state(lambda s: s["cameras"]["other"]["restarts"] > 3)
        errors = [state["cameras"][f"c{n}"]["last_error"] for n in range(4)]
        assert sum("refuses the user name or the password" in error for error in errors) == TRIES
        assert sum("not tried yet" in error for error in errors) == 4 - TRIES
        assert len(recorder.logins) == TRIES
        assert daemon.terminate() == 0


@pytest.mark.parametrize("kind", ["http", "rtsp"])
def test_a_password_in_the_query_is_tried_as_rarely(line: Line, kind: str) -> None:
    """Wherever the address has it: all cameras of a host share the limit, and the query without it is asked meanwhile."""
    with http_camera(401) if kind == "http" else rtsp_camera("401 Unauthorized") as recorder:
        host = f"{kind}://127.0.0.1:{recorder.port}"
        cameras = "".join(
            f"c{n}:\n  source: {{kind: url, url: '{host}/?channel={n}&usr=u&pwd={PASSWORD}'}}\n{QUICK}" for n in range(4)
        )
        daemon = line.run(line.config(cameras))
        state = line.listener.wait_for_state(lambda s: all(c["state"] == "lost" for c in s["cameras"].values()))
        time.sleep(2)
        errors = [state["cameras"][f"c{n}"]["last_error"] for n in range(4)]
        assert sum("refuses the user name or the password" in error for error in errors) == (TRIES if kind == "http" else 1)
        assert len(recorder.logins) == TRIES
        assert [path for path in recorder.paths if "channel" not in path] == []
        assert daemon.terminate() == 0
    assert "ge-heim" not in daemon.log


@pytest.mark.parametrize(("camera", "pauses"), [(lambda: http_camera(404), [1, 2, 4, 8, 10, 10]), (nobody, [1, 2, 2, 2, 2, 2])])
def test_a_camera_that_answers_and_refuses_is_asked_rarely(
    monkeypatch: pytest.MonkeyPatch, camera: "contextlib.AbstractContextManager[Refusals]", pauses: list[float]
) -> None:
    """Another try soon would hardly help: the pauses grow. One that does not answer is soon tried again."""
    began, until = [time.monotonic()], []

    def pause_until(_: PartWait, at: float) -> None:
        until.append(at)
        began.append(time.monotonic())

    monkeypatch.setattr(PartWait, "pause_until", pause_until)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sent: list[float] = []

    class EnoughError(Exception):
        pass

    def send(_: Link, message: Away) -> None:
        sent.append(message.pause_s)
        if len(sent) == len(pauses):
            raise EnoughError

    monkeypatch.setattr(Link, "send", send)
    slots = Slots.create(1, 4096)
    with camera() as refusals, ours, theirs:  # type: ignore[operator]
        config = CaptureConfig(source=UrlSource(url=f"http://127.0.0.1:{refusals.port}/x"))
        capture = Capture(Job(camera=config, slots=1, frame_bytes=4096, reopen_s=(1.0, 2.0)), Link(theirs), slots)
        with pytest.raises(EnoughError):
            capture._open()
    slots.close_fd()
    assert sent == pauses
    assert all(at >= since + 0.75 * pause for at, since, pause in zip(until, began, pauses, strict=False))


def test_a_refused_login_hides_no_other_reason(line: Line) -> None:
    """Cameras of one host and user: some are refused, one has no such path, at one nothing listens. Each says why."""
    with rtsp_camera("401 Unauthorized") as recorder, http_camera(404) as other:
        hosts = ("localhost", "127.0.0.1", "localhost", "127.0.0.1")
        cameras = "".join(
            f"c{n}:\n  source: {{kind: url, url: 'rtsp://u:{PASSWORD}@{host}:{recorder.port}/{n}'}}\n{QUICK}"
            for n, host in enumerate(hosts)
        )
        daemon = line.run(line.config(cameras))
        line.listener.wait_for_state(lambda _: len(recorder.logins) == TRIES)
        late = f"path:\n  source: {{kind: url, url: 'http://u:{PASSWORD}@127.0.0.1:{other.port}/x'}}\n{QUICK}"
        late += f"port:\n  source: {{kind: url, url: 'rtsp://u:{PASSWORD}@127.0.0.1:1/x'}}\n{QUICK}"
        line.config(cameras + late)
        daemon.process.send_signal(signal.SIGHUP)
        state = line.listener.wait_for_state(
            lambda s: "path" in s["cameras"] and all(s["cameras"][name]["restarts"] > 1 for name in ("path", "port"))
        )
        assert "there is no such path on the camera (404" in state["cameras"]["path"]["last_error"]
        assert "nothing listens at this address and port" in state["cameras"]["port"]["last_error"]
        assert len(recorder.logins) == TRIES
        assert other.logins == []
        assert daemon.terminate() == 0
    assert "ge-heim" not in daemon.log


def test_a_corrected_password_is_tried_at_once(line: Line, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The limit is of the wrong one, so a reload does not wait."""
    with http_camera(401) as camera:
        control = f"control: {{endpoint: 'ipc://{tmp_path_factory.mktemp('c')}/ctl'}}"

        def config(password: str) -> Path:
            source = f"{{kind: url, url: 'http://u:{password}@127.0.0.1:{camera.port}/'}}"
            return line.config(f"eye:\n  source: {source}\n{QUICK}", more=control)

        daemon = line.run(config("wrong"))
        line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "lost")
        assert run_anosegd("reload", str(config("also-wrong"))).returncode == 0
        line.listener.wait_for_state(lambda _: len(camera.logins) == 2)
        assert daemon.terminate() == 0
    assert "also-wrong" not in daemon.log


def test_a_run_with_once_gives_up_at_once(line: Line) -> None:
    """Further attempts with the same password would not help."""
    with http_camera(401) as camera:
        source = f"{{kind: url, url: 'http://u:{PASSWORD}@127.0.0.1:{camera.port}/'}}"
        daemon = line.run(line.config(f"eye:\n  source: {source}\n{QUICK}"), "--once")
        assert daemon.wait() == 1
        assert len(camera.logins) == 1
    assert "refuses the user name or the password" in daemon.log
    assert "ge-heim" not in daemon.log


def test_the_command_that_tries_cameras_tries_a_login_once(line: Line) -> None:
    """`anosegd cameras CONFIG` says why, and does not try the same login at the same host again."""
    with http_camera(401) as camera:
        cameras = "".join(
            f"c{n}:\n  source: {{kind: url, url: 'http://u:{PASSWORD}@127.0.0.1:{camera.port}/{n}'}}\n{QUICK}" for n in range(3)
        )
        done = run_anosegd("cameras", str(line.config(cameras)), "--out", str(line.folder / "out"))
        assert done.returncode == 1
        assert len(camera.logins) == 1
    assert "refuses the user name or the password (401 Unauthorized)" in done.stderr
    assert "ge-heim" not in done.stderr + done.stdout


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr(logins.time, "monotonic", lambda: clock[0])
    return clock


def test_a_wrong_password_is_tried_at_most_twice_a_minute(now: list[float]) -> None:
    """However many cameras have it, in any 60 seconds."""
    counted, login = Logins(), ("recorder", "u:wrong")
    tries = []
    for _ in range(40_000):
        if counted.take_try(login) == 0:
            tries.append(now[0])
            counted.refused(login)
        now[0] += 0.01
    assert len(tries) > 10
    assert all(later - earlier >= WINDOW_S for earlier, later in zip(tries, tries[TRIES:], strict=False))
    assert TRIES * PAUSE_S > WINDOW_S


def test_an_accepted_login_is_free_until_it_is_refused(now: list[float]) -> None:
    """A camera that comes and goes is opened as often as needed; after a change of its password, the limit holds again."""
    counted, login = Logins(), ("camera", "u:right")
    assert counted.take_try(login) == 0
    counted.accepted(login)
    assert [counted.take_try(login) for _ in range(9)] == [0] * 9
    counted.refused(login)
    assert [counted.take_try(login) > 0 for _ in range(3)] == [False, True, True]


def test_a_try_that_did_not_reach_the_camera_does_not_count(now: list[float]) -> None:
    """A camera that is off is tried every second."""
    counted, login = Logins(), ("camera", "u:right")
    for _ in range(9):
        assert counted.take_try(login) == 0
        counted.not_sent(login)
    assert counted.take_try(None) == 0


def test_a_user_is_tried_rarely_whatever_the_password(now: list[float]) -> None:
    """A camera counts the wrong passwords of a user. One that was never tried has one try more; another user has its own."""
    counted = Logins()
    tried = [p for p in ("a", "b", "c", "d", "e") if counted.take_try(("recorder", f"u:{p}"), p) == 0]
    assert len(tried) == TRIES + 1
    assert counted.take_try(("recorder", "u:a"), "a") == WINDOW_S
    assert counted.take_try(("recorder", "other:a"), "other") == 0
    now[0] += WINDOW_S
    assert counted.take_try(("recorder", "u:e"), "e") == 0


def test_an_attempt_that_sends_the_password_twice_counts_twice(now: list[float]) -> None:
    """It is the camera that counts. One that did not reach the camera is given back whole."""
    counted, login = Logins(), ("camera", "u:wrong")
    for _ in range(3):
        assert counted.take_try(login, "c", requests=2) == 0
        counted.not_sent(login, "c")
    assert counted.take_try(login, "c", requests=2) == 0
    assert counted.wait_s(login) == WINDOW_S


def test_an_attempt_with_two_requests_needs_room_for_both(now: list[float]) -> None:
    """After another camera's try, and after a login that was accepted is refused."""
    counted, login = Logins(), ("camera", "u:wrong")
    assert [counted.take_try(login, name, requests=1) for name in "ab"] == [0, 0]
    counted.not_sent(login, "b")
    assert counted.take_try(login, "c", requests=1) == 0
    counted.not_sent(login, "c")
    assert counted.take_try(login, "d", requests=2) == counted.wait_s(login, requests=2) == WINDOW_S
    now[0] += WINDOW_S
    assert counted.take_try(login, "d", requests=2) == 0
    counted.accepted(login, "d")
    counted.refused(login, "d", requests=2)
    assert counted.take_try(login, "d") == WINDOW_S
    assert counted.take_try(("camera", "u:corrected"), "d", requests=2) == 0


def test_a_camera_gives_back_its_own_try_only(now: list[float]) -> None:
    """One without a connection fails again and again; meanwhile another camera's refused tries count on."""
    counted, login = Logins(), ("recorder", "u:wrong")
    assert counted.take_try(login, "refused") == 0
    counted.refused(login, "refused")
    assert counted.take_try(login, "away") == 0
    for _ in range(9):
        counted.not_sent(login, "away")
    assert [counted.take_try(login, "third") > 0 for _ in range(2)] == [False, True]
    counted.refused(login, "away")  # its process tried again by itself
    assert counted.wait_s(login) > 0


def test_cameras_that_wait_see_that_another_was_let_in(now: list[float]) -> None:
    """All channels of a recorder start together; the first that is let in frees the login for the others."""
    counted, login = Logins(), ("recorder", "u:right")
    assert [counted.take_try(login, f"c{n}") > 0 for n in range(4)] == [False, False, True, True]
    counted.accepted(login, "c0")
    assert counted.wait_s(login) == counted.take_try(login, "c3") == 0


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "[::1]", "127.0.0.2", "[::ffff:127.0.0.1]", "localhost."])
def test_names_of_this_machine_are_one_host(name: str) -> None:
    """A camera counts the passwords, by whatever name it is called."""
    assert login_of(UrlSource(url=f"rtsp://u:p@{name}/1")) == ("127.0.0.1", "u:p")


def test_a_name_and_its_address_are_one_host() -> None:
    """The name is looked up. A name that is not found stands for itself."""
    name = socket.gethostname()
    found = login_of(UrlSource(url=f"rtsp://u:p@{name}/1"))
    assert found is not None
    assert found == login_of(UrlSource(url=f"rtsp://u:p@{name.upper()}/2"))
    assert found[0] in {("127.0.0.1" if a.startswith("127.") else a) for *_, (a, *_) in socket.getaddrinfo(name, None)}
    assert login_of(UrlSource(url="rtsp://u:p@no-such-camera.invalid/1")) == ("no-such-camera.invalid", "u:p")


def test_addresses_without_their_login() -> None:
    """Opened so, a camera is sent no password."""
    assert without_login(UrlSource(url="rtsp://u:p@h:554/1", transport="udp")) == UrlSource(
        url="rtsp://h:554/1", transport="udp"
    )
    assert without_login(UrlSource(url="rtspsrc location=rtsp://u:p@h ! appsink", backend="gstreamer")) is None
    assert login_of(UrlSource(url="http://h:80/?a=b@c")) is login_of(UrlSource(url="http://h/a@b")) is None
    for url, bare in {
        "http://h/?usr=u&pwd=p&channel=1": "http://h/?channel=1",
        "http://h/v?user=u&password=p": "http://h/v",
        "http://h/?a=b@c&token=t": "http://h/?a=b@c",
    }.items():
        assert without_login(UrlSource(url=url)) == UrlSource(url=bare)
    for url in (
        "rtsp://h/user=u_password=p_channel=1",
        "rtsp://h/?channel=1_user=u_password=p",
        "http://h/?channel=1;user=u;pwd=p",
    ):
        assert without_login(UrlSource(url=url)) is None


def test_logins_of_sources() -> None:
    """The host and what stands before the last @; channels of one recorder have the same."""
    assert login_of(UrlSource(url="rtsp://u:p@10.0.0.9:554/1")) == login_of(UrlSource(url="http://u:p@10.0.0.9/2")) != None  # noqa: E711
    assert login_of(UrlSource(url="rtsp://u:a@b/c?d#e@10.0.0.9/1")) == ("10.0.0.9", "u:a@b/c?d#e")
    assert login_of(UrlSource(url="rtsp://10.0.0.9/1")) is None
    assert login_of(DemoSource()) is None
    for url in (
        "http://10.0.0.9/1?user=u&pwd=p",
        "http://10.0.0.9:80/?password=p&channel=2&username=u",
        "rtsp://10.0.0.9/user=u_password=p_channel=3",
        "http://10.0.0.9/?usr=u&pwd=p&mail=a@b",
    ):
        assert login_of(UrlSource(url=url)) == ("10.0.0.9", "u:p")
    assert login_of(UrlSource(url="http://10.0.0.9/?token=t")) == ("10.0.0.9", ":t")
    pipeline = UrlSource(url='rtspsrc location=rtsp://10.0.0.9/1 user-id=u user-pw="p" ! appsink', backend="gstreamer")
    assert login_of(pipeline) == ("10.0.0.9", "u:p")


def test_a_gstreamer_pipeline_that_is_refused() -> None:
    """Not run with GStreamer: the lines are those of OpenCV with GStreamer."""
    pipeline = f"rtspsrc location=rtsp://u:{PASSWORD}@cam/1 ! decodebin ! appsink"
    line = "[ WARN:0@1.2] global cap_gstreamer.cpp:2840 handleMessage OpenCV | GStreamer warning: module src0: Unauthorized"
    assert isinstance(refusal(pipeline, [line]), LoginRefusedError)
    assert PASSWORD not in str(refusal(pipeline, [line]))


def test_what_libraries_say_beside_the_reason_is_left_out() -> None:
    """FFmpeg prints its request, whose later lines have no prefix, and OpenCV that a backend cannot be used."""
    with native_output() as output:
        os.write(1, b"[OPENCV:FFMPEG:48] request: GET / HTTP/1.1\nAuthorization: Basic dTpw\nIcy-MetaData: 1\n")
        os.write(1, b"[OPENCV:FFMPEG:24] Stream ends prematurely at 0, should be 18446744073709551615\n")
        os.write(
            2, b"[ WARN:0@9.630] global cap.cpp:212 open VIDEOIO(FFMPEG): backend is generally available but can't be used\n"
        )
    assert output.lines == []
    said = str(unexplained("http://cam/1", output.lines))
    assert said == "http://cam/1 cannot be opened: it gives no video, or does not answer in time"
    with native_output() as output:
        os.write(1, b"[OPENCV:FFMPEG:16] first\nand more\n[OPENCV:FFMPEG:48] no\nmore\n")
        os.write(2, b"[ERROR:0@1.2] global cap.cpp:1 f raised an error\n")
    assert output.lines == ["first", "and more", "global cap.cpp:1 f raised an error"]


def test_a_message_of_ffmpeg_keeps_the_password_to_itself() -> None:
    """Whatever FFmpeg quotes."""
    url = f"srt://u:{PASSWORD}@cam/1"
    error = unexplained(url, [f"cannot handle {url} with {PASSWORD}"])
    assert str(error) == "srt://cam/1 cannot be opened: cannot handle srt://cam/1 with ***"


@pytest.mark.parametrize(
    "url",
    ["rtsp://u:p@h:554/1", "rtsp://h:554/1@2", "http://h/?a=b@c", "rtsp://[::1]/a@b", "rtsp://u:p%2F@h", "rtsp://u:a@b@h/1"],
)
def test_addresses_that_ffmpeg_understands(url: str) -> None:
    """An @ behind the host is no login."""
    check_address(url)


def test_devices_that_cannot_be_opened(tmp_path: Path) -> None:
    """Not there, not a device, or not a camera: each is said."""
    assert "there is no /dev/video99" in why_not(99)
    assert "there is no /dev/nothing" in why_not("/dev/nothing")
    (tmp_path / "file").touch()
    assert "is not a camera" in why_not(str(tmp_path / "file"))
    assert "another program uses it" in why_not("/dev/null")
