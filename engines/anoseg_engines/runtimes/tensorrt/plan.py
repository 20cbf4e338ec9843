"""Plans: engines that TensorRT built on this machine, each with a description that ties it to what it was built for.

Layout, below the store of the bundle:

    STORE/plans/<bundle hash>/<gpu>-<library>-<version>.json          the description; it names its plan and the plan's hash
    STORE/plans/<bundle hash>/<gpu>-<library>-<version>-<hash>.plan

The description is renamed into place last, and a plan's name carries its hash: whatever is interrupted, a description and
the plan it names belong together, or there is none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal

import msgspec
from msgspec import Meta

from anoseg_engines.bundle.manifest import Sha256
from anoseg_engines.bundle.read import PLANS, Bundle
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.runtimes.tensorrt.gpu import ANY_GPU, Gpu, platform_name
from anoseg_engines.runtimes.tensorrt.layers import Layer
from anoseg_engines.runtimes.tensorrt.library import Library

SCHEMA_VERSION: Literal[1] = 1
MAX_PLAN_BYTES = 8 << 30
MAX_DESCRIPTION_BYTES = 4 << 20
TEMPORARY = ".building-"


class PlanDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a plan is and where it runs.

    bundle, bundle_sha256: what it was built from. library: tensorrt or tensorrt-rtx. gpu, compute_capability: `ANY_GPU` for
    a plan built without a GPU. height, width, min_batch … max_batch: the optimisation profile. workspace_mb: limit while it
    was built, None: the library's. proved_on: the GPU on which it came out as the golden images say; None: nowhere yet.
    layers: how many of the network's layers compute in which type. fp32_layers: those in FP32, with the reason.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    bundle: str
    bundle_sha256: Sha256
    library: Literal["tensorrt", "tensorrt-rtx"]
    library_version: str
    gpu: str
    compute_capability: str
    platform: str
    height: Annotated[int, Meta(ge=1)]
    width: Annotated[int, Meta(ge=1)]
    min_batch: Annotated[int, Meta(ge=1)] = 1
    opt_batch: Annotated[int, Meta(ge=1)]
    max_batch: Annotated[int, Meta(ge=1, le=1024)]
    workspace_mb: int | None = None
    built: str
    build_seconds: float
    plan: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.plan$")]
    plan_sha256: Sha256
    plan_bytes: Annotated[int, Meta(ge=1)]
    proved_on: str | None = None
    layers: dict[str, int] = {}
    fp32_layers: list[Layer] = []


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan must fit: the TensorRT installed, the GPU (None: there is none), the platform."""

    library: str
    library_version: str
    gpu: Gpu | None
    platform: str

    @classmethod
    def here(cls, library: Library, gpu: Gpu | None) -> Machine:
        """This machine with one of its libraries."""
        return cls(library.name, library.version, gpu, platform_name())

    @property
    def gpu_name(self) -> str:
        """The GPU's name, `ANY_GPU` without one."""
        return self.gpu.name if self.gpu else ANY_GPU

    @property
    def stem(self) -> str:
        """What this machine's description and plan are called."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu_name.lower()).strip("-")
        return f"{gpu}-{self.library}-{self.library_version}"


def check_plan(description: PlanDescription, machine: Machine, bundle: Bundle) -> None:
    """See that a plan belongs to this bundle and machine, before anything of it is read.

    Raises:
        EngineError: it does not; both values are named, and the command that builds a new one.
    """
    spec = bundle.manifest.input
    pairs = [
        ("bundle", description.bundle_sha256, bundle.digest),
        ("input size", f"{description.height}×{description.width}", f"{spec.height}×{spec.width}"),
        ("platform", description.platform, machine.platform),
        ("library", description.library, machine.library),
        (f"{description.library} version", description.library_version, machine.library_version),
    ]
    if machine.gpu is not None and description.gpu != ANY_GPU:
        pairs.append(("GPU", description.gpu, machine.gpu.name))
        pairs.append(("compute capability", description.compute_capability, machine.gpu.compute_capability))
    for what, built_for, here in pairs:
        if built_for != here:
            raise EngineError(
                f"{description.plan}: built for {what} {built_for}, here it is {here}",
                hint=f"rebuild it: {build_command(bundle)}",
            )


def build_command(bundle: Bundle) -> str:
    """The command that builds the plan anew."""
    return f"anoseg-engine build {bundle.path}"


@dataclass(frozen=True, slots=True)
class Workplace:
    """A temporary file that a plan is built into."""

    path: Path
    file: IO[bytes]


@dataclass(frozen=True, slots=True)
class PlanStore:
    """The plans of one bundle on this machine. folder: STORE/plans/<bundle hash>; it need not exist."""

    folder: Path
    bundle: Bundle

    @classmethod
    def of(cls, bundle: Bundle) -> PlanStore:
        """Beside the bundle, in its store."""
        return cls(bundle.path.resolve().parent.parent / PLANS / bundle.digest, bundle)

    def find(self, machine: Machine) -> PlanDescription | None:
        """The plan that fits this machine, or the newest that was built for another; None if there is no plan at all.

        Raises:
            EngineError: a description cannot be read.
        """
        # A plan of this machine's name is preferred, then one that runs on any GPU, then the newest of the others.
        anywhere = Machine(machine.library, machine.library_version, None, machine.platform)
        for stem in (machine.stem, anywhere.stem):
            path = self.folder / f"{stem}.json"
            if path.is_file():
                return self.read(path)
        others = sorted(self.folder.glob("*.json"), key=lambda p: p.stat().st_mtime) if self.folder.is_dir() else []
        return self.read(others[-1]) if others else None

    def read(self, path: Path) -> PlanDescription:
        """A description from disk.

        Raises:
            EngineError: it is missing, damaged or newer than this program.
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
        """The plan's bytes, verified against its description.

        Raises:
            EngineError: the plan is missing, cut short or changed.
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

    @contextlib.contextmanager
    def workplace(self) -> Iterator[Workplace]:
        """A temporary file to build into, locked while it is in use; it is gone afterwards unless `accept` has renamed it.

        Raises:
            AnosegError: no space left, or no permission.
        """
        made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        with told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.clean()
            fd, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=".plan", dir=self.folder)
        try:
            with os.fdopen(fd, "w+b") as file:
                fcntl.flock(fd, fcntl.LOCK_EX)  # as long as it is held, `clean` of another process leaves the file alone
                yield Workplace(Path(name), file)
        finally:
            Path(name).unlink(missing_ok=True)
            for folder in made:  # only empty ones go
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def accept(self, workplace: Workplace, description: PlanDescription, machine: Machine) -> None:
        """Give a finished plan its name, then its description; what it replaces goes.

        Raises:
            AnosegError: no space left, or no permission; the store is as it was.
        """
        with told(self.folder):
            os.fchmod(workplace.file.fileno(), 0o644)
            os.fsync(workplace.file.fileno())
            workplace.path.rename(self.folder / description.plan)
            self._write(description, machine.stem)
            self.clean()

    def mark_proved(self, description: PlanDescription, gpu: Gpu) -> None:
        """Note the GPU on which the plan has proved itself. A store that cannot be written keeps its old note."""
        stem = description.plan.removesuffix(".plan").rpartition("-")[0]
        with contextlib.suppress(OSError):
            self._write(msgspec.structs.replace(description, proved_on=gpu.name), stem)

    def clean(self) -> None:
        """Remove what interrupted builds left, and plans that no description names."""
        for path in self.folder.glob(f"{TEMPORARY}*"):
            _remove_unless_locked(path)
        named = set()
        for path in self.folder.glob("*.json"):
            try:
                named.add(self.read(path).plan)
            except EngineError:  # whatever it is, its plans are left alone
                return
        for path in self.folder.glob("*.plan"):
            if path.name not in named:
                _remove_unless_locked(path)  # one that is about to be named is still locked by its builder

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
        _sync_folder(self.folder)


class _SchemaOnly(msgspec.Struct):
    schema_version: int


def plan_name(machine: Machine, sha256: str) -> str:
    """The file name of a plan."""
    return f"{machine.stem}-{sha256[:12]}.plan"


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turn a failed write into one message that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise AnosegError(
                f"{folder}: no space left; the plan was not stored and the store is as it was",
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
    except OSError:  # it is in use, or gone
        return


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
