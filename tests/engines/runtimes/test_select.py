"""Selecting the runtime: one that is named must run, `auto` chooses and gives the reason."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.host_device import HostDevice, TinyNetwork
from support.paths import DEMO
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.bundle import Bundle, GoldenTolerance, load_bundle
from anoseg_engines.errors import AnosegError, ConfigError, EngineError, GpuMemoryError, SelfTestError
from anoseg_engines.golden import self_test
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Placement, Region
from anoseg_engines.runtimes import select
from anoseg_engines.runtimes.openvino import CpuRuntime
from anoseg_engines.runtimes.openvino_network import cpu_precisions
from anoseg_engines.runtimes.tensorrt import build
from anoseg_engines.runtimes.tensorrt.build import BuildOptions, build_plan
from anoseg_engines.runtimes.tensorrt.gpu import Gpu, find_gpu
from anoseg_engines.runtimes.tensorrt.library import Library
from anoseg_engines.runtimes.tensorrt.plan import PlanDescription
from anoseg_engines.runtimes.tensorrt.plan_store import PlanStore
from anoseg_engines.runtimes.tensorrt.runtime import TensorRTRuntime

GPU = Gpu("GPU A", "8.9", 8 << 30, 46)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_tiny_bundle(tmp_path / "store" / "tiny")


def gpu_here() -> bool:
    try:
        find_gpu()
    except EngineError:
        return False
    return True


without_gpu = pytest.mark.skipif(gpu_here(), reason="this machine has a GPU; `make gpu-check` is for it")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there is a GPU, and run plans on the host."""
    pytest.importorskip("tensorrt_rtx")

    def open_plan(bundle: Bundle, plan: bytes, description: PlanDescription, **_: object) -> TensorRTRuntime:
        device = HostDevice()
        return TensorRTRuntime(bundle.manifest.input, device, TinyNetwork(device, description.max_batch), "on the host")

    monkeypatch.setattr(select, "find_gpu", lambda: GPU)
    monkeypatch.setattr(build, "find_gpu", lambda: GPU)
    monkeypatch.setattr(TensorRTRuntime, "open", open_plan)


@without_gpu
def test_auto_without_a_gpu_takes_the_cpu_and_says_why(bundle: Bundle) -> None:
    """The CPU runtime runs in the fastest precision of this processor; the reason names both."""
    engine = load_engine(bundle)
    assert engine.runtime_name == f"cpu-{cpu_precisions()[0]}"
    assert "no GPU can be used" in engine.why
    assert cpu_precisions()[0] in engine.why
    engine.close()


@without_gpu
def test_a_named_runtime_that_cannot_run_is_an_error(bundle: Bundle) -> None:
    """tensorrt without a GPU, or a precision that the processor lacks, exits 3 without a fallback; an unknown name exits 2."""
    with pytest.raises(EngineError, match="no GPU can be used"):
        load_engine(bundle, runtime="tensorrt")
    source = load_bundle(DEMO)
    for precision in {"f16", "bf16"} - set(cpu_precisions()):
        with pytest.raises(EngineError, match=f"{precision} was asked for"):
            load_engine(source, runtime=f"cpu-{precision}")
    with pytest.raises(ConfigError, match="'gpu' is unknown"):
        load_engine(bundle, runtime="gpu")


def test_auto_with_a_gpu_but_no_plan_takes_the_cpu_and_names_the_command(bundle: Bundle, gpu: None) -> None:
    """With a GPU but no plan, `auto` takes the CPU and says how to get a plan; `tensorrt` is an error."""
    engine = load_engine(bundle)
    assert engine.runtime_name.startswith("cpu-")
    assert f"anoseg-engine build {bundle.path}" in engine.why
    engine.close()
    with pytest.raises(EngineError, match=r"(?s)no TensorRT plan.*anoseg-engine build"):
        load_engine(bundle, runtime="tensorrt")


def test_auto_builds_if_it_may_then_takes_the_plan(bundle: Bundle, gpu: None) -> None:
    """With `build` the missing plan is built, tested and used; the next load finds it."""
    engine = load_engine(bundle, build=True)
    assert (engine.runtime_name, engine.runtime_description) == ("tensorrt", "on the host")
    assert "plan built now" in engine.why
    engine.close()
    engine = load_engine(bundle)
    assert engine.runtime_name == "tensorrt"
    assert "GPU A, plan of 20" in engine.why
    engine.close()


def test_an_untested_plan_is_tested_at_its_first_load(bundle: Bundle, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan built without a GPU passes the self-test when it is first loaded, and its description records the GPU."""
    with monkeypatch.context() as without:
        without.setattr(build, "find_gpu", lambda: (_ for _ in ()).throw(EngineError("no GPU")))
        assert build_plan(bundle, BuildOptions(library="tensorrt-rtx")).proved_on is None
    load_engine(bundle).close()
    (description,) = PlanStore.of(bundle).folder.glob("*.json")
    assert json.loads(description.read_bytes())["proved_on"] == "GPU A"


def test_auto_takes_the_cpu_if_the_gpu_has_no_memory_left(bundle: Bundle, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has taken the GPU's memory: `auto` takes the CPU and says why, and a named `tensorrt` is an error."""
    load_engine(bundle, build=True).close()

    def full(*_: object, **__: object) -> TensorRTRuntime:
        raise GpuMemoryError("the GPU's memory is full: 5.0 MB more are needed", hint="close other programs on the GPU")

    monkeypatch.setattr(TensorRTRuntime, "open", full)
    engine = load_engine(bundle)
    assert engine.runtime_name == f"cpu-{cpu_precisions()[0]}"
    assert engine.why.startswith("the GPU's memory is full: 5.0 MB more are needed; ")
    engine.close()
    with pytest.raises(GpuMemoryError, match="memory is full"):
        load_engine(bundle, runtime="tensorrt")


@pytest.mark.parametrize(
    "failure",
    [
        AnosegError("memory ran out: the kernel killed the build (SIGKILL)\n    its last output:", hint="close other programs"),
        EngineError("TensorRT rejects the network", hint="the CPU runtime works without a plan"),
        SelfTestError("the self-test failed on TensorRT", hint="the engine is refused"),
    ],
)
def test_auto_takes_the_cpu_if_the_plan_cannot_be_built(
    bundle: Bundle, gpu: None, monkeypatch: pytest.MonkeyPatch, failure: AnosegError
) -> None:
    """Each restart of a station would build again and fail again. The reason is given; a named `tensorrt` is an error."""

    def fails(*_: object, **__: object) -> PlanDescription:
        raise failure

    monkeypatch.setattr(select, "build_plan", fails)
    engine = load_engine(bundle, build=True)
    assert engine.runtime_name == f"cpu-{cpu_precisions()[0]}"
    assert engine.why.startswith(f"the TensorRT plan could not be built: {failure.what.splitlines()[0]}; `anoseg-engine build ")
    assert "last output" not in engine.why
    engine.close()
    with pytest.raises(type(failure), match=failure.what.splitlines()[0].split("(")[0]):
        load_engine(bundle, runtime="tensorrt", build=True)


@pytest.mark.parametrize("named", [True, False])
def test_a_damaged_plan_is_refused_by_auto_too(bundle: Bundle, gpu: None, named: bool) -> None:
    """`auto` does not take the CPU instead of a truncated plan: the line would become slow without notice. Exit code 3."""
    load_engine(bundle, build=True).close()
    (plan,) = PlanStore.of(bundle).folder.glob("*.plan")
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(EngineError, match="damaged") as caught:
        load_engine(bundle, runtime="tensorrt" if named else "auto")
    assert caught.value.exit_code == 3


def test_auto_takes_the_cpu_instead_of_a_plan_of_another_version(
    bundle: Bundle, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an update of TensorRT, `auto` takes the CPU and names both versions."""
    load_engine(bundle, build=True).close()
    (found,) = select.libraries()
    monkeypatch.setattr(select, "libraries", lambda: [Library(found.name, "99.0", found.api)])
    engine = load_engine(bundle)
    assert engine.runtime_name.startswith("cpu-")
    assert f"built for {found.name} version {found.version}, here it is 99.0" in engine.why
    engine.close()


def largest_difference(bundle: Bundle, precision: str) -> float:
    """The largest 99.9th percentile of the map's difference over the golden images."""
    engine = load_engine(bundle, runtime=f"cpu-{precision}")
    found = max(result.map_p999 for result in self_test(engine))
    engine.close()
    return found


def test_the_cpu_falls_back_to_f32_if_the_golden_images_need_it(tmp_path: Path) -> None:
    """With tolerances that only FP32 meets, `cpu` takes FP32 and says why; the faster precision by name is an error."""
    if cpu_precisions()[0] == "f32":
        pytest.skip("this processor has nothing faster than f32")
    source = load_bundle(DEMO)
    of_f32, of_faster = (largest_difference(source, precision) for precision in ("f32", cpu_precisions()[0]))
    assert of_f32 < of_faster / 1.5
    strict = GoldenTolerance(map_mean=0.01, map_p999=(of_f32 * of_faster) ** 0.5, score=0.003)
    bundle = dataclasses.replace(source, manifest=msgspec.structs.replace(source.manifest, golden_tolerance=strict))
    engine = load_engine(bundle, runtime="cpu")
    assert engine.precision == "f32"
    assert f"cpu-{cpu_precisions()[0]} did not pass" in engine.why
    engine.close()
    with pytest.raises(SelfTestError):
        load_engine(bundle, runtime=f"cpu-{cpu_precisions()[0]}")


def test_f32_replaces_a_precision_that_does_not_run(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """If OpenVINO does not run the network in an offered precision, `cpu` takes f32; by name it is an error."""
    missing = next((p for p in ("f16", "bf16") if p not in cpu_precisions()), None)
    if missing is None:
        pytest.skip("this processor runs every precision")
    monkeypatch.setattr(select, "cpu_precisions", lambda: [missing, "f32"])
    engine = load_engine(bundle, runtime="cpu")
    engine.close()
    assert engine.precision == "f32"
    with pytest.raises(EngineError, match=f"{missing} was asked for"):
        load_engine(bundle, runtime=f"cpu-{missing}")


@pytest.mark.parametrize("precision", cpu_precisions())
def test_the_cpu_runtime_runs_in_the_precision_it_names(precision: str) -> None:
    """The demo's network runs in the named precision, as read back from the compiled network, and the self-test passes.

    In bf16 only some layers do, and the description says how many.
    """
    engine = load_engine(load_bundle(DEMO), runtime=f"cpu-{precision}")
    assert (engine.precision, engine.runtime_name) == (precision, f"cpu-{precision}")
    found = re.search(rf"cpu {precision}(?: \((\d+) of \d+ layers\))?$", engine.runtime_description)
    assert found, engine.runtime_description
    assert precision != "bf16" or int(found[1]) > 0
    engine.close()


def test_the_cpu_reads_the_coordinates_where_they_are() -> None:
    """There is no copy: the network reads the placement's array, and the buffer that is filled."""
    bundle = load_bundle(DEMO)
    runtime = CpuRuntime.open(bundle.model_onnx, bundle.manifest.input)
    placement = Placement.of(bundle.manifest.input, Region(0, 0, 256, 256))
    frames = runtime.bind(placement.coords_N2HW)
    for _ in range(2):
        assert runtime.coords_address == placement.coords_N2HW.ctypes.data
        frames[:] = 128
        first = np.array(runtime.infer()[0])
        placement.coords_N2HW[:] = 2  # all padding, written in place
        assert np.array(runtime.infer()[0]).max() == 0
        placement.coords_N2HW[:] = Placement.of(bundle.manifest.input, Region(0, 0, 256, 256)).coords_N2HW
        assert first.max() > 0
    runtime.close()


@without_gpu
def test_verify_says_which_runtime_and_why(bundle: Bundle) -> None:
    """The command prints the runtime and the reason. A runtime that cannot run exits 3, an unknown one 2."""
    command = [sys.executable, "-m", "anoseg_engines", "verify", str(bundle.path), "--json", "--runtime"]
    found = json.loads(subprocess.run([*command, "auto"], capture_output=True, text=True, check=True).stdout)
    assert "openvino" in found["runtime"]
    assert "no GPU" in found["why"]
    for runtime, code in (("tensorrt", 3), ("nonsense", 2)):
        done = subprocess.run([*command, runtime], capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)


def test_no_telemetry() -> None:
    """The CPU runtime loads OpenVINO without the package that reports its use, even if that is installed."""
    code = "import sys, anoseg_engines.runtimes.openvino; sys.exit(sys.modules.get('openvino_telemetry') is not None)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
