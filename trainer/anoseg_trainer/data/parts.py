"""Finds which images show the same part. Pure functions.

A promise about false rejects counts parts. Two images of one part are not two independent observations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.words import agreeing
from anoseg_trainer.data.good_images import DETAIL, GoodImages

NEAR_DUPLICATE = 0.9
"""Correlation of two thumbnails from which the images count as the same part."""
MANY_ALIKE = 12
"""Similarity joins at most this many images, a third of all, or a fifth of all to one part; see `find_parts`."""
SAME_ASPECT = 0.05
"""Images of one part differ in the logarithm of their aspect ratio by less than this."""
SAME_DETAIL, OTHER_DETAIL = 0.7, 0.5
"""Correlation of two images' own details: above the first they show the same part, below the second different parts."""
SURELY_SAME_DETAIL = 0.9
"""Correlation from which two images count as the same part where the others cannot be told apart."""
ONLY_NOISE = 0.15
"""Correlation of neighbouring pixels below which images differ by noise alone."""
BLOCK = 512
"""Images that are compared with all others at a time."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that images show.

    Attributes:
        numbers: Part number of each image, from 0, int64 [n].
        known: Whether the numbers can be relied on. If not, images that count as different parts may show the same one.
    """

    numbers: NDArray[np.int64]
    known: bool

    @property
    def count(self) -> int:
        """Number of different parts."""
        return int(self.numbers.max()) + 1 if len(self.numbers) else 0


def find_parts(images: GoodImages, pattern: str, on_note: Callable[[str], None] = lambda _: None) -> Parts:
    """Number the parts: images of one part (copies, near-duplicates, exposures) get the same number.

    Copies, which have the same pixels, are always one part. Beyond that, names that match `pattern` decide. Without a
    pattern, the images are compared in two ways:

    1. Two images are joined if their thumbnails correlate above `NEAR_DUPLICATE` and their aspect ratios agree. Under a
       fixed camera, all good parts may look the same. Then too many images are joined for one part, and this comparison
       means nothing.
    2. In that case the details are compared in which each image differs from the mean of all. If these are clearly equal
       or clearly different for all pairs, they decide. If not, the parts are not known.

    If the images differ by nothing but noise, the parts are not known either.

    Args:
        images: The images.
        pattern: Regular expression over file names. Names with an equal first group (or, without groups, an equal match)
            are the same part; a name without a match is a part of its own. Empty: compare the images.
        on_note: Receives remarks for the user.
    """
    n = len(images.paths)
    _, first, copy_of = np.unique(np.array(images.pixel_digests), return_index=True, return_inverse=True)
    copies = [(int(first[c]), i) for i, c in enumerate(copy_of)]
    if len(first) < n:
        copied = n - len(first)
        are = agreeing(copied, "is a copy of another", "are copies of others")
        on_note(f"{copied} of {n} images {are}: images with equal pixels count as one part")
    if pattern:
        return Parts(_connected(n, [*copies, *_same_name(images, pattern)]), known=True)
    originals = images.only(np.sort(first))
    joined, known = _compare(originals)
    pairs = [(int(np.sort(first)[a]), int(np.sort(first)[b])) for a, b in joined]
    parts = Parts(_connected(n, [*copies, *pairs]), known)
    if not known:
        on_note(
            f"{len(first)} images look so much alike that images of one part cannot be told from images of different parts, so "
            "nothing is promised about false rejects. Say which images show the same part: holdout.group is a regular "
            "expression over file names ('.+' if each image shows another part)"
        )
    return parts


def _compare(images: GoodImages) -> tuple[list[tuple[int, int]], bool]:
    """Return the pairs of images that show the same part, and whether all others surely show different ones."""
    aspect = np.log([w / h for h, w in images.sizes_hw])
    n = len(aspect)

    def pairs_above(similarity: Callable[[slice], NDArray[np.floating]], least: float) -> list[tuple[int, int]]:
        found = []
        for start in range(0, n, BLOCK):
            rows = slice(start, start + BLOCK)
            alike = (similarity(rows) > least) & (np.abs(aspect[rows, None] - aspect) < SAME_ASPECT)
            found += [(start + int(i), int(j)) for i, j in np.argwhere(alike) if start + i < j]
        return found

    details = images.details.astype(np.float32)
    details -= details.mean(axis=0)
    details /= np.linalg.norm(details, axis=1, keepdims=True) + 1e-6
    structured = _has_structure(details)
    joined = pairs_above(lambda rows: images.thumbnails[rows] @ images.thumbnails.T, NEAR_DUPLICATE)
    if _plausible(n, joined):
        return joined, structured
    joined = pairs_above(lambda rows: details[rows] @ details.T, SAME_DETAIL)
    unclear = len(pairs_above(lambda rows: details[rows] @ details.T, OTHER_DETAIL)) > len(joined)
    if not unclear and _plausible(n, joined) and structured:
        return joined, True
    joined = pairs_above(lambda rows: details[rows] @ details.T, SURELY_SAME_DETAIL)
    return (joined if _plausible(n, joined) else []), False


def _plausible(n: int, joined: list[tuple[int, int]]) -> bool:
    """Return whether so many images may show one part."""
    return int(np.bincount(_connected(n, joined)).max()) <= max(min(MANY_ALIKE, n // 3), 0.2 * n)


def _has_structure(details: NDArray[np.float32]) -> bool:
    """Return whether the images differ by more than noise, in which neighbouring pixels are independent."""
    pictures = details.reshape(-1, DETAIL, DETAIL)
    across = (pictures[:, :, 1:] * pictures[:, :, :-1]).sum(axis=(1, 2))
    down = (pictures[:, 1:] * pictures[:, :-1]).sum(axis=(1, 2))
    return float(np.median(np.maximum(across, down))) > ONLY_NOISE


def _same_name(images: GoodImages, pattern: str) -> Iterable[tuple[int, int]]:
    first: dict[str, int] = {}
    for i, path in enumerate(images.paths):
        match = re.search(pattern, path.name)
        key = match and (match.group(1) if match.re.groups else match.group(0))
        if key is not None:
            yield first.setdefault(key, i), i


def _connected(n: int, pairs: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """Number the groups of images that the pairs connect, int64 [n]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = zip(*pairs, strict=True) if (pairs := list(pairs)) else ((), ())
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)
