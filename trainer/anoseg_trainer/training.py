"""The training loop: batches in, averaged weights out. Runs on the main thread; batches come from worker processes."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import torch
from torch import Tensor

from anoseg_engines.errors import AnosegError, DataError
from anoseg_trainer.config import TrainConfig, TrainingConfig
from anoseg_trainer.data.batches import Batch, Recipe, batches
from anoseg_trainer.model.checkpoint import load_checkpoint, save_checkpoint
from anoseg_trainer.model.losses import (
    adversarial_loss,
    discriminator_loss,
    image_loss,
    pairs_generated,
    pixel_losses,
    reconstruction_loss,
)
from anoseg_trainer.model.network import AnoSegNetwork, Discriminator, normalised, valid_pixels
from anoseg_trainer.threads import ThreadCount
from anoseg_trainer.validation import Case, Validation, validate

NO_END = 10_000_000
LEAST_GAIN = 0.001
"""A validation counts as better from this gain in merit."""
CLIP = 1.0
"""Largest norm of the gradient: a batch with a huge defect must not undo what many taught of small ones."""
WARM_UP = 0.03
"""Share of training in which the learning rate rises."""


@dataclass(slots=True)
class Status:
    """Where training stands, for the live line. loss: running mean. done: 0…1. left_s: seconds to the end, estimated."""

    step: int = 0
    loss: float = math.nan
    done: float = 0.0
    left_s: float = math.nan
    images_per_s: float = 0.0
    validation: Validation | None = None


@dataclass(slots=True)
class Result:
    """The trained network (averaged weights, the best by validation), and how it went."""

    network: AnoSegNetwork
    steps: int
    seconds: float
    images_seen: int
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass(slots=True)
class Patience:
    """Early stop: after `limit` validations that brought nothing better, the learning rate falls to 0 within a tenth of the
    steps so far, and training ends. Weights that were never cooled down would be worse than those of the planned end.

    limit None: training runs to its planned end. ends_from, ends_at: steps between which the rate falls.
    """

    limit: int | None
    best: float = -1.0
    waited: int = 0
    ends_from: int | None = None
    ends_at: int | None = None

    def note(self, step: int, merit: float) -> None:
        """A validation at `step` gave `merit`."""
        better = merit > self.best + LEAST_GAIN
        self.best, self.waited = (merit, 0) if better else (self.best, self.waited + 1)
        if self.limit is not None and self.waited >= self.limit and self.ends_at is None:
            self.ends_from, self.ends_at = step, step + max(1, step // 10)

    def share(self, step: int) -> float:
        """Share of the planned learning rate, 1 until the end has begun."""
        if self.ends_from is None or self.ends_at is None:
            return 1.0
        return max(0.0, (self.ends_at - step) / (self.ends_at - self.ends_from))

    def is_over(self, step: int) -> bool:
        """Whether the early end is reached."""
        return self.ends_at is not None and step >= self.ends_at

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best": self.best, "waited": self.waited, "ends_from": self.ends_from, "ends_at": self.ends_at}


class TrainingStoppedError(AnosegError):
    """Training was stopped by Ctrl-C or SIGTERM; the checkpoint is kept."""

    exit_code = 130


def train(
    config: TrainConfig,
    recipe: Recipe,
    cases: list[Case],
    *,
    work: Path,
    identity: dict[str, str],
    resume: bool,
    on_status: Callable[[Status], None] = lambda _: None,
) -> Result:
    """Train until steps or minutes are used up.

    recipe: training parts. cases: held-out validation cases. work: folder of the checkpoint. identity: what must be equal
    for a resume to make sense (data fingerprint, seed).

    Raises:
        AnosegError: a loss is not finite; the disk is full. TrainingStoppedError: interrupted; checkpoint kept.
        DataError: the checkpoint belongs to another training.
    """
    t = config.training
    device = _device(t)
    autocast_dtype = _precision(t, device)
    cores = os.cpu_count() or 1
    threads = ThreadCount(t.threads or (0 if device.type == "cpu" else cores), cores, torch.set_num_threads)
    workers = t.workers or (1 if cores <= 4 else min(12, cores - 2))
    torch.manual_seed(recipe.seed)
    network = AnoSegNetwork(config.network, coordinates=config.coordinates)
    network = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    discriminator = Discriminator().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=t.learning_rate, weight_decay=t.weight_decay)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=t.learning_rate / 4, betas=(0.5, 0.99))
    parts = {"network": network, "averaged": averaged, "discriminator": discriminator}
    optimizers = {"optimizer": optimizer, "optimizer_d": optimizer_d}
    patience = Patience(t.patience)
    step, used_s, best_merit, best, curve = 0, 0.0, -1.0, copy.deepcopy(averaged.state_dict()), []
    identity = identity | {"config": _comparable(config)}
    if resume:
        state = load_checkpoint(work)
        _refuse_other_training(state["identity"], identity, work)
        for name, module in (parts | optimizers).items():
            module.load_state_dict(state[name])
        step, used_s, curve = state["step"], state["used_s"], state["curve"]
        best_merit, best = state["best_merit"], state["best"]
        patience = Patience(t.patience, **state["patience"])
    status = Status(step=step, loss=state.get("loss", math.nan) if resume else math.nan)

    def save() -> None:
        state = {name: module.state_dict() for name, module in (parts | optimizers).items()}
        state |= {"step": step, "used_s": used_s, "loss": status.loss, "curve": curve, "best_merit": best_merit, "best": best}
        state["patience"] = patience.state()
        note = {"step": step, "seconds": round(used_s, 1), "best": best_merit, "curve": curve[-20:]}
        save_checkpoint(work, state | {"identity": identity}, note)

    started = time.monotonic() - used_s
    steps_here, clock_start = 0, time.monotonic()
    with StopFlag() as stop, contextlib.closing(batches(recipe, range(step, t.steps or NO_END), workers)) as stream:
        for batch in stream:
            done = max(step / t.steps if t.steps else 0.0, used_s / (60 * t.minutes) if t.minutes else 0.0)
            if done >= 1 or patience.is_over(step):
                break
            rate = t.learning_rate * _schedule(done) * patience.share(step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            for group in optimizer_d.param_groups:
                group["lr"] = rate / 4

            threads.before_step()
            step_started = time.monotonic()
            loss = _train_step(config, network, discriminator, optimizer, optimizer_d, batch, device, autocast_dtype)
            # The average reaches back over a fifteenth of the steps so far: a short training is not held at its beginning.
            _average(averaged, network, min(t.ema, step / (15 + step)))

            threads.after_step(time.monotonic() - step_started)

            step += 1
            steps_here += 1
            used_s = time.monotonic() - started
            if not math.isfinite(loss):
                raise AnosegError(
                    f"training: the loss is {loss} at step {step}; stopped, the checkpoint in {work} is from before",
                    hint="lower training.learning_rate, or set training.precision: fp32",
                )
            status.step, status.done = step, done
            status.loss = loss if math.isnan(status.loss) else 0.98 * status.loss + 0.02 * loss
            status.images_per_s = steps_here * t.batch / (time.monotonic() - clock_start)
            status.left_s = used_s * (1 - done) / max(done, 1e-6)
            if step % t.validate_every == 0:
                with torch.autocast(device.type, autocast_dtype or torch.bfloat16, enabled=autocast_dtype is not None):
                    status.validation = validate(averaged, config.input.spec, cases)
                curve.append(_point(step, used_s, status))
                if status.validation.merit > best_merit:
                    best_merit, best = status.validation.merit, copy.deepcopy(averaged.state_dict())
                patience.note(step, status.validation.merit)
            if step % t.checkpoint_every == 0:
                save()
            on_status(status)
            if stop.requested:
                save()
                raise TrainingStoppedError(
                    f"training stopped at step {step}; the checkpoint in {work} is kept",
                    hint="go on with the same command and --resume",
                )
    status.validation, status.done, status.left_s = validate(averaged, config.input.spec, cases), 1.0, 0.0
    if steps_here:  # a training that was at its end already has its last point
        curve.append(_point(step, used_s, status))
    if status.validation.merit > best_merit:
        best_merit, best = status.validation.merit, copy.deepcopy(averaged.state_dict())
    save()
    on_status(status)
    averaged.load_state_dict(best)
    return Result(averaged.cpu().float(), step, used_s, step * t.batch, curve)


def _train_step(
    config: TrainConfig,
    network: AnoSegNetwork,
    discriminator: Discriminator,
    optimizer: torch.optim.Optimizer,
    optimizer_d: torch.optim.Optimizer,
    batch: Batch,
    device: torch.device,
    autocast_dtype: torch.dtype | None,
) -> float:
    """One step of both networks; returns the network's loss (not finite: something went wrong)."""
    frames = batch.frames.to(device, non_blocking=True).float()
    coords = batch.coords.to(device, non_blocking=True).float()
    labels = batch.labels.to(device, non_blocking=True).float() / 255
    image = normalised(frames, torch.float32).contiguous(memory_format=torch.channels_last)
    valid = valid_pixels(coords).float()
    good = labels.flatten(1).amax(dim=1) == 0
    adversarial = config.loss.adversarial > 0 and bool(good.any())
    enabled = autocast_dtype is not None
    with torch.autocast(device.type, autocast_dtype or torch.bfloat16, enabled=enabled):
        outputs = network(frames, coords, reconstruct=adversarial or config.loss.reconstruction > 0)
        losses: dict[str, Tensor] = pixel_losses(outputs, labels, valid, config.loss)
        if config.loss.image:
            losses["image"] = image_loss(network, outputs, labels, valid)
        if config.loss.reconstruction:
            losses["reconstruction"] = reconstruction_loss(outputs, image, labels, valid)
        if adversarial:
            generated = pairs_generated(outputs, good)
            on_pairs = discriminator_loss(discriminator, image[good], generated)
            optimizer_d.zero_grad(set_to_none=True)
            on_pairs.backward()  # type: ignore[no-untyped-call]
            optimizer_d.step()
            discriminator.requires_grad_(False)
            losses["adversarial"] = adversarial_loss(discriminator, generated)
            discriminator.requires_grad_(True)
    loss = torch.stack([getattr(config.loss, name) * value for name, value in losses.items()]).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def _average(averaged: AnoSegNetwork, network: AnoSegNetwork, decay: float) -> None:
    """Exponential average of weights and norm statistics."""
    mean, now = averaged.state_dict(), network.state_dict()
    floats = [name for name, value in mean.items() if value.is_floating_point()]
    torch._foreach_lerp_([mean[n] for n in floats], [now[n] for n in floats], 1 - decay)


def _schedule(done: float) -> float:
    """Share of the learning rate after the share `done` of training: a short rise, then a half cosine to 1 %."""
    if done < WARM_UP:
        return 0.05 + 0.95 * done / WARM_UP
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _point(step: int, seconds: float, status: Status) -> dict[str, float]:
    """One point of the training curve."""
    assert status.validation is not None
    return {
        "step": step,
        "seconds": round(seconds, 1),
        "loss": round(status.loss, 5),
        "image_auroc": round(status.validation.image_auroc, 5),
        "pixel_ap": round(status.validation.pixel_ap, 5),
    }


def _device(config: TrainingConfig) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise DataError("training.device is cuda, but PyTorch finds no GPU here", hint="set training.device: auto")
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


def _precision(config: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """bf16 where it is fast; None: FP32."""
    if config.precision == "auto":
        fast = device.type == "cuda" or _cpu_has_bf16()
        return torch.bfloat16 if fast else None
    return torch.bfloat16 if config.precision == "bf16" else None


def _cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 itself; emulated, it would be slower than FP32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(name in flags for name in ("avx512_bf16", "amx_bf16")) or (platform.machine() == "aarch64" and "bf16" in flags)


def _comparable(config: TrainConfig) -> str:
    """The configuration without what may change between a stop and a resume."""
    plain = msgspec.to_builtins(config)
    for key in ("threads", "workers", "checkpoint_every", "device", "precision"):
        plain["training"].pop(key)
    for key in ("false_reject", "detector"):  # what is done with the network afterwards
        plain.pop(key)
    return msgspec.json.encode(plain).decode()


def _refuse_other_training(found: dict[str, str], wanted: dict[str, str], work: Path) -> None:
    different = [key for key in wanted if found.get(key) != wanted[key]]
    if different:
        raise DataError(
            f"{work}: the checkpoint belongs to another training (different {', '.join(different)})",
            hint="resume with the same data, seed, configuration and --false-reject, or start anew without --resume",
        )


class StopFlag:
    """Notes Ctrl-C and SIGTERM so that a step ends whole; a second signal acts at once. Main thread only, else inert."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._before[number])
