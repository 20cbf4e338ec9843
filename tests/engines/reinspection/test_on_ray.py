"""`anoseg-engine reinspect --ray`: actors inspect, and the rows are those of one process. Ray takes seconds to start."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.processors import processes_of
from support.ray_nodes import RayNodes
from support.tiny_bundle import bad_part, good_part, write_tiny_bundle

from anoseg_engines.bundle import load_bundle
from anoseg_engines.errors import AnosegError

pytest.importorskip("pyarrow")

import pyarrow.parquet as pq

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
MAIN = "from anoseg_engines.cli import main; main()"
REINSPECT = [sys.executable, "-c", MAIN, "reinspect"]


def rows_of(out: Path) -> list[dict[str, object]]:
    return [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def actors_of(pid: int) -> list[int]:
    """The processes of Ray's actors below a process."""
    found = []
    for one in processes_of(pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{one}/cmdline").read_bytes().startswith(b"ray::MapWorker"):
                found.append(one)
    return found


@pytest.mark.long
@needs_ray
def test_rows_are_those_of_one_process(tmp_path: Path) -> None:
    """An actor is killed in the middle, then the command; it goes on, and the rows equal those without Ray, in their order."""
    store, images = tmp_path / "tiny", tmp_path / "images"
    write_tiny_bundle(store)
    images.mkdir()
    for i in range(400):
        cv2.imwrite(str(images / f"{i:03}.png"), bad_part() if i % 5 == 0 else good_part() + np.uint8(i % 50))
    (images / "cut.png").write_bytes((images / "000.png").read_bytes()[:-30])
    (images / os.fsdecode(b"gr\xfcn.png")).write_bytes((images / "000.png").read_bytes())
    command = [sys.executable, "-c", MAIN, "reinspect", "--bundle", str(store), "--images", str(images), "--shard-size", "2"]
    out = tmp_path / "ray"
    process = subprocess.Popen([*command, "--out", str(out), "--ray", "--engines", "2"], stderr=subprocess.PIPE, text=True)
    killed: list[int] = []
    try:
        for shards, kill_command in ((2, False), (40, True)):
            while process.poll() is None and len(list(out.glob("*.parquet"))) < shards:
                time.sleep(0.005)
            if process.poll() is None:  # on a busy machine it may have ended already
                killed.append(process.pid if kill_command else actors_of(process.pid)[0])
                os.kill(killed[-1], signal.SIGKILL)
    finally:
        process.kill()
        _, said = process.communicate()
    if process.returncode == 1 and "Ray cannot be used (The current node timed out during startup" in said:
        pytest.skip("Ray could not start in its time: the machine is too busy")
    assert process.returncode in (0, -signal.SIGKILL), said
    assert killed, "the command ended before an actor was killed: give it more images"
    done = subprocess.run([*command, "--out", str(out), "--ray", "--engines", "2"], capture_output=True, text=True, timeout=250)
    assert (done.returncode, "1 image could not be inspected" in done.stdout) == (0, True), done.stderr
    subprocess.run([*command, "--out", str(tmp_path / "here")], check=True)
    assert rows_of(out) == rows_of(tmp_path / "here")
    assert {row["engine_digest"] for row in rows_of(out)} == {load_bundle(store).digest}


@needs_ray
def test_the_images_of_the_first_unfinished_shard_are_named(tmp_path: Path) -> None:
    """If actors die, the error names its first and last image: one of them may make the engines crash."""
    from anoseg_engines.reinspection.image_list import ImageList, ListedImage
    from anoseg_engines.reinspection.on_ray import first_not_finished
    from anoseg_engines.reinspection.result_folder import ResultFolder, RunRecord

    images = ImageList(tmp_path, tuple(ListedImage(path=f"/{i}.png") for i in range(8)))
    about = {"bundle": "tiny 1", "engine_digest": "0", "source": "list", "runtime": "auto"}
    record = RunRecord(**about, images=8, images_digest=images.digest(), shard_size=3)
    result = ResultFolder(tmp_path, record)
    result.finished = {0}
    said = "shard-000001.parquet is not finished (from /3.png to /5.png)"
    assert first_not_finished(images, result) == f"{said}, nor is 1 later shard"
    result.finished = {0, 2}
    assert first_not_finished(images, result) == said


READ_ONCE = """
from anoseg_engines.reinspection import image_list
find = image_list.find_images
def find_images(source):
    images = find(source)
    source.unlink()
    return images
image_list.find_images = find_images
"""


@pytest.mark.long
@needs_ray
def test_nodes_need_no_list(tmp_path: Path) -> None:
    """The list is read where the command runs, and is removed then: on another node it is not there either."""
    write_tiny_bundle(tmp_path / "tiny")
    cv2.imwrite(str(tmp_path / "0.png"), good_part())
    (tmp_path / "parts.txt").write_text(f"{tmp_path}/0.png\n")
    done = subprocess.run(
        [
            *(sys.executable, "-c", READ_ONCE + MAIN),
            *("reinspect", "--bundle", "tiny", "--images", "parts.txt", "--out", "out", "--ray", "--engines", "1"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert [row["outcome"] for row in rows_of(tmp_path / "out")] == ["PASS"]


@needs_ray
def test_a_cluster_that_cannot_be_reached(tmp_path: Path) -> None:
    """The address is named, exit code 1, without a traceback; what is there already stays."""
    write_tiny_bundle(tmp_path / "tiny")
    cv2.imwrite(str(tmp_path / "0.png"), good_part())
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "reinspect", "--bundle", "tiny", "--images", ".", "--out", "out", "--ray", "127.0.0.1:1"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, "--ray 127.0.0.1:1: the cluster cannot be reached" in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr


@needs_ray
def test_auto_finds_no_cluster_or_one_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` says that no cluster runs, and names the address that an ended one left. Ray itself would try for minutes."""
    from anoseg_engines.ray_cluster import ray_cluster

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)  # another test may run a cluster
    left = tmp_path / "ray" / "ray_current_cluster"
    left.parent.mkdir()
    left.write_text("127.0.0.1:1")
    for said in (r"found 127\.0\.0\.1:1: the cluster cannot be reached", ": no Ray cluster was found on this machine"):
        with pytest.raises(AnosegError, match=f"--ray auto ?{said}"), ray_cluster("auto", ""):
            pass
        left.unlink(missing_ok=True)


@needs_ray
def test_another_program_at_the_address(tmp_path: Path) -> None:
    """It is named with exit code 1; Ray itself would try for minutes to talk to it."""
    write_tiny_bundle(tmp_path / "tiny")
    cv2.imwrite(str(tmp_path / "0.png"), good_part())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = subprocess.run(
            [*REINSPECT, "--bundle", "tiny", "--images", ".", "--out", "out", "--ray", f"127.0.0.1:{port}"],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        thread.join()
    said = f"--ray 127.0.0.1:{port}: another program than Ray answers there"
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr


@pytest.mark.long
@needs_ray
def test_a_node_with_another_version(tmp_path: Path) -> None:
    """It is refused by name before an image is inspected, and so is a cluster whose token the command does not have."""
    write_tiny_bundle(tmp_path / "tiny")
    cv2.imwrite(str(tmp_path / "0.png"), good_part())
    other = tmp_path / "other" / "anoseg_edge-9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: anoseg-edge\nVersion: 9.9\n")
    with RayNodes(tmp_path) as nodes:
        nodes.start({"PYTHONPATH": str(other.parent)})
        command = [*REINSPECT, "--bundle", "tiny", "--images", ".", "--out", "out", "--ray", nodes.address]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=nodes.environment)
        refused = ": has version 9.9 of anoseg-edge" in done.stderr
        assert (done.returncode, refused, list((tmp_path / "out").glob("*.parquet"))) == (2, True, []), done.stderr
        without = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=without)
        assert (done.returncode, "set RAY_AUTH_MODE=token" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(("package", "extra", "more"), [("pyarrow", "parquet", []), ("ray", "fleet", ["--ray"])])
def test_a_missing_package_is_named(tmp_path: Path, package: str, extra: str, more: list[str]) -> None:
    """Without the extra, the command says what to install."""
    write_tiny_bundle(tmp_path / "tiny")
    cv2.imwrite(str(tmp_path / "0.png"), good_part())
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"import sys; sys.modules['{package}'] = None\n{MAIN}"),
            *("reinspect", "--bundle", "tiny", "--images", ".", "--out", "out", *more),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, f"needs the package {package}" in done.stderr, f".[{extra}]" in done.stderr) == (2, True, True)
