"""Writes a bundle into a temporary folder, runs its self-test, and renames the folder. A written bundle never changes.

Runs on the caller's thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from anoseg_engines.bundle import (
    INT8_MODEL,
    MANIFEST,
    MODEL,
    NAME,
    PLANS,
    Bundle,
    Calibration,
    GoldenImage,
    GoldenSample,
    GoldenTolerance,
    Int8Golden,
    Int8Network,
    Manifest,
    Origin,
    RuleCalibration,
    canonical_bytes,
    load_bundle,
    next_version,
    sealed,
)
from anoseg_engines.errors import AnosegError, ConfigError, EngineError
from anoseg_engines.files import folder_made, sync_folder, write_synced
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import InputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Draft:
    """An INT8 network for a bundle.

    Attributes:
        golden: The bundle's golden images in order, with the maps and scores of this network.
        image_auroc, image_auroc_of_first: As in the manifest.
    """

    model_onnx: bytes
    golden: list[GoldenSample]
    image_auroc: float
    image_auroc_of_first: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleDraft:
    """The contents of a bundle that `write_bundle` is to write. The fields are the manifest's.

    Attributes:
        origin: With an origin, the bundle is a candidate until it is released.
        int8: A second network, which computes in INT8.
    """

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
    origin: Origin | None = None
    int8: Int8Draft | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> BundleDraft:
        """Copy a bundle's contents except its origin, to write its next version with some fields replaced.

        The INT8 network is left out: its score is fitted to this version's threshold.

        Raises:
            EngineError: A golden file cannot be decoded.
        """
        manifest = bundle.manifest
        return cls(
            product=manifest.product,
            input=manifest.input,
            score=manifest.score,
            score_threshold=manifest.score_threshold,
            pixel_threshold=manifest.pixel_threshold,
            calibration=manifest.calibration,
            model_onnx=bundle.model_onnx,
            golden=bundle.golden_samples(),
            metrics=manifest.metrics,
            training=manifest.training,
            rules=bundle.rule_calibrations,
            tolerance=manifest.golden_tolerance,
        )


def write_bundle(target: Path, draft: BundleDraft) -> Bundle:
    """Write a new version under `target` (STORE/NAME), after its self-test on the CPU has passed.

    Returns:
        The bundle as loaded from its final folder.

    Raises:
        ConfigError: The name cannot be a bundle's.
        EngineError: The self-test failed.
        AnosegError: No space left or no permission. Nothing half-written remains.
    """
    if not NAME.fullmatch(target.name) or target.name == PLANS:
        raise ConfigError(
            f"{target.name!r} cannot be a bundle's name", hint=f"use letters, digits, '.', '_' and '-'; not '{PLANS}'"
        )
    with _write_errors_of(target), _temporary_folder(target) as folder:
        files = dict(_contents(draft))
        (folder / "golden").mkdir()
        for name, data in files.items():
            write_synced(folder / name, data)
        while True:
            version = next_version(target)
            write_synced(folder / MANIFEST, canonical_bytes(_manifest(draft, version, files)))
            for runtime in ("cpu", "cpu-int8") if draft.int8 else ("cpu",):
                load_engine(load_bundle(folder), runtime=runtime).close()  # the self-test
            sync_folder(folder)
            try:
                # Renaming onto an existing version fails, so two writers never share a number.
                folder.rename(target / str(version))
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    continue
                raise
            sync_folder(target)
            return load_bundle(target / str(version))


def _contents(draft: BundleDraft) -> Iterator[tuple[str, bytes]]:
    yield MODEL, draft.model_onnx
    for i, sample in enumerate(draft.golden):
        yield f"golden/{i:02d}.png", _encode_png(sample.image)
        yield f"golden/{i:02d}.map.png", _encode_png(_stored(sample.anomaly_map))
    if draft.int8:
        yield INT8_MODEL, draft.int8.model_onnx
        for i, sample in enumerate(draft.int8.golden):
            yield _int8_map(i), _encode_png(_stored(sample.anomaly_map))


def _stored(anomaly_map: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return a map as a bundle stores it."""
    return np.round(np.clip(anomaly_map, 0, 1) * 65535).astype(np.uint16)


def _int8_map(index: int) -> str:
    return f"golden/{index:02d}.int8.map.png"


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
            schema_version=4 if draft.int8 else 3 if draft.input.shrink else 1 if draft.origin is None else 2,
            origin=draft.origin or UNSET,
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
            int8=_int8_network(draft.int8) if draft.int8 else UNSET,
            metrics=draft.metrics,
            training=draft.training,
            files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        )
    )


def _int8_network(draft: Int8Draft) -> Int8Network:
    golden = [Int8Golden(anomaly_map=_int8_map(i), score=float(sample.score)) for i, sample in enumerate(draft.golden)]
    return Int8Network(golden=golden, image_auroc=draft.image_auroc, image_auroc_of_first=draft.image_auroc_of_first)


@contextlib.contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """Make a temporary folder beside the finished versions. It is removed afterwards unless it was renamed."""
    with folder_made(target):
        folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=target))
        try:
            folder.chmod(0o755)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _write_errors_of(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise AnosegError(
                f"{target}: no space left on the device; the bundle was not written and nothing of it remains",
                hint="free some space and run the command again",
            ) from error
        raise AnosegError(f"{target}: the bundle cannot be written ({error.strerror})") from error


def _encode_png(image: NDArray[Any]) -> bytes:
    ok, data = cv2.imencode(".png", image)
    if not ok:
        raise EngineError(f"an image of shape {image.shape} cannot be encoded as PNG")
    return data.tobytes()
