"""Images of several poses or cameras in one folder: the user reads about them where clusters are plain, and only there."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from anoseg_trainer.data.clusters import describe_clusters, find_clusters
from anoseg_trainer.data.good_images import GoodImages, find_good_images, read_good_images


def part(rng: np.random.Generator, angle: float) -> np.ndarray:
    """A bracket on a belt: its pose is `angle` degrees, but for a little play."""
    image = np.full((96, 96), 60.0, np.float32)
    cv2.rectangle(image, (24, 30), (72, 50), 170, -1)
    cv2.rectangle(image, (24, 50), (36, 76), 140, -1)
    cv2.circle(image, (62, 40), 6, 40, -1)
    turn = cv2.getRotationMatrix2D((48, 48), angle + rng.normal(0, 1.5), 1.0)
    turn[:, 2] += rng.normal(0, 1.0, 2)
    turned = cv2.warpAffine(image, turn, (96, 96), borderMode=cv2.BORDER_REPLICATE) * rng.uniform(0.9, 1.1)
    return np.clip(turned + rng.normal(0, 4, turned.shape), 0, 255).astype(np.uint8)


def images(folder: Path, angles: list[float]) -> GoodImages:
    rng = np.random.default_rng(len(angles))
    for i, angle in enumerate(angles):
        cv2.imwrite(str(folder / f"{i:03d}.png"), part(rng, angle))
    return read_good_images(find_good_images(folder))


def test_three_poses_are_three_clusters(tmp_path: Path) -> None:
    """Their sizes are named, the largest first, with an image of each. The order of the files does not matter."""
    poses = [0.0] * 25 + [90.0] * 40 + [200.0] * 35
    order = np.random.default_rng(1).permutation(100)
    found = images(tmp_path, [poses[i] for i in order])
    numbers = find_clusters(found)
    for number, pose in enumerate((90.0, 200.0, 0.0)):
        assert {poses[order[i]] for i in np.flatnonzero(numbers == number)} == {pose}
    note = describe_clusters(found)
    assert note is not None
    assert "fall into 3 clusters" in note
    first = [found.paths[int((numbers == k).argmax())].name for k in range(3)]
    assert f"40 (such as {first[0]}), 35 (such as {first[1]}) and 25 (such as {first[2]})" in note


@pytest.mark.parametrize("turned", [False, True])
def test_images_of_one_kind_are_not_divided(turned: bool, tmp_path: Path) -> None:
    """One pose with a few odd ones is one cluster. So are parts that appear any way round: no cluster of them is plain."""
    rng = np.random.default_rng(2)
    angles = [float(rng.uniform(0, 360)) for _ in range(80)] if turned else [0.0] * 77 + [90.0] * 3
    found = images(tmp_path, angles)
    assert describe_clusters(found) is None
    assert not find_clusters(found).any()


def test_many_images_are_assigned_to_the_clusters_of_some(tmp_path: Path) -> None:
    """Above the number that is compared, each image still counts in its cluster."""
    found = images(tmp_path, [0.0] * 300 + [120.0] * 202)
    assert np.bincount(find_clusters(found)).tolist() == [300, 202]


@pytest.mark.parametrize("grey", [False, True])
def test_equal_images_are_one_cluster(grey: bool, tmp_path: Path) -> None:
    """Copies of one image, and images of one grey, cannot be split."""
    image = part(np.random.default_rng(0), 0.0)
    for i in range(20):
        cv2.imwrite(str(tmp_path / f"{i:03d}.png"), np.full_like(image, 90) if grey else image)
    assert describe_clusters(read_good_images(find_good_images(tmp_path))) is None
