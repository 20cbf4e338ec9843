"""Stores the scaled parts of all good images in one file.

The training processes map the file into memory and share it without copies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import AnosegError
from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec, Placement, Region
from anoseg_trainer.synthesis.background import bare_mask, part_mask


def whole_placement(spec: InputSpec, image: Image) -> Placement:
    """Return the placement of a whole image, which training takes as the part's region."""
    return Placement.of(spec, Region(0, 0, image.shape[1], image.shape[0]))


class PartStore:
    """Reads scaled parts from a file that `PartStoreWriter` wrote.

    Pickled by path: each process maps the file when it first reads a part.

    Attributes:
        path: The file.
        shapes: Height and width of each part in network pixels.
        scales: Network pixels per camera pixel, for each part.
    """

    def __init__(self, path: Path, shapes: Sequence[tuple[int, int]], scales: Sequence[float]) -> None:
        self.path = path
        self.shapes = tuple(shapes)
        self.scales = tuple(scales)
        sizes = [h * w * 3 for h, w in self.shapes]
        self._offsets = [0, *(int(v) for v in np.cumsum(sizes))]
        self._map: NDArray[np.uint8] | None = None
        self._masks: dict[int, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Image:
        """Return part `index`, uint8 [h, w, 3], a read-only view of the file."""
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r")
        start, end = self._offsets[index], self._offsets[index + 1]
        view = self._map[start:end].reshape(*self.shapes[index], 3)
        return np.asarray(view)

    def part_mask(self, index: int) -> NDArray[np.bool_]:
        """Return where on image `index` the part is, see `background.part_mask`."""
        return self._masks_of(index)[0]

    def bare_mask(self, index: int) -> NDArray[np.bool_]:
        """Return where on image `index` there is only background, see `background.bare_mask`."""
        return self._masks_of(index)[1]

    def _masks_of(self, index: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Compute both masks once; they take 18 kB an image."""
        if index not in self._masks:
            self._masks[index] = part_mask(self[index]), bare_mask(self[index])
        return self._masks[index]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_map": None, "_masks": {}}


class PartStoreWriter:
    """Scales one image after another to the network's input and writes it to a file; a context manager.

    An error inside the block removes the file.
    """

    def __init__(self, path: Path, spec: InputSpec) -> None:
        self._path = path
        self._spec = spec
        self._shapes: list[tuple[int, int]] = []
        self._scales: list[float] = []

    def __enter__(self) -> PartStoreWriter:
        try:
            self._file = self._path.open("wb")
        except OSError as error:
            raise self._cannot_write(error) from error
        return self

    def add(self, _: Path, image: Image) -> None:
        """Scale an image as its placement does, and write it.

        Raises:
            AnosegError: The disk is full.
        """
        placement = whole_placement(self._spec, image)
        part = placement.scaled_part(image)
        self._shapes.append((part.shape[0], part.shape[1]))
        self._scales.append(max(placement.scale_xy))
        try:
            self._file.write(part.tobytes())
        except OSError as error:
            raise self._cannot_write(error) from error

    def finish(self) -> PartStore:
        """Close the file and return the store.

        Raises:
            AnosegError: The disk is full.
        """
        try:
            self._file.close()
        except OSError as error:
            raise self._cannot_write(error) from error
        return PartStore(self._path, self._shapes, self._scales)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # the buffered rest may not fit on the disk either
                self._file.close()
            self._path.unlink(missing_ok=True)

    def _cannot_write(self, error: OSError) -> AnosegError:
        return AnosegError(f"{self._path}: cannot be written ({error.strerror})", hint="free space or choose another --work")
