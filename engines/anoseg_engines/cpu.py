"""The CPU runtime: OpenVINO. Runs on the thread that calls it; OpenVINO's own threads do the arithmetic."""

from __future__ import annotations

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from anoseg_engines.errors import EngineError
from anoseg_engines.placement import InputSpec


class CpuRuntime:
    """The bundle's network on the CPU, computed in FP32 (the FP16 weights are widened once, when it is compiled).

    One compiled network per batch size, made at the first `bind_coords` of that size. threads: 0 lets OpenVINO choose.
    """

    def __init__(self, model_onnx: bytes, spec: InputSpec, *, threads: int = 0) -> None:
        self._spec = spec
        self._core = ov.Core()
        self._properties: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            self._properties["INFERENCE_NUM_THREADS"] = threads
        self._model_onnx = model_onnx
        self._requests: dict[int, ov.InferRequest] = {}
        self._coords: NDArray[np.float16] | None = None
        self._request: ov.InferRequest | None = None
        self._read_model()  # a file that is no network is refused here, not at the first part

    @property
    def description(self) -> str:
        """Runtime, version and the precision that runs."""
        return f"openvino {ov.__version__.split('-')[0]} cpu f32"

    def bind_coords(self, coords_N2HW: NDArray[np.float16]) -> None:
        """Bind the coordinates by address (no copy); compiles the network for N if it is new."""
        n = coords_N2HW.shape[0]
        if n not in self._requests:
            self._requests[n] = self._compile(n)
        self._request = self._requests[n]
        self._coords = coords_N2HW  # OpenVINO reads it in place: it must outlive the binding
        self._request.set_tensor("coords", ov.Tensor(coords_N2HW, shared_memory=True))

    def infer(self, frames_NHWC: NDArray[np.uint8]) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Run frames uint8 [N, H, W, 3]; the returned arrays are views of the runtime's, valid until the next call."""
        if self._request is None or self._coords is None or self._coords.shape[0] != frames_NHWC.shape[0]:
            raise EngineError(f"no coordinates are bound for a batch of {frames_NHWC.shape[0]}")
        try:
            self._request.set_tensor("frames", ov.Tensor(frames_NHWC, shared_memory=True))
            self._request.infer()
            maps = self._request.get_tensor("anomaly_map").data
            scores = self._request.get_tensor("score").data
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {_first_line(error)}") from error
        return maps, scores

    def close(self) -> None:
        """Drop the compiled networks."""
        self._request = None
        self._coords = None
        self._requests.clear()

    def _read_model(self) -> ov.Model:
        try:
            model = self._core.read_model(self._model_onnx)
            names = {"frames", "coords"}, {"anomaly_map", "score"}
            found = {i.any_name for i in model.inputs}, {o.any_name for o in model.outputs}
        except RuntimeError as error:
            raise EngineError(f"model.onnx cannot be read by OpenVINO: {_first_line(error)}") from error
        if found != names:
            raise EngineError(f"model.onnx has inputs {sorted(found[0])} and outputs {sorted(found[1])}, not the contract's")
        return model

    def _compile(self, n: int) -> ov.InferRequest:
        model = self._read_model()
        h, w = self._spec.height, self._spec.width
        try:
            model.reshape({"frames": [n, h, w, 3], "coords": [n, 2, h, w]})
            compiled = self._core.compile_model(model, "CPU", self._properties)
            return compiled.create_infer_request()
        except RuntimeError as error:
            raise EngineError(
                f"model.onnx cannot be compiled for {n} inputs of {h}×{w}: {_first_line(error)}",
                hint="the bundle does not fit its manifest; train it anew",
            ) from error


def _first_line(error: Exception) -> str:
    """OpenVINO's messages run over many lines, with addresses of its own source; the last line says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
