"""Adds good parts to the memory of a finished bundle without a training, and checks what that does to the bundle.

What is learned as good is no longer found. So the golden images that the bundle rejects must still be clearly rejected, and
every image is judged before and after. Runs on the main thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from anoseg_engines.bundle import Bundle, GoldenSample
from anoseg_engines.errors import ConfigError, DataError, EngineError
from anoseg_engines.images import Image, read_image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.data.good_images import pixel_digest
from anoseg_trainer.data.part_store import whole_placement
from anoseg_trainer.model.detector import MEMORY, NETWORK, PLACES
from anoseg_trainer.model.from_bundle import detector_from_bundle
from anoseg_trainer.model.inference import TILES_AT_ONCE, Prediction, predict_part
from anoseg_trainer.model.memory import Embedding, valid_places
from anoseg_trainer.model.memory_learning import extend, far_vectors
from anoseg_trainer.model.network import valid_pixels
from anoseg_trainer.recalibration import missing_verdicts, rejudged
from anoseg_trainer.training_record import GOOD_VALUES
from anoseg_trainer.validation import scores_of

MOST_OF_ALL = 0.1
"""Largest share of its vectors that a memory gains at a time: more vectors cost time on the line."""
MOST_OF_IMAGE = 0.02
"""Largest share of its vectors that a memory gains from one image. One image must not redefine what good is."""

MOST_PLACES = 0.01
"""Largest share of an input's places that one image makes usual, each with the blocks around it."""
LEAST_PLACES = 20
"""One image may make so many places usual in any case."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Golden:
    """The golden samples of the new version.

    Attributes:
        kept: The samples, with new maps, scores and verdicts.
        scores: Score of each sample of the earlier version, before and after.
        notes: Remarks for the user.
    """

    kept: list[GoldenSample]
    scores: list[tuple[float, float]]
    notes: list[str]


class Added(NamedTuple):
    """What one image added.

    Attributes:
        vectors: Number of vectors that the memory gained.
        places: Number of places at which what it shows was made usual.
    """

    vectors: int
    places: int


class ExtensibleDetector:
    """The detector of a bundle whose memory can learn.

    Attributes:
        bundle: The bundle.
        detector: Its detector in PyTorch.
        typical: Median values of good parts, [V]; None if the bundle does not say.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Build the detector.

        Raises:
            ConfigError: The bundle has no memory of good parts.
            EngineError: PyTorch cannot run the bundle's network, or gives other scores than the bundle.
        """
        record = bundle.manifest.training.get("detector")
        if not isinstance(record, dict) or not record.get("memory"):
            raise ConfigError(
                f"{bundle.path}: this bundle has no memory of good parts, so it cannot learn good parts without a training",
                hint="train again with these images among the good ones (anoseg-train fit)",
            )
        self.bundle = bundle
        self.detector = detector_from_bundle(bundle)
        values = bundle.manifest.training.get(GOOD_VALUES)
        known = isinstance(values, list) and len(values) == len(self.detector.score_scale)
        self.typical: Values | None = np.array(values, np.float64) if known else None
        tolerance = bundle.manifest.golden_tolerance.score
        for sample in bundle.golden_samples():
            found = self.predict(sample.image).score
            if abs(found - sample.score) > tolerance:
                raise EngineError(
                    f"{bundle.path}: this version gives a golden image another score than the bundle ({found:.4f} instead of "
                    f"{sample.score:.4f}), so it cannot say what the bundle would learn",
                    hint="it was made by another version: train again (anoseg-train fit)",
                )

    @property
    def vectors(self) -> int:
        """Number of vectors in the memory."""
        return len(self._memory.nearest.weight)

    @property
    def has_network(self) -> bool:
        """Whether there is a network beside the memory."""
        return self.detector.network is not None

    def predict(self, image: Image) -> Prediction:
        """Judge an image as the line does, in FP32."""
        return predict_part(self.detector, self._spec, image)

    def network_score(self, values: Values) -> float | None:
        """Return the score [tiles, V] would give if all but the network saw a typical good part; None if it is not known."""
        if self.typical is None or not self.has_network:
            return None
        alone = np.tile(self.typical, (len(values), 1))
        columns = list(self.detector.columns[NETWORK])
        alone[:, columns] = values[:, columns]
        return scores_of(self.detector, [alone])[0]

    def loudest_view(self, values: Values) -> str | None:
        """Return the name of the view that adds most to the score of [tiles, V]; None if it is not known."""
        if self.typical is None:
            return None
        of_views = self._of_views(values)
        above = of_views[int(of_views.sum(axis=1).argmax())] - self._of_views(self.typical[None])[0]
        return list(self.detector.columns)[int(above.argmax())]

    def learn(self, paths: Sequence[Path]) -> list[Added]:
        """Add what the images show to the memory, in their order, and make it usual at its places.

        An image sees what earlier ones added. What it leaves of its share goes to those that follow.

        Returns:
            What each image added.
        """
        left, most = max(1, int(MOST_OF_ALL * self.vectors)), max(1, int(MOST_OF_IMAGE * self.vectors))
        added = []
        for done, path in enumerate(paths):
            share = min(most, -(-left // (len(paths) - done)))
            image = read_image(path)
            new = self._far_vectors(image, share)
            extend(self._memory, new)
            left -= len(new)
            added.append(Added(len(new), self._widen(image)))
        return added

    def golden(self, threshold: float, confirmed: Container[str] = ()) -> Golden:
        """Judge the golden images again.

        Args:
            threshold: The new score threshold.
            confirmed: Digests of the images that the user says are good. A golden image among them may pass.

        Raises:
            DataError: The bundle rejects none of its golden images, an image that it rejects would pass or come close to the
                threshold, or no image is well away from it.
        """
        manifest = self.bundle.manifest
        margin = manifest.golden_tolerance.margin
        if all(golden.verdict == "PASS" for golden in manifest.golden):
            raise DataError(
                f"{self.bundle.path}: this bundle rejects none of its golden images, so nothing can check that defects are "
                "still rejected: nothing was written",
                hint="train again with these images among the good ones (anoseg-train fit)",
            )
        names = [golden.image for golden in manifest.golden]
        before = self.bundle.golden_samples()
        after: list[GoldenSample] = []
        for name, sample in zip(names, before, strict=True):
            found = self.predict(sample.image)
            # One that comes close would be left out, and the next runs would check less and less.
            blind = sample.verdict == "FAIL" and found.score < threshold + margin
            if blind and pixel_digest(sample.image) not in confirmed:
                then = "would pass it" if found.score < threshold else "would hardly reject it any more"
                raise DataError(
                    f"{self.bundle.path / name}: the bundle rejects this golden image, and {then} (score "
                    f"{sample.score:.4f} → {found.score:.4f}, threshold {threshold:.4f}): nothing was written",
                    hint="is one of the images that you gave defective? If this golden image shows a good part, copy it to "
                    "the other images and run again",
                )
            after.append(dataclasses.replace(sample, anomaly_map=found.anomaly_map, score=found.score))
        kept, notes = rejudged(zip(names, after, strict=True), threshold, margin)
        if not any(s.verdict == "FAIL" for s in kept):
            raise DataError(
                "no golden image is clearly rejected any more, so the bundle could not be verified: nothing was written",
                hint="is one of the images that you gave defective? Otherwise train again (anoseg-train fit)",
            )
        return Golden(
            kept=kept,
            scores=[(b.score, a.score) for b, a in zip(before, after, strict=True)],
            notes=[*notes, *missing_verdicts(kept)],
        )

    def _of_views(self, values: Values) -> Values:
        """Return what each view adds to the score's logit, [tiles, views], from values [tiles, V]."""
        weighted = values * self.detector.score_scale.double().numpy()
        sums = np.stack([weighted[:, c.start : c.stop].sum(axis=1) for c in self.detector.columns.values()], axis=1)
        return np.asarray(np.clip(sums, self.detector.view_floors.double().numpy(), self.detector.view_limits.double().numpy()))

    @property
    def _memory(self) -> Any:
        return self.detector.memory

    @property
    def _spec(self) -> InputSpec:
        return self.bundle.manifest.input

    def _widen(self, image: Image) -> int:
        """Make what an image shows usual at its places; return how many places that took."""
        places = self.detector.places
        if places is None:
            return 0
        embedded, valid = self._embedded(image, places)
        inside = next(valid_places(valid, embedded.shape[2:]))
        usual = 0.0 if self.typical is None else float(self.typical[self.detector.columns[PLACES][0]])
        return places.widen(embedded[0], inside, usual, max(LEAST_PLACES, int(MOST_PLACES * inside.numel())))

    @torch.no_grad()
    def _embedded(self, image: Image, view: Embedding) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a view's vectors of all places of an image's tiles [tiles, dims, h, w], and where they show the part."""
        placement = whole_placement(self._spec, image)
        frames = np.empty((len(placement.tiles), self._spec.height, self._spec.width, 3), np.uint8)
        placement.fill(image, frames)
        coords = torch.from_numpy(placement.coords_N2HW.astype(np.float32))
        embedded = []
        for start in range(0, len(frames), TILES_AT_ONCE):
            part = slice(start, start + TILES_AT_ONCE)
            levels = self.detector.encoded(torch.from_numpy(frames[part]), coords[part], max(view.config.strides))
            embedded.append(view.embed(levels))
        return torch.cat(embedded), valid_pixels(coords)

    def _far_vectors(self, image: Image, most: int) -> torch.Tensor:
        """Choose up to `most` vectors of an image that the memory does not know."""
        embedded, valid = self._embedded(image, self._memory)
        enough = -torch.inf if self.typical is None else float(self.typical[self.detector.columns[MEMORY][0]])
        return far_vectors(self._memory, embedded, valid, most, enough)
