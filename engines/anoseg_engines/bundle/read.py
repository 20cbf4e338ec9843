"""The engine bundle on disk: written under a temporary name, proved, renamed, then never changed; verified at every load."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from anoseg_engines.bundle.manifest import (
    NAME,
    SCHEMA_VERSION,
    Calibration,
    GoldenImage,
    GoldenTolerance,
    Manifest,
    RuleCalibration,
    canonical_bytes,
    sealed,
)
from anoseg_engines.errors import AnosegError, ConfigError, EngineError
from anoseg_engines.images import Image
from anoseg_engines.judgement.judge import Thresholds
from anoseg_engines.placement import InputSpec

MANIFEST = "manifest.json"
MODEL = "model.onnx"
PLANS = "plans"
"""A folder of the store that holds no bundle but the engines built on this machine, see `plan.py`."""
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class GoldenSample:
    """A golden image with what the trainer's own network (FP32) said of it.

    image: the part's region, uint8 [h, w, 3] BGR. anomaly_map: float32 [part_height, part_width]. score: part score.
    """

    image: Image
    anomaly_map: NDArray[np.float32]
    score: float
    verdict: Literal["PASS", "FAIL"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleDraft:
    """All that `write_bundle` needs; the fields are the manifest's."""

    product: str
    input: InputSpec
    score: str
    score_threshold: float
    pixel_threshold: float
    calibration: Calibration
    model_onnx: bytes
    golden: list[GoldenSample]
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    rules: tuple[RuleCalibration, ...] = ()
    tolerance: GoldenTolerance = field(default_factory=GoldenTolerance)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. files: path in the bundle → the bytes whose hash was checked; nothing is read from disk again.

    digest: SHA-256 of manifest.json, which covers every other file.
    """

    path: Path
    manifest: Manifest
    digest: str
    files: dict[str, bytes]

    @property
    def model_onnx(self) -> bytes:
        """The network, ONNX."""
        return self.files[MODEL]

    @property
    def thresholds(self) -> Thresholds:
        """Score and pixel threshold of the manifest."""
        return Thresholds(self.manifest.score_threshold, self.manifest.pixel_threshold)

    @property
    def label(self) -> str:
        """Product and version, as logs and verdicts name it."""
        return f"{self.manifest.product}/{self.manifest.version}"

    def golden_samples(self) -> list[GoldenSample]:
        """The golden images with their recorded maps and scores, decoded.

        Raises:
            EngineError: a golden file does not decode.
        """
        samples = []
        for golden in self.manifest.golden:
            image = _decode(self.files[golden.image], cv2.IMREAD_COLOR)
            stored = _decode(self.files[golden.anomaly_map], cv2.IMREAD_UNCHANGED)
            if image is None or stored is None or stored.ndim != 2 or stored.dtype != np.uint16:
                raise EngineError(f"{self.path}: golden image {golden.image} or its map does not decode", hint=_RESTORE)
            anomaly_map = (stored / 65535).astype(np.float32)
            samples.append(GoldenSample(image.astype(np.uint8), anomaly_map, golden.score, golden.verdict))
        return samples

    @property
    def rule_calibrations(self) -> tuple[RuleCalibration, ...]:
        """What region rules cost, for each set of them that was calibrated."""
        return tuple(self.manifest.rules or ())

    def draft(self) -> BundleDraft:
        """All of it once more, to write the next version from with something replaced.

        Raises:
            EngineError: a golden file does not decode.
        """
        manifest = self.manifest
        return BundleDraft(
            product=manifest.product,
            input=manifest.input,
            score=manifest.score,
            score_threshold=manifest.score_threshold,
            pixel_threshold=manifest.pixel_threshold,
            calibration=manifest.calibration,
            model_onnx=self.model_onnx,
            golden=self.golden_samples(),
            metrics=manifest.metrics,
            training=manifest.training,
            rules=self.rule_calibrations,
            tolerance=manifest.golden_tolerance,
        )


_WHICH = "give STORE/NAME or STORE/NAME/VERSION; `anoseg-train fit` makes one"
_RESTORE = "copy the bundle again from where it was trained, or train it anew"


def versions(store_name: Path) -> list[int]:
    """Finished versions under STORE/NAME, ascending."""
    if not store_name.is_dir():
        return []
    numbers = [int(p.name) for p in store_name.iterdir() if p.name.isascii() and p.name.isdigit()]
    return sorted(n for n in numbers if (store_name / str(n) / MANIFEST).is_file())


def find_bundle(path: Path) -> Path:
    """The bundle folder meant by `path`: STORE/NAME/VERSION itself, or the newest version of STORE/NAME.

    Raises:
        ConfigError: there is none.
    """
    if (path / MANIFEST).is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"{path}: no such bundle", hint=_WHICH)
    found = versions(path)
    if not found:
        raise ConfigError(f"{path}: no bundle in this folder ({MANIFEST} is missing)", hint=_WHICH)
    return path / str(found[-1])


def load_bundle(path: Path) -> Bundle:
    """Read and verify a bundle: schema, seal and the SHA-256 of every file.

    Raises:
        ConfigError: there is no bundle at `path`.
        EngineError: it is damaged, newer than this program, or not a bundle.
    """
    folder = find_bundle(path)
    raw = _read(folder / MANIFEST, MAX_MANIFEST_BYTES)
    manifest = _parse_manifest(folder, raw)
    files = {name: _read_verified(folder, name, digest) for name, digest in manifest.files.items()}
    needed = [MODEL, *(g.image for g in manifest.golden), *(g.anomaly_map for g in manifest.golden)]
    for name in needed:
        if name not in files:
            raise EngineError(f"{folder}: {name} is not listed among the manifest's files", hint=_RESTORE)
    return Bundle(folder, manifest, hashlib.sha256(raw).hexdigest(), files)


def write_bundle(target: Path, draft: BundleDraft) -> Bundle:
    """Write a new version under `target` (STORE/NAME): temporary folder, proof on the golden images, rename.

    Returns:
        The bundle as loaded from its final place.

    Raises:
        EngineError: the bundle does not prove itself.
        AnosegError: no space left or no permission; nothing half-written remains.
    """
    if not NAME.fullmatch(target.name) or target.name == PLANS:
        raise ConfigError(
            f"{target.name!r} cannot be a bundle's name", hint=f"use letters, digits, '.', '_' and '-'; not '{PLANS}'"
        )
    with _told(target), _workplace(target) as workplace:
        files = dict(_contents(draft))
        for name, data in files.items():
            _write(workplace / name, data)
        while True:
            version = (versions(target) or [0])[-1] + 1
            _write(workplace / MANIFEST, canonical_bytes(_manifest(draft, version, files)))
            _prove(workplace)
            _sync_folder(workplace)
            try:
                # rename onto an existing version fails, so two writers never share a number
                workplace.rename(target / str(version))
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    continue
                raise
            _sync_folder(target)
            return load_bundle(target / str(version))


def _prove(folder: Path) -> None:
    # engine.py needs Bundle, so it is imported where a bundle proves itself
    from anoseg_engines.engine import Engine

    Engine.load(load_bundle(folder), runtime="cpu").close()


def _contents(draft: BundleDraft) -> Iterator[tuple[str, bytes]]:
    yield MODEL, draft.model_onnx
    for i, sample in enumerate(draft.golden):
        stored = np.round(np.clip(sample.anomaly_map, 0, 1) * 65535).astype(np.uint16)
        yield f"golden/{i:02d}.png", _encode_png(sample.image)
        yield f"golden/{i:02d}.map.png", _encode_png(stored)


def _manifest(draft: BundleDraft, version: int, files: dict[str, bytes]) -> Manifest:
    golden = [
        GoldenImage(
            image=f"golden/{i:02d}.png",
            anomaly_map=f"golden/{i:02d}.map.png",
            score=float(sample.score),
            verdict=sample.verdict,
        )
        for i, sample in enumerate(draft.golden)
    ]
    return sealed(
        Manifest(
            product=draft.product,
            version=version,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            input=draft.input,
            score=draft.score,
            score_threshold=float(draft.score_threshold),
            pixel_threshold=float(draft.pixel_threshold),
            calibration=draft.calibration,
            rules=list(draft.rules) or UNSET,
            golden=golden,
            golden_tolerance=draft.tolerance,
            metrics=draft.metrics,
            training=draft.training,
            files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        )
    )


def _parse_manifest(folder: Path, raw: bytes) -> Manifest:
    where = folder / MANIFEST
    try:
        version = msgspec.json.decode(raw, type=_SchemaOnly).schema_version
        if version > SCHEMA_VERSION:
            raise EngineError(
                f"{where}: schema version {version}, this program reads up to {SCHEMA_VERSION}",
                hint="update anoseg-edge on this machine",
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError(f"{where}: not a valid manifest: {error}", hint=_RESTORE) from error
    if canonical_bytes(sealed(manifest)) != raw:
        raise EngineError(f"{where}: was changed after it was written (its seal does not match)", hint=_RESTORE)
    return manifest


class _SchemaOnly(msgspec.Struct):
    schema_version: int


def _read_verified(folder: Path, name: str, digest: str) -> bytes:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts or "\0" in name:
        raise EngineError(f"{folder / MANIFEST}: {name!r} is not a path inside the bundle", hint=_RESTORE)
    data = _read(folder / name, MAX_FILE_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise EngineError(
            f"{folder / name}: SHA-256 is {found}, the manifest says {digest}: the file is damaged", hint=_RESTORE
        )
    return data


def _read(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise EngineError(f"{path}: {path.stat().st_size} bytes, at most {limit} are read", hint=_RESTORE)
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror})", hint=_RESTORE) from error


@contextlib.contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A temporary folder beside the finished versions, removed if it was not renamed; so are folders made for it."""
    made = [p for p in (target, *target.parents) if not p.exists()]
    workplace: Path | None = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=".writing-", dir=target))
        workplace.chmod(0o755)
        yield workplace
    finally:
        if workplace is not None and workplace.exists():
            shutil.rmtree(workplace, ignore_errors=True)
        for folder in made:  # only empty ones go
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def _told(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise AnosegError(
                f"{target}: no space left on the device; the bundle was not written and nothing of it remains",
                hint="free some space and run the command again",
            ) from error
        raise AnosegError(f"{target}: the bundle cannot be written ({error.strerror})") from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _encode_png(image: NDArray[Any]) -> bytes:
    ok, data = cv2.imencode(".png", image)
    if not ok:
        raise EngineError(f"an image of shape {image.shape} cannot be encoded as PNG")
    return data.tobytes()


def _decode(data: bytes, flags: int) -> NDArray[Any] | None:
    if not data:
        return None
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
