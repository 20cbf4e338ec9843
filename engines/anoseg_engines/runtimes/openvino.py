"""The CPU runtime: OpenVINO. Runs on the thread that calls it; OpenVINO's own threads do the arithmetic."""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import EngineError, PrecisionError
from anoseg_engines.placement import InputSpec
from anoseg_engines.runtimes.base import BESIDE, Traffic

# Importing OpenVINO reports its use to its makers where this package is installed; a machine on a line tells nobody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402

PRECISIONS = ("f16", "bf16", "f32")
"""In the order in which they are preferred: half as wide is about twice as fast, and f16 rounds eight times finer than bf16."""
BETWEEN = "before_first_convolution"
_CAPABILITY = {"f16": "FP16", "bf16": "BF16", "f32": "FP32"}


@functools.cache
def _core() -> ov.Core:
    """The one core of this process, never given back.

    With a core goes OpenVINO's CPU plugin, and with it the stack for signals that the plugin laid out for the thread which
    first used it. Where several come and go, a thread is left with one that is mapped no more, and the next signal that
    Python handles ends the process without a word.
    """
    return ov.Core()


def cpu_precisions() -> list[str]:
    """What this processor computes in natively, preferred first; ends with f32, which every processor has."""
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [p for p in PRECISIONS if p == "f32" or _CAPABILITY[p] in capabilities]


STREAMS = 2
"""So many parts are computed at a time; one more that is started keeps both busy while results change hands."""
LANES = 1 + BESIDE + 1
"""The whole processor's, those that share it, and one to be filled meanwhile."""


@dataclass(frozen=True, slots=True)
class _Lane:
    """One set of buffers. requests: what is run, in order; the last gives the results."""

    requests: tuple[ov.InferRequest, ...]
    frames_NHWC: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The network for one batch size. layers: convolutions by the precision they run in."""

    lanes: tuple[_Lane, ...]
    layers: Counter[str]


class CpuRuntime:
    """The bundle's network on the CPU, in the precision asked for: f32, or bf16 or f16 where the processor has it.

    In bf16 what comes before the first convolution (differences of grey values) stays in f32: bf16 has 8 bits for 256 grey
    values, and scores would move by 0.03.

    OpenVINO takes a precision as a hint and may run another one; what runs is read back from the compiled network, and
    another one than asked for is an error. A batch size's networks are compiled at the first `bind` of that size: one that
    takes all threads for one part, and one that runs `STREAMS` parts at a time with a share of them each. That is faster for
    many parts: all threads of a layer wait for the one that was held up. threads: 0 lets OpenVINO choose.

    Raises:
        EngineError: the network cannot be read or compiled. PrecisionError: not in this precision.
    """

    def __init__(self, model_onnx: bytes, spec: InputSpec, *, precision: str = "f32", threads: int = 0) -> None:
        self._spec = spec
        self._core = _core()
        self._precision = precision
        self._threads = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        self._lanes = 1 if (threads or len(os.sched_getaffinity(0))) < STREAMS else LANES
        self._model_onnx = model_onnx
        self._compiled: dict[int, _Compiled] = {}
        self._coords: list[NDArray[np.float16] | None] = [None] * self._lanes
        self._bound: list[_Lane | None] = [None] * self._lanes
        self._compiled[1] = self._compile(1)  # a file that is no network is refused here, not at the first part
        self._layers = self._compiled[1].layers

    @property
    def description(self) -> str:
        """Runtime, version and the precision that runs; with what share of the layers, if it is not all of them."""
        layers = self._layers
        share = "" if len(layers) == 1 else f" ({layers[self._precision]} of {sum(layers.values())} layers)"
        return f"openvino {ov.__version__.split('-')[0]} cpu {self._precision}{share}"

    @property
    def precision(self) -> str:
        """The precision the convolutions run in."""
        return self._precision

    @property
    def layers(self) -> dict[str, int]:
        """How many convolutions run in which precision, at batch 1."""
        return dict(self._layers)

    @property
    def traffic(self) -> Traffic:
        """Nothing is sent anywhere."""
        return Traffic()

    @property
    def coords_address(self) -> int:
        """Where the network reads the coordinates: the address of the array that was bound."""
        lane = self._bound[0]
        if lane is None:
            raise EngineError("no coordinates are bound")
        address: int = lane.requests[0].get_tensor("coords").data.ctypes.data
        return address

    @property
    def lanes(self) -> int:
        """One where there is only one thread."""
        return self._lanes

    def bind(self, coords_N2HW: NDArray[np.float16], lane: int = 0) -> NDArray[np.uint8]:
        """Bind the coordinates by address (no copy); compiles the network for N if it is new."""
        n = coords_N2HW.shape[0]
        if n not in self._compiled:
            self._compiled[n] = self._compile(n)
        bound = self._bound[lane] = self._compiled[n].lanes[lane]
        self._coords[lane] = coords_N2HW  # OpenVINO reads it in place: it must outlive the binding
        for request in bound.requests:
            request.set_tensor("coords", ov.Tensor(coords_N2HW, shared_memory=True))
        return bound.frames_NHWC

    def infer(self, lane: int = 0) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Run the lane's input buffer; the returned arrays are views of the runtime's, valid until the lane's next call."""
        bound = self._bound[lane]
        if bound is None:
            raise EngineError("no coordinates are bound")
        try:
            for request in bound.requests:
                request.infer()
            return request.get_tensor("anomaly_map").data, request.get_tensor("score").data
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {_first_line(error)}") from error

    def close(self) -> None:
        """Drop the compiled networks."""
        self._bound = [None] * self._lanes
        self._coords = [None] * self._lanes
        self._compiled.clear()

    def _read_model(self) -> ov.Model:
        try:
            model = self._core.read_model(self._model_onnx)
            names = {"frames", "coords"}, {"anomaly_map", "score"}
            found = {i.any_name for i in model.inputs}, {o.any_name for o in model.outputs}
        except RuntimeError as error:
            raise EngineError(f"model.onnx cannot be read by OpenVINO: {_first_line(error)}") from error
        if found != names:
            raise EngineError(f"model.onnx has inputs {sorted(found[0])} and outputs {sorted(found[1])}, not the contract's")
        taken = str(model.input("frames").partial_shape)
        said = [self._spec.height, self._spec.width, 3]
        if not model.input("frames").partial_shape.compatible(ov.PartialShape([-1, *said])):
            raise EngineError(
                f"model.onnx takes frames of {taken}, the manifest says {self._spec.height}×{self._spec.width}",
                hint="the bundle does not fit its manifest; train it anew",
            )
        return model

    def _compile(self, n: int) -> _Compiled:
        model = self._read_model()
        h, w = self._spec.height, self._spec.width
        try:
            model.reshape({"frames": [n, h, w, 3], "coords": [n, 2, h, w]})
            model = _with_single_maps(model)
            models = _split(model) if self._precision == "bf16" else (model,)
            hints = ("f32", "bf16") if len(models) == 2 else (self._precision,)
            alone, *beside = self._compile_uses(models, hints)
            lanes = self._lane(n, alone), *(self._lane(n, beside[0]) for _ in range(1, self._lanes))
        except RuntimeError as error:
            raise EngineError(
                f"model.onnx cannot be compiled for {n} inputs of {h}×{w}: {_first_line(error)}",
                hint="the bundle does not fit its manifest; train it anew",
            ) from error
        layers, *others = [_precisions_that_run(compiled[-1]) for compiled in (alone, *beside)]
        if not all(self._precision in found for found in (layers, *others)):
            raise PrecisionError(
                f"OpenVINO runs this network in {', '.join(sorted(layers))} on this processor, {self._precision} was asked for",
                hint="choose runtime cpu, which takes what the processor has",
            )
        return _Compiled(lanes, layers)

    def _compile_uses(self, models: tuple[ov.Model, ...], hints: tuple[str, ...]) -> list[list[ov.CompiledModel]]:
        """The network for one part at a time and, where there are lanes, for parts beside one another.

        Raises:
            RuntimeError: of OpenVINO's.
        """
        alone, *beside = ({"PERFORMANCE_HINT": "LATENCY"}, {"NUM_STREAMS": STREAMS})[: self._lanes]
        copies = [[part.clone() for part in models] for _ in beside]
        with ThreadPoolExecutor(1) as pool:  # compiling keeps one thread busy: both together, READY is sooner
            work = functools.partial(self._compile_parts, hints=hints)
            try:
                others = [pool.submit(work, copy, use=use).result for copy, use in zip(copies, beside, strict=True)]
            except RuntimeError:  # no thread is to be had: one after the other
                others = [functools.partial(work, copy, use=use) for copy, use in zip(copies, beside, strict=True)]
            return [work(models, use=alone), *(other() for other in others)]

    def _compile_parts(
        self, parts: Sequence[ov.Model], hints: tuple[str, ...], use: Mapping[str, str | int]
    ) -> list[ov.CompiledModel]:
        return [
            self._core.compile_model(part, "CPU", {**use, **self._threads, "INFERENCE_PRECISION_HINT": hint})
            for part, hint in zip(parts, hints, strict=True)
        ]

    def _lane(self, n: int, compiled: list[ov.CompiledModel]) -> _Lane:
        frames = np.zeros((n, self._spec.height, self._spec.width, 3), np.uint8)
        requests = tuple(part.create_infer_request() for part in compiled)
        requests[0].set_tensor("frames", ov.Tensor(frames, shared_memory=True))
        if len(requests) == 2:
            requests[1].set_tensor(BETWEEN, requests[0].get_output_tensor(0))
        return _Lane(requests, frames)


def _with_single_maps(model: ov.Model) -> ov.Model:
    """The model with its map in FP32: what comes of it is FP32, and NumPy takes 0.3 ms for 256×256 values of FP16."""
    prepared = ov.preprocess.PrePostProcessor(model)
    prepared.output("anomaly_map").tensor().set_element_type(ov.Type.f32)
    return prepared.build()


def _split(model: ov.Model) -> tuple[ov.Model, ...]:
    """The network in two: up to the first convolution's input, and the rest; as it is, if there is nothing to split."""
    work = model.clone()
    parameters = {p.get_friendly_name(): p for p in work.get_parameters()}
    first = next((op for op in work.get_ordered_ops() if op.get_type_name() == "Convolution"), None)
    if first is None or first.input_value(0).get_node().get_type_name() == "Parameter":
        return (model,)
    cut = first.input_value(0)
    front = ov.Model([ov.opset13.result(cut)], list(parameters.values()), "front").clone()
    between = ov.opset13.parameter(cut.get_shape(), cut.get_element_type(), name=BETWEEN)
    between.output(0).get_tensor().set_names({BETWEEN})
    for target in cut.get_target_inputs():
        if target.get_node().get_type_name() != "Result":
            target.replace_source_output(between.output(0))
    try:
        # Beyond the first convolution only the coordinates are needed, to mask padding.
        rest = ov.Model(work.get_results(), [between, parameters["coords"]], "rest")
    except RuntimeError:
        return (model,)
    return front, rest


def _precisions_that_run(compiled: ov.CompiledModel) -> Counter[str]:
    """Convolutions of the compiled network by precision; of a network without any, the precision of the whole."""
    found: Counter[str] = Counter()
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) == "Convolution":
            found[info["runtimePrecision"].astype(str)] += 1
    if not found:
        found[compiled.get_property("INFERENCE_PRECISION_HINT").to_string()] += 1
    return found


def _first_line(error: Exception) -> str:
    """OpenVINO's messages run over many lines, with addresses of its own source; the last line says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
