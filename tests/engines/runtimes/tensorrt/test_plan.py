"""Plans: built by the real TensorRT for RTX, stored whole or not at all, and refused on another machine."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from support.host_device import HostDevice
from support.paths import DEMO
from support.tiny_bundle import SIZE, write_tiny_bundle

from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.runtimes.tensorrt import build as build_module
from anoseg_engines.runtimes.tensorrt import build_child
from anoseg_engines.runtimes.tensorrt.build import BuildOptions, build_plan
from anoseg_engines.runtimes.tensorrt.build_child import Built, PhaseStarted, Report, StepDone
from anoseg_engines.runtimes.tensorrt.gpu import ANY_GPU, Gpu, platform_name
from anoseg_engines.runtimes.tensorrt.library import libraries, log_collector
from anoseg_engines.runtimes.tensorrt.network import TensorRTNetwork
from anoseg_engines.runtimes.tensorrt.plan import Machine, PlanDescription, check_plan
from anoseg_engines.runtimes.tensorrt.plan_store import PlanStore

pytest.importorskip("tensorrt_rtx")
RTX = next(library for library in libraries() if library.name == "tensorrt-rtx")
HERE = Machine("tensorrt-rtx", RTX.version, None, platform_name())
OPTIONS = BuildOptions(library="tensorrt-rtx")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_tiny_bundle(tmp_path / "store" / "tiny")


def files_of(store: PlanStore) -> list[str]:
    return sorted(p.name for p in store.folder.iterdir()) if store.folder.exists() else []


def builder_of(pid: int) -> int:
    """Wait for the build process of `pid`."""
    for _ in range(2000):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                if b"build_child" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        time.sleep(0.005)
    raise AssertionError("no build process")


def test_the_demo_bundle_builds_up_to_batch_16_in_half_precision(tmp_path: Path) -> None:
    """All convolutions of the demo's detector are FP16. FP32 layers have a reason, and none of them has weights for each pixel.

    In FP32 are the score, the lengths of the features that are compared with good parts, their distances, the whole-image model
    with its one matrix product, and the sum of network's and memory's maps.
    """
    shutil.copytree(DEMO, tmp_path / "store" / "demo")
    source, reports = load_bundle(tmp_path / "store" / "demo"), list[Report]()
    description = build_plan(source, OPTIONS, on_progress=reports.append)
    plan = PlanStore.of(source).load(description)
    assert (description.min_batch, description.opt_batch, description.max_batch) == (1, 1, 16)
    assert len(plan) == description.plan_bytes > 1_000_000
    assert description.layers["HALF"] > 200
    assert set(description.layers) <= {"HALF", "FLOAT", "INT64", "INT32", "BOOL"}
    assert len(description.fp32_layers) == description.layers["FLOAT"] < 200
    asked = [layer for layer in description.fp32_layers if "score" not in layer.reason and "padding" not in layer.reason]
    small = {"ACTIVATION", "CAST", "ELEMENTWISE", "GATHER", "POOLING", "REDUCE", "RESIZE", "UNARY"}
    assert {layer.kind for layer in asked} <= small
    kinds = Counter(layer.kind for layer in description.fp32_layers)
    assert kinds["CONVOLUTION"] == 0
    assert kinds["MATRIX_MULTIPLY"] == 1
    assert {PhaseStarted, StepDone, Built} <= {type(report) for report in reports}


def test_the_map_leaves_the_network_in_single_precision(bundle: Bundle) -> None:
    """The outputs keep their names and shapes, and the map is FP32: the host does not have to convert it."""
    trt = RTX.api
    log = log_collector(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(bundle.model_onnx)
    before = {network.get_output(i).name: tuple(network.get_output(i).shape) for i in range(network.num_outputs)}
    build_child._widen_map(trt, network)
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    assert {output.name: tuple(output.shape) for output in outputs} == before
    assert {output.dtype for output in outputs} == {trt.DataType.FLOAT}


def test_a_plan_built_without_a_gpu_is_stored_as_untested(bundle: Bundle) -> None:
    """It is stored beside the bundle under its hash, for any GPU, and found and loaded again."""
    description = build_plan(bundle, BuildOptions(library="tensorrt-rtx", max_batch=5, workspace_mb=64))
    store = PlanStore.of(bundle)
    assert store.folder == bundle.path.parent.parent / "plans" / bundle.digest
    assert store.find(HERE) == description
    assert (description.bundle_sha256, description.platform) == (bundle.digest, platform_name())
    assert (description.gpu, description.proved_on) == (ANY_GPU, None)
    assert (description.height, description.width, description.max_batch, description.workspace_mb) == (SIZE, SIZE, 5, 64)
    check_plan(description, HERE, bundle)
    assert len(store.load(description)) == description.plan_bytes
    store.mark_proved(description, Gpu("GPU A", "8.9", 1 << 30, 46))
    again = store.find(HERE)
    assert again is not None
    assert again.proved_on == "GPU A"
    assert files_of(store) == sorted([description.plan, description.plan.rpartition("-")[0] + ".json"])


def test_a_new_plan_replaces_the_old_one(bundle: Bundle) -> None:
    """After two builds with different options there are one description and one plan, the newer."""
    build_plan(bundle, OPTIONS)
    second = build_plan(bundle, BuildOptions(library="tensorrt-rtx", max_batch=3))
    assert PlanStore.of(bundle).find(HERE) == second
    assert len(files_of(PlanStore.of(bundle))) == 2


def described(bundle: Bundle, **changes: object) -> PlanDescription:
    """A description that fits the machine of `test_a_plan_for_another_machine_…`, with changes."""
    fitting = PlanDescription(
        bundle=bundle.label,
        bundle_sha256=bundle.digest,
        library="tensorrt",
        library_version="10.3.0",
        gpu="Orin",
        compute_capability="8.7",
        platform="linux-aarch64",
        height=SIZE,
        width=SIZE,
        opt_batch=1,
        max_batch=4,
        built="2026-01-01T00:00:00+00:00",
        build_seconds=1.0,
        plan="orin-tensorrt-10.3.0-0123456789ab.plan",
        plan_sha256="0" * 64,
        plan_bytes=10,
    )
    return msgspec.structs.replace(fitting, **changes)


@pytest.mark.parametrize(
    ("changes", "built_for", "here"),
    [
        ({"gpu": "Xavier"}, "GPU Xavier", "Orin"),
        ({"compute_capability": "7.2"}, "compute capability 7.2", "8.7"),
        ({"multiprocessors": 8, "memory_gib": 8}, "GPU multiprocessors 8", "16"),
        ({"multiprocessors": 16, "memory_gib": 16}, "GPU memory 16 GiB", "8 GiB"),
        ({"library_version": "10.0.1"}, "tensorrt version 10.0.1", "10.3.0"),
        ({"library": "tensorrt-rtx"}, "library tensorrt-rtx", "tensorrt"),
        ({"platform": "linux-x86_64"}, "platform linux-x86_64", "linux-aarch64"),
        ({"height": 32}, f"input size 32×{SIZE}", f"{SIZE}×{SIZE}"),
        ({"bundle_sha256": "1" * 64}, "bundle " + "1" * 64, ""),
    ],
)
def test_a_plan_for_another_machine_is_refused_before_it_is_read(
    bundle: Bundle, changes: dict[str, object], built_for: str, here: str
) -> None:
    """The message has both values and the command that rebuilds the plan. Exit code 3."""
    machine = Machine("tensorrt", "10.3.0", Gpu("Orin", "8.7", 8 << 30, 16), "linux-aarch64")
    check_plan(described(bundle), machine, bundle)
    with pytest.raises(EngineError) as caught:
        check_plan(described(bundle, **changes), machine, bundle)
    assert f"built for {built_for}, here it is {here}" in str(caught.value)
    assert f"anoseg-engine build {bundle.path}" in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_plan_is_refused(bundle: Bundle, damage: str) -> None:
    """A truncated, changed or missing plan is an engine error with the file and the command that rebuilds it."""
    store, description = PlanStore.of(bundle), build_plan(bundle, OPTIONS)
    path = store.folder / description.plan
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:-100])
    elif damage == "flipped":
        path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    else:
        path.unlink()
    with pytest.raises(EngineError, match=f"(?s){description.plan}.*anoseg-engine build"):
        store.load(description)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"schema_version": 7}', "schema version 7, this program reads up to 2"),
        (b'{"schema_version": 1}', "not a valid description"),
        (b"\xff\xfe", "not a valid description"),
        (b"[" * 100_000, "not a valid description"),
        (b" " * (5 << 20), "too large"),
    ],
)
def test_a_damaged_or_newer_description_is_refused(bundle: Bundle, content: bytes, says: str) -> None:
    """A description that cannot be read is an error with its path, not a missing plan."""
    store = PlanStore.of(bundle)
    store.folder.mkdir(parents=True)
    (store.folder / f"{HERE.stem}.json").write_bytes(content)
    with pytest.raises(EngineError, match=says):
        store.find(HERE)


def test_a_description_cannot_name_a_file_elsewhere(bundle: Bundle) -> None:
    """A description whose plan is a path is refused."""
    store = PlanStore.of(bundle)
    store.folder.mkdir(parents=True)
    raw = msgspec.json.encode(described(bundle)).replace(b"orin-tensorrt", b"../../orin-tensorrt")
    (store.folder / f"{HERE.stem}.json").write_bytes(raw)
    with pytest.raises(EngineError, match="not a valid description"):
        store.find(HERE)


def build_command(bundle: Bundle) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "anoseg_engines", "build", str(bundle.path), "--runtime", "tensorrt-rtx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_build_leaves_the_store_as_it_was(bundle: Bundle) -> None:
    """After SIGKILL at five moments of a build, the old plan is still valid, and the next build cleans up."""
    store, _ = PlanStore.of(bundle), build_plan(bundle, OPTIONS)
    left_something = 0
    for delay_s in (0.0, 0.1, 0.2, 0.3, 0.4):
        process = build_command(bundle)
        while not any(name.startswith(".building-") for name in files_of(store)) and process.poll() is None:
            time.sleep(0.002)
        time.sleep(delay_s)
        process.kill()
        process.communicate()
        left_something += any(name.startswith(".building-") for name in files_of(store))
        found = store.find(HERE)
        assert found is not None
        store.load(found)
    assert left_something
    for _ in range(200):  # the build process is killed shortly after its parent
        store.clean()
        if len(files_of(store)) == 2:
            break
        time.sleep(0.02)
    found = store.find(HERE)
    assert found is not None
    assert files_of(store) == sorted([found.plan, f"{HERE.stem}.json"])


def test_a_killed_build_process_is_reported(bundle: Bundle) -> None:
    """If somebody kills the build process, the command exits 1, says so, and stores nothing."""
    process = build_command(bundle)
    os.kill(builder_of(process.pid), signal.SIGKILL)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "somebody ended the build (SIGKILL)" in message
    assert "nothing was stored" in message
    assert "Traceback" not in message
    assert files_of(PlanStore.of(bundle)) == []
    assert not PlanStore.of(bundle).folder.parent.exists()


def test_out_of_memory_during_a_build_is_reported(bundle: Bundle) -> None:
    """The build process gets no more memory from its first step on: the message says so, nothing is stored."""
    limited = []

    def limit(report: Report) -> None:
        if not limited:
            pid = builder_of(os.getpid())
            now = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
            resource.prlimit(pid, resource.RLIMIT_AS, (now, now))
            limited.append(report)

    with pytest.raises(AnosegError, match=r"(?s)nothing was stored.*--workspace-mb") as caught:
        build_plan(bundle, OPTIONS, on_progress=limit)
    assert caught.value.exit_code == 1
    assert files_of(PlanStore.of(bundle)) == []


def test_a_build_that_hangs_is_ended(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build process that is stopped and reports nothing does not block the command for ever."""
    stopped = []

    def stop(report: Report) -> None:
        if not stopped:
            stopped.append(report)
            os.kill(builder_of(os.getpid()), signal.SIGSTOP)

    monkeypatch.setattr(build_module, "SILENT_S", 0.5)
    with pytest.raises(AnosegError, match="no progress"):
        build_plan(bundle, OPTIONS, on_progress=stop)
    assert files_of(PlanStore.of(bundle)) == []


def test_a_full_disk_during_a_build_is_reported(tmp_path: Path) -> None:
    """On a file system without room for the plan the message is 'no space left', and the store is unchanged."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", mounted], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        bundle = write_tiny_bundle(mounted / "tiny")
        (mounted / "filler").write_bytes(b"x" * 50_000)
        with pytest.raises(AnosegError, match=r"(?s)no space left.*free some space"):
            build_plan(bundle, OPTIONS)
        assert not (mounted / "plans").exists()
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_plan_that_tensorrt_rejects_is_reported(bundle: Bundle) -> None:
    """If TensorRT makes no engine of a plan, the message has library and version, and nothing stays allocated."""
    device = HostDevice()
    with device.current(), pytest.raises(EngineError, match=rf"tensorrt-rtx {RTX.version} rejects the plan"):
        TensorRTNetwork(RTX, b"vtrt" + b"\0" * 500, max_batch=4)
    assert device.memory == {}


def test_a_network_that_tensorrt_rejects_is_reported(bundle: Bundle) -> None:
    """If the parser rejects the ONNX file, the message has TensorRT's reason, and nothing is stored."""
    bundle.files["model.onnx"] = b"not a network"
    with pytest.raises(EngineError, match="rejects the bundle's network"):
        build_plan(bundle, OPTIONS)
    assert files_of(PlanStore.of(bundle)) == []


def test_a_plan_that_fails_its_self_test_is_not_stored(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU, a plan that fails is refused, and the earlier one stays."""

    def refuse(description: PlanDescription, plan: bytes) -> None:
        assert len(plan) == description.plan_bytes
        raise EngineError("the self-test failed")

    monkeypatch.setattr(build_module, "find_gpu", lambda: Gpu("GPU A", "8.9", 1 << 30, 46))
    build_plan(bundle, OPTIONS, self_test=lambda description, plan: None)
    before = files_of(PlanStore.of(bundle))
    with pytest.raises(EngineError, match="the self-test failed"):
        build_plan(bundle, OPTIONS, self_test=refuse)
    assert files_of(PlanStore.of(bundle)) == before
    kept = PlanStore.of(bundle).find(Machine.here(RTX, Gpu("GPU A", "8.9", 1 << 30, 46)))
    assert kept is not None
    assert kept.proved_on == "GPU A"


def test_two_modules_with_one_name_keep_their_own_plans(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Orin with 8 multiprocessors and one with 16 have the same name. In one store, each finds the plan that it built."""
    gpus = [Gpu("Orin", "8.7", 8 << 30, 8), Gpu("Orin", "8.7", 16 << 30, 16)]
    for gpu in gpus:
        monkeypatch.setattr(build_module, "find_gpu", lambda gpu=gpu: gpu)
        build_plan(bundle, OPTIONS, self_test=lambda description, plan: None)
    for gpu in gpus:
        machine = Machine.here(RTX, gpu)
        found = PlanStore.of(bundle).find(machine)
        assert found is not None
        assert (found.multiprocessors, found.memory_gib) == (gpu.multiprocessors, gpu.memory_gib)
        check_plan(found, machine, bundle)


def test_a_description_without_the_size_of_its_gpu_is_read(bundle: Bundle) -> None:
    """Descriptions of schema version 1 do not have the GPU's size. Their plans run as before on a GPU of that name."""
    store, old = PlanStore.of(bundle), msgspec.to_builtins(described(bundle))
    del old["multiprocessors"], old["memory_gib"]
    store.folder.mkdir(parents=True)
    (store.folder / "orin-tensorrt-10.3.0.json").write_bytes(msgspec.json.encode({**old, "schema_version": 1}))
    machine = Machine("tensorrt", "10.3.0", Gpu("Orin", "8.7", 8 << 30, 16), "linux-aarch64")
    found = store.find(machine)
    assert found is not None
    check_plan(found, machine, bundle)
