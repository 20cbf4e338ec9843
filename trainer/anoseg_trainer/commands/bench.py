"""Runs `anoseg-train bench`: measures the bundle's network in PyTorch in the same run as the runtimes.

PyTorch takes the weights from the bundle's ONNX file, so that it computes the same as the runtimes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from anoseg_engines.benchmark import Candidate, candidates, example, measure
from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.commands.bench import show
from anoseg_engines.errors import EngineError
from anoseg_engines.result_files import try_file
from anoseg_trainer.model.export import in_precision
from anoseg_trainer.model.from_bundle import detector_from_bundle


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    try_file(options.json, "--json")
    bundle = load_bundle(options.bundle)
    runtimes, skipped = candidates(bundle, threads=options.threads)
    pytorch, missing = torch_candidates(bundle, threads=options.threads)
    everything = [*pytorch, *runtimes]
    try:
        with Console(stderr=True).status("measuring") as status:
            report = measure(
                bundle,
                everything,
                skipped | missing,
                seconds=options.seconds,
                threads=options.threads,
                baseline=pytorch[0].name if pytorch else None,
                on_progress=status.update,
            )
    finally:
        for candidate in everything:
            candidate.close()
    show(report, options.json)


class TorchCandidate:
    """The network in PyTorch on one device, a candidate of the benchmark.

    Its times include the same copies as the times of the runtimes: frames go to the device, and maps and scores come back.
    Coordinates stay on the device.

    Attributes:
        name: For the table.
        precision: For the table.
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
        network = in_precision(detector_from_bundle(bundle), dtype).to(self._device)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._inspect: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = network.inspect
        if compiled:
            self._inspect = torch.compile(network.inspect, dynamic=False)

    def prepare(self, n: int) -> Callable[[], object]:
        """Return a function that runs a batch of n golden images."""
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
        """Return the bytes sent to and from the device."""
        return self._traffic

    def close(self) -> None:
        """Do nothing: there is only memory to release."""


def torch_candidates(bundle: Bundle, *, threads: int = 0) -> tuple[list[Candidate], dict[str, str]]:
    """Build all candidates of this machine: FP32 and bf16 on the CPU, FP16 on the GPU, there also with torch.compile.

    Returns:
        The candidates, and the name and reason of each that is missing.
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        found: list[Candidate] = [TorchCandidate(bundle, dtype, "cpu") for dtype in (torch.float32, torch.bfloat16)]
    except EngineError as error:  # made by another version; its runtimes can be measured all the same
        return [], {"pytorch": error.what}
    if not torch.cuda.is_available():
        return found, {"pytorch on a GPU": "PyTorch finds no GPU (its CPU build never does)"}
    found.append(TorchCandidate(bundle, torch.float16, "cuda"))
    found.append(TorchCandidate(bundle, torch.float16, "cuda", compiled=True))
    return found, {}
