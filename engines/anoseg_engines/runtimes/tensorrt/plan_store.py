"""Keeps the plans of a bundle on disk, below the bundle's store.

    STORE/plans/<bundle hash>/<gpu>-<library>-<version>.json          the description; it names its plan and the plan's hash
    STORE/plans/<bundle hash>/<gpu>-<library>-<version>-<hash>.plan

A build renames the description into place last, and a plan's name contains the plan's hash. So a description and the plan
that it names always belong together, even if a build is interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from anoseg_engines.bundle import PLANS, Bundle
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.files import folder_made, sync_folder
from anoseg_engines.runtimes.tensorrt.gpu import Gpu
from anoseg_engines.runtimes.tensorrt.plan import SCHEMA_VERSION, Machine, PlanDescription, build_command

MAX_PLAN_BYTES = 8 << 30
MAX_DESCRIPTION_BYTES = 4 << 20
TEMPORARY = ".building-"
KERNELS = ".kernels"
"""Added to a plan's name: the kernels that TensorRT for RTX compiled for it."""


@dataclass(frozen=True, slots=True)
class TemporaryPlan:
    """A locked temporary file to build a plan into."""

    path: Path
    file: IO[bytes]


@dataclass(frozen=True, slots=True)
class PlanStore:
    """The plans of one bundle on this machine. folder: STORE/plans/<bundle hash>; it need not exist."""

    folder: Path
    bundle: Bundle

    @classmethod
    def of(cls, bundle: Bundle) -> PlanStore:
        """The plans beside the bundle, in its store."""
        return cls(bundle.path.resolve().parent.parent / PLANS / bundle.digest, bundle)

    def find(self, machine: Machine) -> PlanDescription | None:
        """Find the plan for this machine. Else, find a plan that runs on any GPU, or the newest plan for another machine.

        Raises:
            EngineError: A description cannot be read.
        """
        anywhere = Machine(machine.library, machine.library_version, None, machine.platform)
        for stem in (machine.stem, anywhere.stem):
            path = self.folder / f"{stem}.json"
            if path.is_file():
                return self.read(path)
        others = sorted(self.folder.glob("*.json"), key=lambda p: p.stat().st_mtime) if self.folder.is_dir() else []
        return self.read(others[-1]) if others else None

    def read(self, path: Path) -> PlanDescription:
        """Read a description.

        Raises:
            EngineError: It is missing, damaged or written by a newer program.
        """
        hint = f"rebuild it: {build_command(self.bundle)}"
        try:
            if path.stat().st_size > MAX_DESCRIPTION_BYTES:
                raise EngineError(f"{path}: too large for a plan's description", hint=hint)
            raw = path.read_bytes()
        except OSError as error:
            raise EngineError(f"{path}: cannot be read ({error.strerror})", hint=hint) from error
        try:
            version = msgspec.json.decode(raw, type=_SchemaOnly).schema_version
            if version > SCHEMA_VERSION:
                raise EngineError(
                    f"{path}: schema version {version}, this program reads up to {SCHEMA_VERSION}",
                    hint=f"update anoseg-edge on this machine, or {hint}",
                )
            return msgspec.json.decode(raw, type=PlanDescription)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EngineError(f"{path}: not a valid description of a plan: {error}", hint=hint) from error

    def load(self, description: PlanDescription) -> bytes:
        """Read a plan and verify it against its description.

        Raises:
            EngineError: The plan is missing, cut short or changed.
        """
        path = self.folder / description.plan
        hint = f"rebuild it: {build_command(self.bundle)}"
        try:
            size = path.stat().st_size
            if size != description.plan_bytes or size > MAX_PLAN_BYTES:
                raise EngineError(f"{path}: {size} bytes, its description says {description.plan_bytes}: damaged", hint=hint)
            data = path.read_bytes()
        except OSError as error:
            raise EngineError(f"{path}: cannot be read ({error.strerror})", hint=hint) from error
        found = hashlib.sha256(data).hexdigest()
        if found != description.plan_sha256:
            raise EngineError(f"{path}: SHA-256 is {found}, its description says {description.plan_sha256}", hint=hint)
        return data

    def kernels(self, description: PlanDescription) -> Path:
        """The file in which TensorRT for RTX keeps the kernels that it compiled for a plan. It may be missing."""
        return self.folder / f"{description.plan}{KERNELS}"

    @contextlib.contextmanager
    def temporary_plan(self) -> Iterator[TemporaryPlan]:
        """Make a file to build into. It is removed afterwards, unless `accept` has renamed it.

        Raises:
            AnosegError: No space left, or no permission.
        """
        with contextlib.ExitStack() as stack:
            with _write_errors_of(self.folder):
                stack.enter_context(folder_made(self.folder))
                self.clean()
                fd, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=".plan", dir=self.folder)
            stack.callback(Path(name).unlink, missing_ok=True)
            file = stack.enter_context(os.fdopen(fd, "w+b"))
            fcntl.flock(fd, fcntl.LOCK_EX)  # while it is held, `clean` of another process leaves the file alone
            yield TemporaryPlan(Path(name), file)

    def accept(self, temporary: TemporaryPlan, description: PlanDescription, machine: Machine) -> None:
        """Give a finished plan its name, then write its description. The plan that it replaces is removed.

        Raises:
            AnosegError: No space left, or no permission. The store is unchanged.
        """
        with _write_errors_of(self.folder):
            os.fchmod(temporary.file.fileno(), 0o644)
            os.fsync(temporary.file.fileno())
            temporary.path.rename(self.folder / description.plan)
            self._write(description, machine.stem)
            self.clean()

    def mark_proved(self, description: PlanDescription, gpu: Gpu) -> None:
        """Record the GPU on which the plan passed its self-test. A store that cannot be written is left as it is."""
        stem = description.plan.removesuffix(".plan").rpartition("-")[0]
        with contextlib.suppress(OSError):
            self._write(msgspec.structs.replace(description, proved_on=gpu.name), stem)

    def clean(self) -> None:
        """Remove the files of interrupted builds, and plans that no description names."""
        for path in self.folder.glob(f"{TEMPORARY}*"):
            _remove_unless_locked(path)
        named = set()
        for path in self.folder.glob("*.json"):
            try:
                named.add(self.read(path).plan)
            except EngineError:  # its plan is unknown, so no plan may be removed
                return
        for path in self.folder.glob("*.plan"):
            if path.name not in named:
                self.folder.joinpath(f"{path.name}{KERNELS}").unlink(missing_ok=True)
                _remove_unless_locked(path)  # the builder still locks a plan whose description comes next

    def _write(self, description: PlanDescription, stem: str) -> None:
        data = msgspec.json.format(msgspec.json.encode(description), indent=2) + b"\n"
        fd, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=".json", dir=self.folder)
        try:
            with os.fdopen(fd, "wb") as file:
                fcntl.flock(fd, fcntl.LOCK_EX)
                os.fchmod(fd, 0o644)
                file.write(data)
                file.flush()
                os.fsync(fd)
                Path(name).rename(self.folder / f"{stem}.json")
        finally:
            Path(name).unlink(missing_ok=True)
        sync_folder(self.folder)


class _SchemaOnly(msgspec.Struct):
    schema_version: int


@contextlib.contextmanager
def _write_errors_of(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise AnosegError(
                f"{folder}: no space left; the plan was not stored and the store is unchanged",
                hint="free some space and run the command again",
            ) from error
        raise AnosegError(
            f"{folder}: the plan cannot be written ({error.strerror})",
            hint="run the command as the user that owns the store, or copy the bundle into a store of your own",
        ) from error


def _remove_unless_locked(path: Path) -> None:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except OSError:  # in use, or already removed
        return
