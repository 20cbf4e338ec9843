import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anoseg_trainer.metrics import PixelHistogram, bin_of, image_auroc, value_of


def maps_and_masks(seed):
    """Smooth random maps with random regions, on which the map is somewhat higher; some images are good."""
    rng = np.random.default_rng(seed)
    for i in range(6):
        size = (40 + i, 56)
        mask = cv2.GaussianBlur(rng.normal(size=size), (0, 0), 3) > (0.12 if i < 4 else 9)
        noise = cv2.GaussianBlur(rng.normal(size=size), (0, 0), 2)
        yield (1 / (1 + np.exp(-(8 * noise + 2 * mask - 2)))).astype(np.float32), mask


def brute_force_aupro(pairs, limit):
    """The definition, word for word: every threshold, every region, every normal pixel."""
    values = np.unique(np.concatenate([m.ravel() for m, _ in pairs]))[::-1]
    regions = []
    for anomaly_map, mask in pairs:
        n, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        regions += [anomaly_map[labels == r] for r in range(1, n)]
    normal = np.concatenate([m[~mask] for m, mask in pairs])
    points = [(0.0, 0.0)]
    for t in values:
        points.append(((normal >= t).mean(), np.mean([(r >= t).mean() for r in regions])))
    fpr, pro = np.array(points).T
    grid = np.append(fpr[fpr <= limit], limit)
    heights = np.append(pro[fpr <= limit], np.interp(limit, fpr, pro))
    return float(((grid[1:] - grid[:-1]) * (heights[1:] + heights[:-1]) / 2).sum() / limit)


@pytest.mark.parametrize("seed", range(3))
def test_against_brute_force(seed):
    """AUPRO, pixel AUROC and best IoU from histograms equal those computed by their definitions."""
    pairs = list(maps_and_masks(seed))
    histogram = PixelHistogram()
    for anomaly_map, mask in pairs:
        histogram.add(anomaly_map, mask)
    assert histogram.aupro(0.3) == pytest.approx(brute_force_aupro(pairs, 0.3), abs=1e-3)
    assert histogram.aupro(0.05) == pytest.approx(brute_force_aupro(pairs, 0.05), abs=2e-3)
    truth, value = np.concatenate([m.ravel() for _, m in pairs]), np.concatenate([a.ravel() for a, _ in pairs])
    assert histogram.auroc() == pytest.approx(roc_auc_score(truth, value), abs=1e-4)
    ious = [((value >= t) & truth).sum() / ((value >= t) | truth).sum() for t in np.unique(value)]
    best, at = histogram.best_iou()
    assert best == pytest.approx(max(ious), abs=1e-3)
    assert ((value >= at) & truth).sum() / ((value >= at) | truth).sum() == pytest.approx(best, abs=1e-3)


def test_sums_count_as_one():
    """Histograms of parts add up to the histogram of the whole."""
    pairs = list(maps_and_masks(7))
    whole, parts = PixelHistogram(), [PixelHistogram(), PixelHistogram()]
    for i, (anomaly_map, mask) in enumerate(pairs):
        whole.add(anomaly_map, mask)
        parts[i % 2].add(anomaly_map, mask)
    assert (parts[0] + parts[1]).aupro() == whole.aupro()
    assert (parts[0] + parts[1]).auroc() == whole.auroc()


def test_perfect_and_constant_maps():
    """A map equal to the mask scores 1 everywhere; a constant map is no better than chance."""
    mask = np.zeros((30, 30), bool)
    mask[5:12, 5:20] = True
    perfect, constant = PixelHistogram(), PixelHistogram()
    perfect.add(mask.astype(np.float32), mask)
    constant.add(np.full(mask.shape, 0.4, np.float32), mask)
    assert [perfect.auroc(), perfect.aupro(), perfect.best_iou()[0]] == pytest.approx([1, 1, 1])
    assert constant.auroc() == pytest.approx(0.5)
    assert constant.aupro() == pytest.approx(0.15)


def test_bins_keep_order_and_value():
    """A larger map value never lands in a lower bin, and a bin's value is close below those in it."""
    values = np.linspace(1e-5, 1 - 1e-5, 5000).astype(np.float32)
    bins = bin_of(values)
    assert (np.diff(bins) >= 0).all()
    assert np.abs(value_of(bins) - values).max() < 1e-4


def test_one_sided_data_has_no_area():
    """Without good or without defective images a metric is None, not a made-up number."""
    assert image_auroc([0.1], []) is None
    empty = PixelHistogram()
    empty.add(np.zeros((4, 4), np.float32), None)
    assert empty.auroc() is None
    assert empty.aupro() is None
