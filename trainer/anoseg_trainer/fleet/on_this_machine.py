"""Runs trainings on this machine, as many at a time as it has cores and GPUs for. A thread waits for each."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anoseg_engines.words import counted
from anoseg_trainer.fleet.products_file import ProductTraining
from anoseg_trainer.fleet.training_run import Ending, run_training

ROUNDING = 1e-6


class OnThisMachine:
    """The cores and GPUs of this machine, and the trainings that use them. Use it from one thread."""

    def __init__(self, trainings: Sequence[ProductTraining]) -> None:
        """Check that there is room for each of these trainings.

        Raises:
            ConfigError: There is not.
        """
        self._cores = cores = len(os.sched_getaffinity(0))
        names = _gpus() if any(training.gpus for training in trainings) else []
        self._gpus = dict.fromkeys(names, 1.0)
        for training in trainings:
            if training.cores > cores or (training.gpus and not names):
                has = f"this machine has {counted(cores, 'core')} and {counted(len(names), 'GPU') if names else 'no GPU'}"
                asked = f"{training.name} needs {counted(training.cores, 'core')}" + (" and a GPU" if training.gpus else "")
                raise ConfigError(f"{asked}; {has}", hint="lower cores or gpus in the products file, or use --ray")
        self._used: dict[str, tuple[ProductTraining, dict[str, float]]] = {}
        self._ended: queue.SimpleQueue[tuple[str, Ending]] = queue.SimpleQueue()
        self._stop = threading.Event()

    def start(self, training: ProductTraining) -> bool:
        """Start a training if there is room for it now; return whether there was."""
        gpus = self._room(training)
        if gpus is None:
            return False
        self._cores -= training.cores
        for name, share in gpus.items():
            self._gpus[name] -= share
        self._used[training.name] = training, gpus
        threading.Thread(target=self._run, args=(training, ",".join(gpus)), name=f"training-{training.name}").start()
        return True

    def endings(self, timeout_s: float) -> list[tuple[str, Ending]]:
        """Wait for trainings that end; return each with its product's name, or none after the time."""
        found = []
        try:
            found.append(self._ended.get(timeout=timeout_s))
            while True:
                found.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        for name, _ in found:
            training, gpus = self._used.pop(name)
            self._cores += training.cores
            for gpu, share in gpus.items():
                self._gpus[gpu] += share
        return found

    def stop(self) -> None:
        """Ask all trainings to end; `endings` still returns them."""
        self._stop.set()

    def _room(self, training: ProductTraining) -> dict[str, float] | None:
        """Return the GPU that a training can have, with the share that it takes; None if there is no room now."""
        if training.cores > self._cores:
            return None
        if not training.gpus:
            return {}
        free = [name for name, left in self._gpus.items() if left >= training.gpus - ROUNDING]
        return {free[0]: training.gpus} if free else None

    def _run(self, training: ProductTraining, gpus: str) -> None:
        self._ended.put((training.name, run_training(training, self._stop, gpus)))


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch  # takes seconds, and is needed for nothing else here

    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return given or [str(number) for number in range(torch.cuda.device_count())]


def has_unused_gpu(trainings: Sequence[ProductTraining]) -> bool:
    """Whether this machine seems to have a GPU, and no training uses one."""
    return Path("/dev/nvidia0").exists() and not any(training.gpus for training in trainings)
