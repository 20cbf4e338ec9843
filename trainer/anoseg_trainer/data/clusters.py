"""Finds out whether the good images fall into clusters, as several poses, cameras or products in one folder do.

Nothing depends on it: the user is informed. Pure functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.files import shown_name
from anoseg_trainer.data.good_images import GoodImages

COMPARED = 400
"""Images that are compared with each other, at most; the others are assigned to the nearest cluster."""
MOST = 8
"""Most clusters that are looked for."""
SMALLEST, SMALLEST_SHARE = 4, 0.05
"""Fewest images of a cluster, and its smallest share of the images: single odd images are no cluster."""
TAIL = 5
"""Percentage of the pairs of images that the comparison leaves out on each side."""
GAP = 0.25
"""Nearly all pairs within clusters correlate by this much more than nearly all pairs across, or nothing is said."""


def find_clusters(images: GoodImages) -> NDArray[np.int64]:
    """Number the clusters of images whose thumbnails look alike, the largest first, int64 [n]; all 0 if none are plain."""
    n = len(images.paths)
    some = np.unique(np.linspace(0, n - 1, min(n, COMPARED)).astype(np.int64))
    found = _plain_clusters(images.thumbnails[some])
    if found is None:
        return np.zeros(n, np.int64)
    means = np.stack([images.thumbnails[some][found == k].mean(axis=0) for k in np.unique(found)])
    nearest = (images.thumbnails @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(axis=1)
    order = np.argsort(-np.bincount(nearest, minlength=len(means)), kind="stable")
    return np.asarray(np.argsort(order)[nearest], np.int64)


def describe_clusters(images: GoodImages) -> str | None:
    """Say in a note for the user which clusters the images fall into; None if they do not."""
    numbers = find_clusters(images)
    sizes = np.bincount(numbers)
    if len(sizes) == 1:
        return None
    each = [f"{size} (such as {shown_name(images.paths[int((numbers == k).argmax())].name)})" for k, size in enumerate(sizes)]
    return (
        f"the good images fall into {len(sizes)} clusters of similar images: {', '.join(each[:-1])} and {each[-1]}. One "
        "bundle learns all of them, with one threshold. If they are poses of one part, give it enough images of each. If they "
        "show different products or come from different cameras, train a bundle for each"
    )


def _plain_clusters(vectors: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Return the cluster of each unit vector, int64 [n], for the number of clusters that are plainest; None if none are."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    alike = np.clip(vectors @ vectors.T, -1.0, 1.0).astype(np.float64)
    distances = 1 - alike
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), "average")
    pair = np.triu(np.ones(alike.shape, bool), 1)
    best, plainest = None, GAP
    for count in range(2, MOST + 1):
        numbers = fcluster(tree, count, "maxclust")
        if numbers.max() < 2:  # images that are equal cannot be split
            continue
        if np.bincount(numbers)[1:].min() < max(SMALLEST, SMALLEST_SHARE * len(vectors)):
            continue
        same = numbers[:, None] == numbers[None, :]
        gap = float(np.percentile(alike[pair & same], TAIL) - np.percentile(alike[pair & ~same], 100 - TAIL))
        if gap > plainest:
            best, plainest = numbers.astype(np.int64), gap
    return best
