"""`anoseg-train bench`: the bundle's network in PyTorch beside the runtimes, as a yardstick, in the same run.

The weights are those of the bundle's ONNX file, so that PyTorch computes what the runtimes do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from anoseg_engines.benchmark import Candidate, example
from anoseg_engines.bundle.read import Bundle
from anoseg_engines.errors import EngineError
from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.model.network import AnoSegNetwork, ConvNorm


class TorchCandidate:
    """The network in PyTorch on one device. compiled: through torch.compile.

    Times include what the runtimes' do: frames to the device, maps and scores back. Coordinates stay on the device.
    """

    golden = "–"

    def __init__(self, bundle: Bundle, dtype: torch.dtype, device: str, *, compiled: bool = False) -> None:
        short = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
        self.name = f"pytorch {'compiled' if compiled else 'eager'} {short} {device}"
        self.precision = short
        self._device = torch.device(device)
        self._dtype = dtype
        self._traffic = (0, 0)
        frames, coords = example(bundle)
        self._frames, self._coords = torch.from_numpy(frames), torch.from_numpy(coords.astype(np.float32)).to(dtype)
        network = network_from_bundle(bundle).to(self._device, dtype)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._inspect: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = network.inspect
        if compiled:
            self._inspect = torch.compile(network.inspect, dynamic=False)

    def prepare(self, n: int) -> Callable[[], object]:
        """A batch of n golden images."""
        frames = self._frames.repeat(n, 1, 1, 1)
        if self._device.type == "cuda":
            frames = frames.pin_memory()
        coords = self._coords.repeat(n, 1, 1, 1).to(self._device)

        @torch.inference_mode()
        def run() -> object:
            maps, scores = self._inspect(frames.to(self._device, non_blocking=True), coords)
            result = maps.cpu(), scores.cpu()
            if self._device.type == "cuda":
                sent, back = self._traffic
                self._traffic = sent + frames.nbytes, back + result[0].nbytes + result[1].nbytes
            return result

        run()  # a compiled network is compiled here, not while it is measured
        return run

    def traffic(self) -> tuple[int, int]:
        """Bytes to and from the device."""
        return self._traffic

    def close(self) -> None:
        """Nothing is held but memory."""


def torch_candidates(bundle: Bundle, *, threads: int = 0) -> tuple[list[Candidate], dict[str, str]]:
    """Eager FP32 and bf16 on the CPU; where there is a GPU that PyTorch knows, FP16 eager and compiled on it."""
    if threads:
        torch.set_num_threads(threads)
    found: list[Candidate] = [TorchCandidate(bundle, dtype, "cpu") for dtype in (torch.float32, torch.bfloat16)]
    if not torch.cuda.is_available():
        return found, {"pytorch on a GPU": "PyTorch sees none (the CPU build of PyTorch never does)"}
    found.append(TorchCandidate(bundle, torch.float16, "cuda"))
    found.append(TorchCandidate(bundle, torch.float16, "cuda", compiled=True))
    return found, {}


def network_from_bundle(bundle: Bundle) -> AnoSegNetwork:
    """The bundle's network in PyTorch, FP32 arithmetic on its FP16 weights, norms folded.

    Raises:
        EngineError: the bundle does not hold the network that its training record describes.
    """
    record: Any = bundle.manifest.training.get("config", {})
    try:
        config = msgspec.convert(record.get("network", {}), NetworkConfig)
        network = AnoSegNetwork(config, coordinates=bool(record.get("coordinates", True))).eval()
        for module in network.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        stored = {t.name: t for t in onnx.load_from_string(bundle.model_onnx).graph.initializer}
        # The detector's buffers too, which no state dict holds; the image head learns with the rest, and is not exported.
        for name, place in {**dict(network.named_parameters()), **dict(network.named_buffers())}.items():
            if not name.startswith("image_head"):
                place.data.copy_(torch.from_numpy(numpy_helper.to_array(stored[f"network.{name}"]).astype(np.float32)))
    except (msgspec.ValidationError, KeyError, RuntimeError, AttributeError) as error:
        raise EngineError(
            f"{bundle.path}: PyTorch cannot run this bundle's network ({error})", hint="it was trained by another version"
        ) from error
    return network
