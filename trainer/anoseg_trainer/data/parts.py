"""Finds which images show the same part. Pure functions.

A promise about false rejects counts parts. Two images of one part are not two independent observations.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import ConfigError
from anoseg_engines.files import shown_name
from anoseg_engines.words import agreeing
from anoseg_trainer.data.good_images import DETAIL, GoodImages, named

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
ALIKE_DETAIL = 0.4
"""Where parts are not known, images are held out together if their details correlate more than this on average."""
MOST_CLUSTERED = 6000
"""Images that are clustered at most: the distances of all pairs must fit into memory."""
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


def find_parts(
    images: GoodImages, pattern: str, on_note: Callable[[str], None] = lambda _: None, *, inherited: bool = False
) -> Parts:
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
        inherited: Whether the pattern is that of an earlier run. If it matches no name, the images are compared.

    Raises:
        ConfigError: The pattern matches no name, and the user gave it for these images.
    """
    n = len(images.paths)
    _, first, copy_of = np.unique(np.array(images.pixel_digests), return_index=True, return_inverse=True)
    if len(first) < n:
        copied = n - len(first)
        are = agreeing(copied, "is a copy of another", "are copies of others")
        on_note(f"{copied} of {n} images {are}: images with equal pixels count as one part")
    unnamed = [path for path in images.paths if _part_name(path, pattern) is None] if pattern else []
    if unnamed and len(unnamed) == n:
        none = f"'{pattern}' matches none of the file names, such as {shown_name(unnamed[0].name)}"
        if not inherited:
            hint = "names with an equal first group are images of one part; without it, the images are compared"
            raise ConfigError(f"holdout.group or --group: {none}", hint=hint)
        on_note(f"the pattern of an earlier run {none}: the images are compared instead")
        pattern = ""
    elif unnamed:
        on_note(f"'{pattern}' does not match {named(unnamed)}: each of these images counts as another part")
    if pattern:
        copies = np.stack([first[copy_of], np.arange(n)], axis=1)
        return Parts(_connected(_connected(np.arange(n), copies), _same_name(images, pattern)), known=True)
    originals = np.sort(first)
    numbers, known = _compare(images.only(originals))
    parts = Parts(numbers[np.searchsorted(originals, first[copy_of])], known)
    if not known:
        on_note(
            f"{len(first)} images look so much alike that images of one part cannot be told from images of different parts, so "
            "nothing is promised about false rejects. Say which images show the same part: holdout.group is a regular "
            "expression over file names ('.+' if each image shows another part)"
        )
    return parts


def held_out_together(images: GoodImages, parts: Parts) -> NDArray[np.int64]:
    """Return the group of each image, int64 [n]; images of one group are trained on together, or held out together.

    Where the parts are known, they are the groups. Otherwise, images whose details are alike are one group, because a network
    that is validated on near-copies of its training images is trained for too long. This holds only if nearly all images look
    alike as a whole. Otherwise, images with alike details may simply show the part at the same angle.
    """
    n = len(images.paths)
    if parts.known or not 1 < n <= MOST_CLUSTERED or not _look_alike(images.thumbnails):
        return parts.numbers
    first = np.unique(parts.numbers, return_index=True)[1]
    groups = _connected(_alike(_own_details(images)), np.stack([first[parts.numbers], np.arange(n)], axis=1))
    return groups if _plausible(groups) else parts.numbers


def _compare(images: GoodImages) -> tuple[NDArray[np.int64], bool]:
    """Number the parts, int64 [n]; also return whether images with different numbers surely show different parts."""
    n = len(images.paths)
    aspect = np.log([w / h for h, w in images.sizes_hw])

    def joined(vectors: NDArray[np.float32], least: float) -> tuple[NDArray[np.int64], int]:
        """Join images whose vectors correlate above `least`; return the part numbers and how many pairs there are."""
        numbers, count = np.arange(n), 0
        for start in range(0, n, BLOCK):  # all pairs at once may be n² / 2
            rows = slice(start, start + BLOCK)
            alike = (vectors[rows] @ vectors.T > least) & (np.abs(aspect[rows, None] - aspect) < SAME_ASPECT)
            pairs = np.argwhere(np.triu(alike, start + 1)) + np.array([start, 0])
            numbers, count = _connected(numbers, pairs), count + len(pairs)
        return numbers, count

    details = _own_details(images)
    structured = _has_structure(details)
    numbers, _ = joined(images.thumbnails, NEAR_DUPLICATE)
    if _plausible(numbers):
        return numbers, structured
    numbers, pairs = joined(details, SAME_DETAIL)
    unclear = joined(details, OTHER_DETAIL)[1] > pairs
    if not unclear and _plausible(numbers) and structured:
        return numbers, True
    numbers, _ = joined(details, SURELY_SAME_DETAIL)
    return (numbers if _plausible(numbers) else np.arange(n)), False


def _look_alike(thumbnails: NDArray[np.float32]) -> bool:
    """Return whether nine of ten pairs of thumbnails, unit vectors [n, d], correlate above `NEAR_DUPLICATE`."""
    some = thumbnails[:: -(-len(thumbnails) // BLOCK)]
    pairs = (some @ some.T)[np.triu_indices(len(some), 1)]
    return float(np.quantile(pairs, 0.1)) > NEAR_DUPLICATE


def _own_details(images: GoodImages) -> NDArray[np.float32]:
    """Return the details in which each image differs from the mean of all, as unit vectors [n, d]."""
    details = images.details.astype(np.float32)
    details -= details.mean(axis=0)
    details /= np.linalg.norm(details, axis=1, keepdims=True) + 1e-6
    return details


def _alike(details: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the cluster of each image, int64 [n]. The details, unit vectors [n, d], correlate above `ALIKE_DETAIL` in it."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distances = 1 - np.clip(details @ details.T, -1.0, 1.0)
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), "average")
    return np.asarray(fcluster(tree, 1 - ALIKE_DETAIL, "distance"), np.int64) - 1


def _plausible(numbers: NDArray[np.int64]) -> bool:
    """Return whether so many images may show one part."""
    n = len(numbers)
    return int(np.bincount(numbers).max()) <= max(min(MANY_ALIKE, n // 3), 0.2 * n)


def _has_structure(details: NDArray[np.float32]) -> bool:
    """Return whether the images differ by more than noise, in which neighbouring pixels are independent."""
    pictures = details.reshape(-1, DETAIL, DETAIL)
    across = (pictures[:, :, 1:] * pictures[:, :, :-1]).sum(axis=(1, 2))
    down = (pictures[:, 1:] * pictures[:, :-1]).sum(axis=(1, 2))
    return float(np.median(np.maximum(across, down))) > ONLY_NOISE


def _same_name(images: GoodImages, pattern: str) -> NDArray[np.int64]:
    """Return pairs of images, int64 [k, 2], that connect those whose names say that they show the same part."""
    first: dict[str, int] = {}
    pairs = []
    for i, path in enumerate(images.paths):
        if (key := _part_name(path, pattern)) is not None:
            pairs.append((first.setdefault(key, i), i))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _part_name(path: Path, pattern: str) -> str | None:
    """Return what the file's name says about which part the image shows; None if it does not match."""
    match = re.search(pattern, path.name)
    return match and (match.group(1) if match.re.groups else match.group(0))


def _connected(numbers: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join groups of images.

    Args:
        numbers: Group of each image, int64 [n].
        pairs: Images whose groups are joined, int64 [k, 2].

    Returns:
        New numbers of the groups, in the order of their first images, int64 [n].
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(numbers)
    _, first, group = np.unique(numbers, return_index=True, return_inverse=True)
    rows, columns = np.concatenate([np.stack([first[group], np.arange(n)], axis=1), pairs]).T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)
