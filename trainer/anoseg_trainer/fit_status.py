"""Describes a training that runs or has ended, in WORK/status.json: how far it is, its figures, or why it failed.

`pipeline.fit` writes the file, on the main thread. `fleet` reads it, in another process and perhaps on another machine. The
file is replaced as a whole, so a reader never sees half of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from anoseg_engines.errors import AnosegError
from anoseg_engines.files import shown_name
from anoseg_trainer.config import TrainConfig
from anoseg_trainer.data.good_images import find_good_images

STATUS = "status.json"
WRITE_EVERY_S = 1.0
STOPPED = 130
"""Exit code of a training that a signal stopped."""

Level = Literal["good", "care", "bad"]


class TrainingKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a training is of. Trainings with equal keys have the same result.

    Attributes:
        data: The data folder.
        images: SHA-256 over the names and sizes of its good images.
        out: STORE/NAME.
        config: SHA-256 of the configuration, without what changes only the speed.
        seed: Seed of all random choices.
        quick: Whether only the version without training is wanted.
    """

    data: str
    images: str
    out: str
    config: str
    seed: int
    quick: bool

    @classmethod
    def of(cls, data: Path, out: Path, config: TrainConfig, *, seed: int, quick: bool) -> TrainingKey:
        """Look at the data folder and return the key.

        Raises:
            DataError: The folder does not exist, or has too few images.
        """
        paths = find_good_images(data)
        images = hashlib.sha256()
        for path in paths:
            with contextlib.suppress(OSError):  # reading it will say what is wrong
                images.update(os.fsencode(path.name) + b"\0%d\0" % path.stat().st_size)
        plain = msgspec.to_builtins(config)
        for key in ("threads", "workers", "checkpoint_every", "device"):
            plain["training"].pop(key)
        return cls(
            data=shown_name(data.resolve()),
            images=images.hexdigest(),
            out=shown_name(out.resolve()),
            config=hashlib.sha256(msgspec.json.encode(plain)).hexdigest(),
            seed=seed,
            quick=quick,
        )

    def differences(self, earlier: TrainingKey) -> Iterator[str]:
        """Yield what differs from an earlier training, in words."""
        if self.data != earlier.data:
            yield f"its images were in {earlier.data}"
        elif self.images != earlier.images:
            yield "its good images have changed"
        if self.out != earlier.out:
            yield f"its bundle was {earlier.out}"
        if self.config != earlier.config:
            yield "its configuration has changed"
        if self.seed != earlier.seed:
            yield f"the seed was {earlier.seed}"
        if self.quick != earlier.quick:
            yield "it was with --quick" if earlier.quick else "it was without --quick"


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A finished training.

    Attributes:
        version: The bundle's version.
        digest: Its digest.
        report: Name of its report, in the same folder as this file.
        level, answer: Whether the bundle is good enough to use, as the report says it.
        defects: By which defects it is judged: real or synthetic ones.
        defective: How many of them there are.
        escapes: How many of them pass at the score threshold.
        good: Good parts that were held out for the threshold.
        false_rejects: How many of them are rejected there.
        asked: The share of good parts that may be rejected.
        promised: Upper bound on the share that is rejected; None if nothing is promised.
        needed: Good parts, held out from the training, that a promise of what was asked needs; 0 if it is promised.
        look_at: Which good images to look at, in words; empty if none costs much.
        images: Good images.
        steps: Training steps; 0 if no network was trained.
        seconds: Training time.
    """

    version: Annotated[int, msgspec.Meta(ge=1)]
    digest: str
    report: str
    level: Level
    answer: str
    defects: str
    defective: int
    escapes: int
    good: int
    false_rejects: int
    asked: float
    promised: float | None
    look_at: str
    score_threshold: float
    synthetic_caught: float
    image_auroc: float
    images: int
    steps: int
    seconds: float
    needed: int = 0

    @property
    def caught(self) -> float:
        """Share of the defects that are rejected; 0 if there are none."""
        return 1 - self.escapes / self.defective if self.defective else 0.0


class FitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file.

    Attributes:
        key: What the training is of.
        state: `preparing`: images are read, the memory of good parts is built. `finishing`: the bundle and the report are made.
        host, pid: The process that trains.
        updated: Unix time of the last change.
        done: Share of the training that is over.
        loss, image_auroc: The latest; None before there are any.
        left_s: Estimated seconds to the end of the training.
        error: Why it failed, and what to do.
        exit_code: As the command ended, if it failed or was stopped.
        figures: If it is finished.
    """

    schema: Literal["anoseg.training/1"] = "anoseg.training/1"
    key: TrainingKey
    state: Literal["preparing", "training", "finishing", "finished", "failed", "stopped"]
    host: str = ""
    pid: int = 0
    updated: float = 0.0
    step: int = 0
    done: float = 0.0
    loss: float | None = None
    image_auroc: float | None = None
    left_s: float | None = None
    error: str = ""
    exit_code: int | None = None
    figures: Figures | None = None


class StatusFile:
    """Writes the file while a training runs. Use it as a context: it notes how the training ended.

    A file that cannot be written does not stop a training; only the figures at the end must be written.
    """

    def __init__(self, work: Path, key: TrainingKey) -> None:
        """Name the folder of checkpoints; nothing is written before it exists."""
        self._path = work / STATUS
        self._written_at = -math.inf
        self._status = FitStatus(key=key, state="preparing", host=socket.gethostname(), pid=os.getpid())

    def __enter__(self) -> StatusFile:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.write(state="stopped", exit_code=STOPPED)
        elif isinstance(error, AnosegError):
            state = "stopped" if error.exit_code == STOPPED else "failed"
            self.write(state=state, error=str(error), exit_code=error.exit_code)
        elif isinstance(error, Exception):
            self.write(state="failed", error=repr(error), exit_code=1)

    def write(self, **changes: Any) -> None:
        """Write the file with these attributes changed."""
        with contextlib.suppress(OSError):
            self._write(**changes)

    def training(self, **changes: Any) -> None:
        """Write the file at most once a second, or if the last step is done."""
        if changes["done"] >= 1 or time.monotonic() - self._written_at >= WRITE_EVERY_S:
            numbers = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in changes.items()}
            self.write(state="training", **numbers)

    def finished(self, figures: Figures) -> None:
        """Write the figures.

        Raises:
            AnosegError: The file cannot be written.
        """
        try:
            self._write(state="finished", done=1.0, left_s=0.0, figures=figures)
        except OSError as error:
            raise AnosegError(
                f"{shown_name(self._path)}: cannot be written ({error.strerror})", hint="free space or choose another --work"
            ) from error

    def _write(self, **changes: Any) -> None:
        self._status = msgspec.structs.replace(self._status, updated=round(time.time(), 1), **changes)
        if not self._path.parent.is_dir():
            return
        self._written_at = time.monotonic()
        temporary = self._path.with_name(f".{STATUS}.tmp")
        try:
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(self._status), indent=1) + b"\n")
            temporary.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Keep other trainings out of the folder: they would overwrite the scaled parts that this one reads, and its checkpoint.

    Raises:
        AnosegError: Another training uses it, or it cannot be opened.
    """
    try:
        folder = os.open(work, os.O_RDONLY)
    except OSError as error:
        raise AnosegError(f"{shown_name(work)}: cannot be opened ({error.strerror})", hint="choose another --work") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            said = read_status(work)
            who = f" (process {said.pid} on {said.host})" if said else ""
            raise AnosegError(
                f"{shown_name(work)}: another training uses this folder{who}", hint="wait for its end, or give another --work"
            ) from error
        except OSError:
            pass  # the file system has no locks
        yield
    finally:
        os.close(folder)


def one_line(error: str) -> str:
    """Write the lines of an error as one."""
    return "; ".join(line.strip() for line in error.splitlines()).replace(":; ", ": ")


def read_status(work: Path) -> FitStatus | None:
    """Return what the file says; None if it does not exist, cannot be read, or is of another version of this program."""
    try:
        return msgspec.json.decode((work / STATUS).read_bytes(), type=FitStatus)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
