"""Finds a bundle on disk, and reads it with every hash checked. `bundle_writer.py` writes bundles. Any thread."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.bundle.manifest import (
    INT8,
    MANIFEST,
    SCHEMA_VERSION,
    Int8Network,
    Manifest,
    Origin,
    RuleCalibration,
    canonical_bytes,
    sealed,
)
from anoseg_engines.bundle.releases import (
    GIVE,
    contained_version,
    odd_versions,
    released_versions,
    replaced_releases,
    versions,
)
from anoseg_engines.errors import ConfigError, EngineError
from anoseg_engines.files import shown_name
from anoseg_engines.images import Image
from anoseg_engines.judgement import Thresholds
from anoseg_engines.permissions import looking

MODEL = "model.onnx"
INT8_MODEL = "model.int8.onnx"
PLANS = "plans"
"""The folder of a store that holds the engines built on this machine, and no bundle; see `tensorrt/plan_store.py`."""
MAX_MANIFEST_BYTES = 4 << 20
MAX_DIGITS = 4
"""A number with more digits, such as a date, is not the version of a bundle."""
MAX_FILE_BYTES = 1 << 30

_WHICH = "give STORE/NAME or STORE/NAME/VERSION; `anoseg-train fit` makes one"
_RESTORE = "copy the bundle again from the machine that trained it, or train it again"


@dataclass(frozen=True, slots=True)
class GoldenSample:
    """A golden image with the results of the trainer's own network (FP32).

    Attributes:
        image: The part's region, uint8 [h, w, 3] BGR.
        anomaly_map: float32 [part_height, part_width].
        score: The part's score.
        verdict: The outcome at the bundle's score threshold.
    """

    image: Image
    anomaly_map: NDArray[np.float32]
    score: float
    verdict: Literal["PASS", "FAIL"]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in memory, its hashes checked. Nothing is read from disk later.

    Attributes:
        path: Its folder, STORE/NAME/VERSION.
        digest: SHA-256 of manifest.json, which covers every other file.
        files: The verified bytes by their path in the bundle.
        passed_over: Why this is not the version that was released last, or not the one that its folder names, for people: files
            are missing, or were copied to the wrong place. None if it is.
    """

    path: Path
    manifest: Manifest
    digest: str
    files: dict[str, bytes]
    passed_over: str | None = None

    @property
    def model_onnx(self) -> bytes:
        """The network, ONNX."""
        return self.files[MODEL]

    @property
    def int8(self) -> Int8Network | None:
        """What the manifest says of the INT8 network; None if the bundle has none."""
        return self.manifest.int8 or None

    @property
    def thresholds(self) -> Thresholds:
        """Score and pixel threshold of the manifest."""
        return Thresholds(self.manifest.score_threshold, self.manifest.pixel_threshold)

    @property
    def label(self) -> str:
        """Product and version, as in logs and verdicts."""
        return f"{self.manifest.product}/{self.manifest.version}"

    @property
    def origin(self) -> Origin | None:
        """What wrote the bundle; None for a bundle from before there were releases, which needs none."""
        return self.manifest.origin or None

    @property
    def rule_calibrations(self) -> tuple[RuleCalibration, ...]:
        """The measured false rejects of each set of region rules that was calibrated."""
        return tuple(self.manifest.rules or ())

    def model_of(self, precision: str) -> bytes:
        """The network that a runtime of this precision runs, ONNX.

        Raises:
            EngineError: The bundle has none.
        """
        if precision != INT8:
            return self.model_onnx
        if self.int8 is None:
            raise EngineError(
                f"{self.path}: this bundle has no INT8 network",
                hint="choose runtime cpu, or train with `int8: true`, which says why if a bundle gets none",
            )
        return self.files[INT8_MODEL]

    def golden_samples(self, precision: str = "f32") -> list[GoldenSample]:
        """Decode the golden images, and the maps that were recorded for the network of this precision.

        Raises:
            EngineError: A golden file cannot be decoded.
        """
        samples = []
        recorded = [(golden.anomaly_map, golden.score) for golden in self.manifest.golden]
        if self.int8 is not None and precision == INT8:
            recorded = [(golden.anomaly_map, golden.score) for golden in self.int8.golden]
        for golden, (map_file, score) in zip(self.manifest.golden, recorded, strict=True):
            image = _decode(self.files[golden.image], cv2.IMREAD_COLOR)
            stored = _decode(self.files[map_file], cv2.IMREAD_UNCHANGED)
            if image is None or stored is None or stored.ndim != 2 or stored.dtype != np.uint16:
                raise EngineError(f"{self.path}: golden image {golden.image} or its map does not decode", hint=_RESTORE)
            anomaly_map = (stored / 65535).astype(np.float32)
            samples.append(GoldenSample(image.astype(np.uint8), anomaly_map, score, golden.verdict))
        return samples


def find_bundle(path: Path) -> Path:
    """Find the bundle folder for `path`: STORE/NAME/VERSION itself, or the whole version of STORE/NAME that was released last.

    A version that lacks files, such as one that is being copied, is passed over. One whose files differ is not: it is refused
    when it is loaded.

    Raises:
        ConfigError: There is no bundle, or none is released.
        EngineError: The list of releases is damaged.
    """
    return _find(path)[0]


def _nearest(path: Path) -> str:
    """Return the question whether another folder beside this one was meant; empty if none has a similar name."""
    with contextlib.suppress(OSError):
        beside = [found.name for found in path.parent.iterdir() if found.is_dir()]
        if near := difflib.get_close_matches(path.name, beside, n=1):
            return f"did you mean {shown_name(near[0])!r}?"
    return ""


@looking(EngineError, hint=GIVE)
def _find(path: Path) -> tuple[Path, str | None]:
    """Return the folder, and a remark if later versions were passed over, or the folder contains another version."""
    if (path / MANIFEST).is_file():
        return path, _remark_on(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such bundle", hint=_nearest(path) or _WHICH)
    replaced = replaced_releases(path)
    damaged = next((path / str(n) for n in replaced if not _has_whole_manifest(path / str(n))), None)
    if damaged is not None:
        return damaged, None  # whoever loads it gets the error, as of any other damaged file
    found = released_versions(path)
    if not found:
        raise ConfigError(f"{path}: no bundle in this folder ({MANIFEST} is missing)", hint=_WHICH)
    lacking = {n: missing_files(path / str(n)) for n in found}
    odd = odd_versions(path)
    whole = [n for n in found if not lacking[n]]
    chosen = next((n for n in whole if str(n) not in odd), whole[0] if whole else None)
    if chosen is None:
        return path / str(found[0]), None  # whoever loads it gets the error
    if str(chosen) in odd:
        return path / str(chosen), f"{path}: {odd[str(chosen)]}, which is used. Copy each version to the folder of its number"
    passed_over = {n: f"version {n} lacks {', '.join(lacking[n][:3])}" for n in found[: found.index(chosen)]}
    passed_over |= {n: f"version {n} is not the one that was released, but another bundle" for n in replaced}
    passed_over |= {int(name): why for name, why in odd.items() if int(name) > chosen}
    if not passed_over:
        return path / str(chosen), None
    reasons = "; ".join(why for _, why in sorted(passed_over.items()))
    what = "it again" if replaced else "what is missing"
    return path / str(chosen), f"{path}: {reasons}; version {chosen} is used instead. Copy {what}"


def _remark_on(folder: Path) -> str | None:
    """Return a remark if STORE/NAME/VERSION contains another version; other folders may have any name."""
    contained, name = contained_version(folder), folder.name
    if not _is_number(name) or contained in (None, int(name)):
        return None
    return f"{folder}: this folder contains version {contained}, which is used. Copy each version to the folder of its number"


def missing_files(folder: Path) -> list[str]:
    """Return the files that a version lacks. A manifest that is not one is left to `load_bundle`, which refuses it."""
    try:
        listed = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Listed).files
    except (FileNotFoundError, NotADirectoryError):
        return [MANIFEST]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return [name for name in listed if "\0" not in name and _is_missing(folder / name)]


class _Listed(msgspec.Struct):
    files: dict[str, str]


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it is there, but cannot be read
        return False
    return False


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and verify it: schema, seal and the SHA-256 of every file.

    Raises:
        ConfigError: There is no bundle at `path`, or none is released.
        EngineError: It is damaged, written by a newer program, or not a bundle.
    """
    folder, passed_over = _find(path)
    raw = _read(folder / MANIFEST, MAX_MANIFEST_BYTES)
    manifest = _parse_manifest(folder, raw)
    files = {name: _read_verified(folder, name, digest) for name, digest in manifest.files.items()}
    needed = [MODEL, *(g.image for g in manifest.golden), *(g.anomaly_map for g in manifest.golden)]
    if manifest.int8:
        needed += [INT8_MODEL, *(g.anomaly_map for g in manifest.int8.golden)]
    for name in needed:
        if name not in files:
            raise EngineError(f"{folder}: the manifest does not list {name} among its files", hint=_RESTORE)
    return Bundle(folder, manifest, hashlib.sha256(raw).hexdigest(), files, passed_over)


def store_of(bundle: Bundle) -> Path:
    """Return STORE/NAME, the folder of the bundle's version.

    Raises:
        ConfigError: The bundle is not in a store.
    """
    folder = bundle.path if bundle.path.name.isdigit() else bundle.path.resolve()  # `.` has neither name nor parent
    if folder.name != str(bundle.manifest.version):
        raise ConfigError(
            f"{bundle.path}: version {bundle.manifest.version} of {bundle.manifest.product} is not in a store",
            hint=f"copy the bundle to STORE/{bundle.manifest.product}/{bundle.manifest.version}",
        )
    return folder.parent


def without_version(path: Path) -> Path:
    """Return STORE/NAME if the path is STORE/NAME/VERSION, whether that exists or not; else the path.

    Raises:
        EngineError: This user may not look at it.
    """
    return path.parent if _is_number(path.name) and not versions(path) else path


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= MAX_DIGITS


def note_on_candidates(path: Path) -> str | None:
    """Return a remark for a user of STORE/NAME who may expect another version than the one that is used, or None.

    Raises:
        ConfigError: There is no bundle at `path`, or none is released.
        EngineError: The list of releases is damaged.
    """
    folder, passed_over = _find(path)
    if folder == path:
        return None
    released = released_versions(path)
    newer = ", ".join(str(n) for n in versions(path) if n > int(folder.name) and n not in released)
    note = f"{path} means version {folder.name}; newer, but not released: {newer}" if newer else None
    return "\n".join(text for text in (passed_over, note) if text) or None


def how_to_release(bundle: Bundle) -> str:
    """Return what to print after a candidate was written: that no line uses it yet, and the command that changes this."""
    where = f"a line that names {store_of(bundle)} does not use it yet"
    return f"not released: {where}. To make it current, run\n  anoseg-engine release {bundle.path}"


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


def _has_whole_manifest(folder: Path) -> bool:
    try:
        _parse_manifest(folder, _read(folder / MANIFEST, MAX_MANIFEST_BYTES))
    except EngineError:
        return False
    return True


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
            raise EngineError(f"{path}: {path.stat().st_size} bytes; the limit is {limit}", hint=_RESTORE)
        return path.read_bytes()
    except OSError as error:
        hint = GIVE if isinstance(error, PermissionError) else _RESTORE
        raise EngineError(f"{path}: cannot be read ({error.strerror})", hint=hint) from error


def _decode(data: bytes, flags: int) -> NDArray[Any] | None:
    if not data:
        return None
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
