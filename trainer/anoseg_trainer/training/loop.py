"""Runs the training loop: takes batches and returns averaged weights. Runs on the main thread.

Worker processes make the batches.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from anoseg_engines.errors import AnosegError
from anoseg_trainer.config import TrainConfig, TrainingConfig
from anoseg_trainer.data.batches import batches
from anoseg_trainer.data.samples import SampleSettings
from anoseg_trainer.model.detector import Detector
from anoseg_trainer.model.encoder import Encoder
from anoseg_trainer.model.feature_variation import FeatureVariation
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.model.network import AnoSegNetwork
from anoseg_trainer.stop_signals import StopSignals
from anoseg_trainer.training.comparison import Comparison
from anoseg_trainer.training.state import TrainingState, whole_identity
from anoseg_trainer.training.step import Arithmetic, planned_rate, update_average
from anoseg_trainer.training.thread_count import ThreadCount
from anoseg_trainer.training.together import SharedTraining, Together
from anoseg_trainer.validation import Validation, ValidationCase, validate

CURVE_POINTS = 4
"""Fewest points of a training curve, the one at the end included."""
NO_LIMIT = 10_000_000
"""Steps for which batches are made if only time ends the training."""


@dataclass(slots=True)
class Status:
    """Progress of a training, for the display.

    Attributes:
        step: Steps done.
        loss: Running mean of the loss.
        done: Share of the training that is over, 0…1.
        left_s: Estimated seconds to the end.
        images_per_s: Training images in a second.
        validation: The latest validation.
    """

    step: int = 0
    loss: float = math.nan
    done: float = 0.0
    left_s: float = math.nan
    images_per_s: float = 0.0
    validation: Validation | None = None


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished training.

    Attributes:
        network: The network with the averaged weights that validated best.
        steps: Steps done.
        steps_before: Of these, the steps before a resume.
        seconds: Training time.
        images_seen: Training images used.
        curve: Points of the training curve.
        losses: (step, loss) during the training.
    """

    network: AnoSegNetwork
    steps: int
    steps_before: int
    seconds: float
    images_seen: int
    curve: list[dict[str, float]]
    losses: list[tuple[int, float]]


class TrainingStoppedError(AnosegError):
    """Training was stopped by Ctrl-C or SIGTERM; the checkpoint is kept."""

    exit_code = 130


def train(
    config: TrainConfig,
    samples: SampleSettings,
    cases: list[ValidationCase],
    *,
    work: Path,
    identity: dict[str, str],
    resume: bool,
    cores: int,
    encoder: Encoder | FixedFilters | None = None,
    comparison: Comparison | None = None,
    group: Together | None = None,
    on_status: Callable[[Status], None] = lambda _: None,
) -> TrainingResult:
    """Train until the steps or the minutes are used up, or validation no longer improves.

    Args:
        config: The configuration.
        samples: How training samples are made.
        cases: Held-out validation cases.
        work: Folder of the checkpoint.
        identity: Values that a resumed training and the checkpoint must share, besides the configuration.
        resume: Continue from the checkpoint in `work`.
        cores: Processor cores to use.
        encoder: The pretrained encoder, or fixed filters that the network sees; None: neither.
        comparison: Compares windows with the memory of good parts; None: the network does not see the memory's map.
        group: The processes that share the steps; None: this one is alone.
        on_status: Called after each step.

    Raises:
        AnosegError: The loss is not finite, or the disk is full.
        TrainingStoppedError: A signal stopped the training; the checkpoint is kept.
        DataError: There is no usable checkpoint, or it belongs to another training.
    """
    t = config.training
    arithmetic = Arithmetic.of(t)
    cores = max(1, cores // (group.count if group else 1))
    threads = ThreadCount(t.threads or (0 if arithmetic.device.type == "cpu" else cores), cores, torch.set_num_threads)
    identity = whole_identity(identity, config)
    state = TrainingState.new(config, samples.seed, arithmetic.device, encoder, reads_memory=comparison is not None)
    if resume:
        state.load(work, identity)
    began_at_step, began = state.step, time.monotonic()
    used_before_s = state.used_s
    steps = range(state.step, t.steps or NO_LIMIT)
    workers = t.workers or (1 if cores <= 4 else min(12, cores - 2))
    if group is not None:
        group.begin(SharedTraining(config, samples, encoder, comparison, steps, workers, cores))
        samples = group.share_of(samples)
    alone = Detector(state.averaged)  # the other views do not change while the network is trained
    if comparison is not None:  # a copy of the memory, because the caller's stays on the CPU
        comparison = dataclasses.replace(comparison, memory=copy.deepcopy(comparison.memory).to(arithmetic.device))
        alone = Detector(state.averaged, memory=comparison.memory)
    alone.to(arithmetic.device)
    status = Status(step=state.step, loss=state.loss)
    with StopSignals() as stop, contextlib.closing(batches(samples, steps, workers)) as stream:
        for batch in stream:
            done = _share_done(state, t)
            if done >= 1 or state.early_stop.is_over(state.step):
                break
            rate = state.early_stop.rate(state.step, planned_rate(done))
            state.learner.set_rate(t.learning_rate * rate)

            threads.before_step()
            step_began = time.monotonic()
            compare = functools.partial(comparison.memory_map, batch, state.step) if comparison else None
            if group is not None:
                group.send_weights(state.learner.network)
            vary = FeatureVariation.of_step(
                config.variation.features, seed=samples.seed, step=state.step, process=samples.share[0]
            )
            loss = state.learner.step(batch, config.loss, arithmetic, compare, vary, group.average if group else None)
            update_average(state.averaged, state.learner.network, state.step, t.ema)
            threads.after_step(time.monotonic() - step_began)

            state.step += 1
            state.used_s = used_before_s + time.monotonic() - began
            if not math.isfinite(loss):
                raise AnosegError(
                    f"training: the loss is {loss} at step {state.step}; training ended, and the checkpoint in {work} is older",
                    hint="lower training.learning_rate, or set training.precision: fp32",
                )
            state.add_loss(loss)
            status.step, status.loss, status.done = state.step, state.loss, done
            status.images_per_s = (state.step - began_at_step) * t.batch / (time.monotonic() - began)
            status.left_s = state.used_s * (1 - done) / max(done, 1e-6)

            regular = state.step % t.validate_every == 0
            # a short training has points of its curve too
            if regular or done >= (len(state.curve) + 1) / CURVE_POINTS:
                with arithmetic.autocast():
                    status.validation = validate(alone, config.input.spec, cases)
                state.add_point(status.validation)
                state.keep_if_best(status.validation)
                if regular and state.early_stop.add_validation(state.step, status.validation.metric, rate):
                    state.go_back_to_best()
            if state.step % t.checkpoint_every == 0:
                state.save(work, identity)
            on_status(status)
            if stop.requested:
                state.save(work, identity)
                raise TrainingStoppedError(
                    f"training stopped at step {state.step}; the checkpoint in {work} is kept",
                    hint="continue with the same command and --resume",
                )

    if group is not None:
        group.end(state.learner.network)
    with arithmetic.autocast():  # as the others, with which it is compared; `create_bundle` measures the best in FP32
        status.validation = validate(alone, config.input.spec, cases)
    status.done, status.left_s = 1.0, 0.0
    if state.step > began_at_step:  # a training that had reached its end before has its last point already
        state.add_point(status.validation)
    state.keep_if_best(status.validation)
    state.save(work, identity)
    on_status(status)
    state.averaged.load_state_dict(state.averaged.state_dict() | state.best)
    return TrainingResult(
        state.averaged.cpu().float(),
        steps=state.step,
        steps_before=began_at_step,
        seconds=state.used_s,
        images_seen=state.step * t.batch,
        curve=state.curve,
        losses=state.losses,
    )


def _share_done(state: TrainingState, config: TrainingConfig) -> float:
    """Return the larger of the used shares of steps and time."""
    by_steps = state.step / config.steps if config.steps else 0.0
    by_time = state.used_s / (60 * config.minutes) if config.minutes else 0.0
    return max(by_steps, by_time)
