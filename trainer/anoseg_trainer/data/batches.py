"""Makes training batches in worker processes. Every batch is a function of seed and step alone.

So the order of the workers does not matter. A resumed training gets the same batches as an uninterrupted training.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anoseg_engines.errors import AnosegError
from anoseg_trainer.data.samples import SampleSettings, make_sample


@dataclass(frozen=True, slots=True)
class Batch:
    """N training samples.

    Attributes:
        frames: uint8 [N, H, W, 3].
        coords: float16 [N, 2, H, W].
        labels: uint8 [N, H, W], 255 is certainly a defect.
        images: Number of the image in the store that each sample is cut from, int64 [N].
    """

    frames: Tensor
    coords: Tensor
    labels: Tensor
    images: Tensor


BatchStream = Generator[Batch, None, None]


Arrays = tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.uint8], NDArray[np.int64]]
"""The attributes of a `Batch`, in their order."""


class BatchDataset(Dataset[Arrays]):
    """Item `step` is the whole batch of that step."""

    def __init__(self, settings: SampleSettings) -> None:
        self.settings = settings

    def __getitem__(self, step: int) -> Arrays:
        """Make the batch, or the share of it that this process is to make."""
        s = self.settings
        height, width = s.window.height, s.window.width
        made = range(s.share[0], s.batch, s.share[1])
        frames = np.empty((len(made), height, width, 3), np.uint8)
        coords = np.empty((len(made), 2, height, width), np.float16)
        labels = np.empty((len(made), height, width), np.uint8)
        images = np.empty(len(made), np.int64)
        for n, i in enumerate(made):
            rng = np.random.default_rng([s.seed, step, i])
            # The first samples of a batch are the defective ones, so their share is the same in every step.
            defective = i < round(s.defects.share * s.batch)
            frames[n], coords[n], labels[n], images[n] = make_sample(rng, s, defective)
        return frames, coords, labels, images


def batches(settings: SampleSettings, steps: range, workers: int) -> BatchStream:
    """Yield the batches of `steps` in order, prefetched by worker processes.

    Close the generator when training ends early; the workers then finish their work in progress.

    Args:
        settings: How samples are made.
        steps: The steps.
        workers: Number of processes; 0: this one makes the batches.

    Raises:
        AnosegError: A worker died, or there is no memory left.
    """
    wanted = _Steps(steps)
    loader: DataLoader[Batch] = DataLoader(
        BatchDataset(settings),  # type: ignore[arg-type]
        batch_size=None,
        sampler=wanted,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_init_worker if workers else None,
    )
    made: Iterator[tuple[Tensor, Tensor, Tensor, Tensor]] = iter(loader)
    try:
        for arrays in made:
            yield Batch(*arrays)
    except RuntimeError as error:
        made = iter(())  # nothing to wait for
        if (failure := _lost_worker(str(error))) is None:
            raise
        raise failure from error
    finally:
        wanted.ended = True
        with contextlib.suppress(RuntimeError, OSError):  # a worker that has died must not hide why the training ends
            for _ in made:
                pass


def _lost_worker(said: str) -> AnosegError | None:
    """Return the error of a worker that died or has no memory, from DataLoader's words; None if they say something else."""
    what = f"a process that makes training images ended: {said.splitlines()[0]}"
    less = "lower training.batch or training.workers"
    if "No space left on device" in said or "Bus error" in said or "shared memory" in said:
        return AnosegError(what, hint=f"shared memory (/dev/shm) is full: {less}, or make it larger")
    if "Cannot allocate memory" in said:
        return AnosegError(what, hint=f"there is not enough memory: {less}")
    if said.startswith("DataLoader worker"):
        return AnosegError(what, hint=f"if the system's log (dmesg) says that it was killed because memory ran out, {less}")
    return None


class _Steps:
    """The steps to make batches for; setting `ended` ends them early."""

    def __init__(self, steps: range) -> None:
        self.steps = steps
        self.ended = False

    def __iter__(self) -> Iterator[int]:
        for step in self.steps:
            if self.ended:
                return
            yield step

    def __len__(self) -> int:
        return len(self.steps)


def _init_worker(_: int) -> None:
    """Leave Ctrl-C and SIGTERM to the main process, and use one thread. More threads would compete for the cores.

    systemd, `timeout` and a terminal signal all processes of a training at once. The main process then still needs the workers
    for the step that it finishes, before it writes the checkpoint.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
