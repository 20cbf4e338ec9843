"""Compiles the bundle's network with OpenVINO, in a given precision and batch size. Runs on the caller's thread."""

from __future__ import annotations

import functools
import os
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.bundle import INT8
from anoseg_engines.errors import EngineError, PrecisionError
from anoseg_engines.placement import InputSpec
from anoseg_engines.runtimes.base import MAX_RUNNING
from anoseg_engines.runtimes.openvino_joins import split_joins
from anoseg_engines.runtimes.openvino_library import ov
from anoseg_engines.runtimes.openvino_memory import multiply_memory_in_bf16
from anoseg_engines.runtimes.openvino_resizes import multiply_resizes

PRECISIONS = ("f16", "bf16", "f32")
"""In order of preference: half the width is about twice as fast, and f16 rounds eight times finer than bf16."""
STREAMS = 2
"""How many parts the shared network computes at a time. A third one that is started keeps both streams busy while results
are handed over."""
PARALLEL = MAX_RUNNING + 1
"""Sets of buffers for parts that run at the same time: those that run, and one to be filled meanwhile."""
LARGE = 2**17
"""Network pixels (inputs × height × width) from which two threads compute one part about as fast as a part each. A second
network would then take much memory for little: 228 MB at 704×288."""

OTHER_SIZES = 2
"""How many batch sizes stay compiled besides those that `keep_ready` names, at least. One takes about 15 MB for each input."""

PRECISE = re.compile(r"\b(encoder|memory|places)\.")
"""Names of weights that bf16 would round too far: those of the features that are compared with good parts, and of the
comparison. A bf16 encoder moves a map by up to 0.12. Of the comparison, `openvino_memory` computes in bf16 what may be."""
_CAPABILITY = {"f16": "FP16", "bf16": "BF16", "f32": "FP32"}


@functools.cache
def core() -> ov.Core:
    """The one OpenVINO core of this process, never freed.

    A core frees OpenVINO's CPU plugin, and with it the signal stack that the plugin set up for the thread that first used it.
    After several cores have come and gone, a thread can be left with an unmapped signal stack; the next signal that Python
    handles then ends the process without a message.
    """
    return ov.Core()


def sets_of_buffers(threads: int) -> int:
    """How many sets of buffers to make for parts that run at the same time. 0 on one core, because parts then run in turn."""
    return PARALLEL if (threads or len(os.sched_getaffinity(0))) >= STREAMS else 0


def cpu_precisions() -> list[str]:
    """The precisions this processor computes natively, in order of preference. The last is f32, which all have."""
    capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [p for p in PRECISIONS if p == "f32" or _CAPABILITY[p] in capabilities]


@dataclass(frozen=True, slots=True)
class BufferedNetwork:
    """A compiled network with its own input and output buffers.

    Attributes:
        requests: The requests to run, one after the other. The last request has the outputs.
        frames_NHWC: The input buffer.
    """

    requests: tuple[ov.InferRequest, ...]
    frames_NHWC: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class CompiledNetwork:
    """The network compiled for one batch size.

    Attributes:
        alone: The network that uses all threads for one part.
        parallel: The networks that share the threads; see `STREAMS`.
        layers: Number of convolutions by the precision in which they run.
    """

    alone: BufferedNetwork
    parallel: tuple[BufferedNetwork, ...]
    layers: Counter[str]


@dataclass(slots=True, kw_only=True)
class Networks:
    """A bundle's network, compiled for each batch size when it is first needed. Any thread.

    The sizes that `keep_ready` names stay compiled. Of the others, the one used longest ago is forgotten first: the images of
    a folder may all differ in size, and each compiled network takes memory.

    Attributes:
        precision: One of `PRECISIONS`, or `INT8` for a quantised network.
        threads: 0 lets OpenVINO decide.
        n_parallel: How many sets of buffers the shared network has; 0 if it is not needed.
        compiled: The compiled networks by batch size, the one used last at the end.
        kept: The sizes that stay compiled.
        others: How many other sizes stay compiled.
    """

    model_onnx: bytes
    spec: InputSpec
    precision: str
    threads: int
    n_parallel: int
    compiled: OrderedDict[int, CompiledNetwork] = field(default_factory=OrderedDict)
    kept: set[int] = field(default_factory=set)
    others: int = OTHER_SIZES
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of_size(self, n: int) -> CompiledNetwork:
        """Return the network for batches of n; if it is new, compile it.

        Raises:
            PrecisionError: OpenVINO runs the network in another precision.
            EngineError: The network cannot be read or compiled.
        """
        with self.lock:
            found = self.compiled.get(n)
        made = self._compile(n) if found is None else found  # not locked: parts of other sizes are inspected meanwhile
        with self.lock:
            made = self.compiled.setdefault(n, made)
            self.compiled.move_to_end(n)
            others = [size for size in self.compiled if size not in self.kept and size != n]
            for size in others[: max(0, len(others) + (n not in self.kept) - self.others)]:
                del self.compiled[size]
        return made

    def keep_ready(self, sizes: Collection[int], others: int) -> None:
        """Compile for these batch sizes, and keep them until the next call, besides at least `others` sizes.

        Raises:
            PrecisionError, EngineError: As `of_size`.
        """
        self.others = max(others, OTHER_SIZES)
        for n in sizes:
            self.kept.add(n)
            self.of_size(n)
        self.kept.intersection_update(sizes)

    def _compile(self, n: int) -> CompiledNetwork:
        if self.precision in PRECISIONS and self.precision not in cpu_precisions():
            # Some processors would imitate bf16 in a part of the layers, slower than f32.
            raise PrecisionError(
                f"{self.precision} was asked for, but the processor does not compute in {self.precision}",
                hint="choose runtime cpu, which takes a precision that the processor has",
            )
        model = self._read_model()
        h, w = self.spec.height, self.spec.width
        try:
            model.reshape({"frames": [n, h, w, 3], "coords": [n, 2, h, w]})
            split_joins(model)
            multiply_resizes(model)
            if self.precision in ("bf16", INT8) and "bf16" in cpu_precisions():
                multiply_memory_in_bf16(model)
            precise = _precise_convolutions(model)
            model = _with_f32_map(model)
            # Of a quantised network, the convolutions run in INT8 and the rest in f32, except for the memory's products.
            rest = "f32" if self.precision == INT8 else self.precision
            pieces = _pieces(model, precise) if self.precision == "bf16" else (Piece(model, rest),)
            networks = self._compile_uses(pieces, pixels=n * h * w)
            buffered = self._buffered(networks[0], n)
            parallel = tuple(self._buffered(networks[-1], n) for _ in range(self.n_parallel))
        except RuntimeError as error:
            raise EngineError(
                f"model.onnx cannot be compiled for {n} inputs of {h}×{w}: {last_line(error)}",
                hint="the bundle does not fit its manifest; train it again",
            ) from error
        layers, *others = [_precisions_that_run(compiled) for compiled in networks]
        if not all(self.precision in found for found in (layers, *others)):
            raise PrecisionError(
                f"OpenVINO runs this network in {', '.join(sorted(layers))}, {self.precision} was asked for; the processor "
                f"lacks {self.precision}, or the bundle has nothing that may run in it",
                hint="choose runtime cpu, which takes a precision that the processor has",
            )
        return CompiledNetwork(buffered, parallel, layers)

    def _read_model(self) -> ov.Model:
        try:
            model = core().read_model(self.model_onnx)
            names = {"frames", "coords"}, {"anomaly_map", "score"}
            found = {i.any_name for i in model.inputs}, {o.any_name for o in model.outputs}
        except RuntimeError as error:
            raise EngineError(f"model.onnx cannot be read by OpenVINO: {last_line(error)}") from error
        if found != names:
            raise EngineError(
                f"model.onnx has inputs {sorted(found[0])} and outputs {sorted(found[1])}; "
                f"a bundle's network has {sorted(names[0])} and {sorted(names[1])}"
            )
        shape = model.input("frames").partial_shape
        if not shape.compatible(ov.PartialShape([-1, self.spec.height, self.spec.width, 3])):
            raise EngineError(
                f"model.onnx takes frames of {shape}, the manifest says {self.spec.height}×{self.spec.width}",
                hint="the bundle does not fit its manifest; train it again",
            )
        return model

    def _compile_uses(self, pieces: tuple[Piece, ...], pixels: int) -> list[list[ov.CompiledModel]]:
        """Compile for one part at a time, and once more for several at once where that is faster.

        Args:
            pieces: The network.
            pixels: Network pixels of one part.

        Raises:
            RuntimeError: From OpenVINO.
        """
        alone: Mapping[str, str | int] = {"PERFORMANCE_HINT": "LATENCY"}
        one_thread_each = (self.threads or len(os.sched_getaffinity(0))) < 2 * STREAMS
        if not self.n_parallel or (pixels >= LARGE and one_thread_each):  # parts that are started then wait for each other
            return [self._compile_pieces(pieces, alone)]
        copies = [Piece(piece.model.clone(), piece.precision) for piece in pieces]
        compile_shared = functools.partial(self._compile_pieces, copies, {"NUM_STREAMS": STREAMS})
        with ThreadPoolExecutor(1) as pool:  # compiling uses one core, so the engine is READY sooner with both at once
            try:
                shared = pool.submit(compile_shared).result
            except RuntimeError:  # no thread can be started
                shared = compile_shared
            return [self._compile_pieces(pieces, alone), shared()]

    def _compile_pieces(self, pieces: Sequence[Piece], use: Mapping[str, str | int]) -> list[ov.CompiledModel]:
        threads = {"INFERENCE_NUM_THREADS": self.threads} if self.threads else {}
        return [
            core().compile_model(piece.model, "CPU", {**use, **threads, "INFERENCE_PRECISION_HINT": piece.precision})
            for piece in pieces
        ]

    def _buffered(self, compiled: Sequence[ov.CompiledModel], n: int) -> BufferedNetwork:
        frames = np.zeros((n, self.spec.height, self.spec.width, 3), np.uint8)
        requests = tuple(piece.create_infer_request() for piece in compiled)
        requests[0].set_tensor("frames", ov.Tensor(frames, shared_memory=True))
        handed_over: dict[str, ov.Tensor] = {}
        for piece, request in zip(compiled, requests, strict=True):
            for port in piece.inputs:
                if port.any_name in handed_over:
                    request.set_tensor(port, handed_over[port.any_name])
            handed_over |= {name: request.get_tensor(port) for port in piece.outputs for name in port.names}
        return BufferedNetwork(requests, frames)


def last_line(error: Exception) -> str:
    """Return the last line of an OpenVINO message, which is the most useful. The others name places in OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _with_f32_map(model: ov.Model) -> ov.Model:
    """The model with its map in FP32, which stitching needs. NumPy would take 0.3 ms to convert 256×256 values of FP16."""
    prepared = ov.preprocess.PrePostProcessor(model)
    prepared.output("anomaly_map").tensor().set_element_type(ov.Type.f32)
    return prepared.build()


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the network that runs in one precision."""

    model: ov.Model
    precision: str


def _pieces(model: ov.Model, precise: set[str]) -> tuple[Piece, ...]:
    """Split the network into pieces of f32, bf16 and f32. The first and the last piece may be missing.

    bf16 has only 8 bits. So f32 computes what subtracts numbers of nearly the same size: grey values before the first
    convolution; the features that are compared with those of good parts, and the comparison, whose products are in bf16 where
    the model says so; and at the end, whatever the network itself converts to f32.

    Args:
        model: The network.
        precise: Names of the convolutions that must run in f32.
    """
    if not any(op.get_type_name() == "Convolution" for op in model.get_ops()):
        return (Piece(model, "bf16"),)
    work = model.clone()
    front, rest = _cut(work, _precise_from_the_start(work, precise), "beginning")
    if rest is None:
        return (Piece(model, "f32"),)
    if front is not None and any("frames" in port.get_names() for port in rest.inputs):
        return (Piece(model, "bf16"),)
    pieces = () if front is None else (Piece(front, "f32"),)
    end = _behind_conversions(rest)
    if not all(result.get_friendly_name() in end for result in rest.get_results()):
        return (*pieces, Piece(rest, "bf16"))
    middle, tail = _cut(rest, _dependent(rest) - end, "middle")
    return (*pieces, Piece(middle, "bf16"), Piece(tail, "f32"))


def _precise_from_the_start(model: ov.Model, precise: set[str]) -> set[str]:
    """Return the operations on frames that come before the first convolution that may run in bf16."""
    dependent = _dependent(model)
    found: set[str] = set()
    for op in model.get_ordered_ops():
        name = op.get_friendly_name()
        if name not in dependent or op.get_type_name() == "Result":
            continue
        above = [node for node in _inputs(op) if node.get_friendly_name() in dependent]
        convolution = op.get_type_name() in ("Convolution", "GroupConvolution")
        if all(node.get_friendly_name() in found for node in above) and (not convolution or name in precise):
            found.add(name)
    return found


def _precise_convolutions(model: ov.Model) -> set[str]:
    """Return the names of the convolutions whose weights belong to the encoder or the memory of good parts.

    `model` must be as it was read. Later steps fold weights into new constants, which lose their names.
    """
    found: set[str] = set()
    for op in model.get_ops():
        if op.get_type_name() in ("Convolution", "GroupConvolution"):
            node = op.input_value(1).get_node()
            while node.get_type_name() != "Constant" and node.get_input_size():
                node = node.input_value(0).get_node()
            if PRECISE.search(node.get_friendly_name()):
                found.add(op.get_friendly_name())
    return found


def _behind_conversions(model: ov.Model) -> set[str]:
    """Return the operations behind a conversion from f16 to f32."""
    dependent = _dependent(model)
    found: set[str] = set()
    for op in model.get_ordered_ops():
        converts = (
            op.get_type_name() == "Convert"
            and op.get_output_element_type(0) == ov.Type.f32
            and op.get_input_element_type(0) == ov.Type.f16
            and op.get_friendly_name() in dependent
        )
        if converts or any(node.get_friendly_name() in found for node in _inputs(op)):
            found.add(op.get_friendly_name())
    return found


def _dependent(model: ov.Model) -> set[str]:
    """Return the operations whose results depend on more than the coordinates."""
    found: set[str] = set()
    for op in model.get_ordered_ops():
        is_input = op.get_type_name() == "Parameter" and "coords" not in op.output(0).get_names()
        if is_input or any(node.get_friendly_name() in found for node in _inputs(op)):
            found.add(op.get_friendly_name())
    return found


def _inputs(op: ov.Node) -> list[ov.Node]:
    return [op.input_value(i).get_node() for i in range(op.get_input_size())]


def _cut(model: ov.Model, first: set[str], name: str) -> tuple[ov.Model | None, ov.Model | None]:
    """Split a model into the operations in `first` and the others. What depends on the coordinates alone is in both.

    Args:
        model: The model; its operations become those of the second model.
        first: Names of operations.
        name: Prefix of the names under which values are handed over.

    Returns:
        Both models; the first is None if it would be empty, the second if all results come from `first`.
    """
    cuts: dict[tuple[str, int], ov.Output] = {}
    only_results = True
    for op in model.get_ordered_ops():
        if op.get_friendly_name() in first:
            continue
        for value in (op.input_value(i) for i in range(op.get_input_size())):
            node = value.get_node()
            if node.get_friendly_name() in first and node.get_type_name() != "Parameter":
                cuts[node.get_friendly_name(), value.get_index()] = value
                only_results &= op.get_type_name() == "Result"
    if not cuts:
        return None, model
    if only_results:
        return model, None
    parameters = model.get_parameters()
    outputs = []
    for number, value in enumerate(cuts.values()):
        value.get_tensor().add_names({f"{name}_{number}"})
        outputs.append(ov.opset13.result(value))
    front = ov.Model(outputs, parameters, name).clone()
    inputs = [p for p in parameters if "coords" in p.output(0).get_names() or _is_read(p, first)]
    for number, value in enumerate(cuts.values()):
        replacement = ov.opset13.parameter(value.get_shape(), value.get_element_type(), name=f"{name}_{number}")
        replacement.output(0).get_tensor().set_names({f"{name}_{number}"})
        for target in value.get_target_inputs():
            if target.get_node().get_friendly_name() not in first and target.get_node() not in outputs:
                target.replace_source_output(replacement.output(0))
        inputs.append(replacement)
    return front, ov.Model(model.get_results(), inputs, f"after_{name}")


def _is_read(parameter: ov.Node, first: set[str]) -> bool:
    """Return whether an operation that is not in `first` reads the parameter."""
    return any(target.get_node().get_friendly_name() not in first for target in parameter.output(0).get_target_inputs())


def _precisions_that_run(pieces: Sequence[ov.CompiledModel]) -> Counter[str]:
    """Count the network's convolutions by precision. Without any, the precision of the last piece counts."""
    found: Counter[str] = Counter()
    for piece in pieces:
        for op in piece.get_runtime_model().get_ops():
            info = op.get_rt_info()
            if "layerType" in info and info["layerType"].astype(str) == "Convolution":
                precision = info["runtimePrecision"].astype(str)
                found[INT8 if precision in ("i8", "u8") else precision] += 1
    return found or Counter([pieces[-1].get_property("INFERENCE_PRECISION_HINT").to_string()])
