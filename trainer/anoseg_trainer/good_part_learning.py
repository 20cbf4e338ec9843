"""Makes a bundle's next version, whose memory knows more good parts: what `anoseg-train learn-good` does.

Runs on the main thread.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from anoseg_engines.bundle import NOT_PROMISED, Bundle, Calibration, Origin
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_engines.errors import DataError
from anoseg_engines.files import shown_name
from anoseg_engines.images import Image, read_image
from anoseg_engines.result_files import try_folder
from anoseg_engines.words import agreeing, counted
from anoseg_trainer.data.good_images import (
    DIGEST,
    PIXEL_DIGESTS,
    GoodImages,
    find_good_images,
    named,
    pixel_digest,
    read_good_images,
)
from anoseg_trainer.memory_extension import ExtensibleDetector, Golden
from anoseg_trainer.model.detector import MEMORY, PLACES, count_macs
from anoseg_trainer.model.export import onnx_from_detector
from anoseg_trainer.model.from_bundle import detector_record
from anoseg_trainer.recalibration import (
    HeldOutImages,
    OnImage,
    held_out_digests,
    load_version,
    plan_notes,
    threshold_images_known,
)
from anoseg_trainer.thresholds import ScoreThreshold, conformal_threshold, describe_threshold, for_the_line

LEARNED = "learned_good"
"""Key of the manifest's training record: what was added to the memory since, one entry for each time."""
PASSES, HELD_OUT = "pass already", "were held out for the score threshold, which they could not check any more"
"""Why images are left out."""
EARLIER = "; but this promise was found for version "
"""Begins the sentence that a guarantee gets when the memory has changed since."""


@dataclass(slots=True)
class JudgedImage:
    """A given image.

    Attributes:
        path: The file.
        digest: Digest of its pixels.
        before: Its score at first.
        network: The score that the network alone would give it at first; None if that is not known.
        left_out: Why it is not learned; empty if it is.
        added: Number of vectors that it added to the memory.
        usual: Number of places at which what it shows was made usual.
        after: Its score in the new version, if it is learned.
        loudest: The view that adds most to this score, if that is known.
    """

    path: Path
    digest: str
    before: float
    network: float | None
    left_out: str = ""
    added: int = 0
    usual: int = 0
    after: float = 0.0
    loudest: str | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """A bundle whose memory knows more good parts.

    Attributes:
        bundle: The new version.
        before: The version that it was made from.
        images: The given images, in the order of their names.
        vectors: Number of vectors in the memory, before and after.
        golden: The golden images, judged again.
        threshold: The new score threshold; None if it was kept.
        parts_known: Whether it is known which of the held-out images show the same part.
        notes: Remarks for the user.
    """

    bundle: Bundle
    before: Bundle
    images: tuple[JudgedImage, ...]
    vectors: tuple[int, int]
    golden: Golden
    threshold: ScoreThreshold | None
    parts_known: bool
    notes: tuple[str, ...]

    def summary(self) -> Iterator[str]:
        """Yield the lines to print."""
        old, new = self.before.manifest.score_threshold, self.bundle.manifest.score_threshold
        learned = [image for image in self.images if not image.left_out]
        for image in learned:
            verdicts = f"{_verdict(image.before, old)} → {_verdict(image.after, new)}"
            name = shown_name(image.path.name)
            also = f"; what it shows is usual now at {counted(image.usual, 'place')} of the part" if image.usual else ""
            learned_here = f"{counted(image.added, 'vector')} added to the memory{also}"
            yield f"{name}: score {image.before:.4f} → {image.after:.4f}, {verdicts} ({learned_here})"
        yield from (f"left out: {text}" for text in _left_out(self.images))
        passing = sum(image.after < new for image in learned)
        passes = agreeing(passing, "passes", "pass")
        yield f"{len(learned)} of {counted(len(self.images), 'image')} learned: {passing} of them {passes} now"
        yield f"memory of good parts: {self.vectors[0]} → {counted(self.vectors[1], 'place')}"
        for verdict, which in (("PASS", "that passed"), ("FAIL", "that were rejected")):
            scores = [s for g, s in zip(self.before.manifest.golden, self.golden.scores, strict=True) if g.verdict == verdict]
            if scores:
                yield f"golden images {which}: {', '.join(f'{b:.4f} → {a:.4f}' for b, a in scores)}"
        yield f"score threshold {old:.4f}, kept" if self.threshold is None else f"score threshold {old:.4f} → {new:.4f}"
        yield f"calibration: {self.bundle.manifest.calibration.guarantee}"
        if self.threshold is not None:
            yield for_the_line(self.threshold, promised=self.parts_known)


def learn_good(path: Path, data: Path, held_out: Path | None = None, *, on_image: OnImage = lambda _, __: None) -> Learned:
    """Add the rejected images of `data` to the memory of a bundle, and write the next version.

    Args:
        path: STORE/NAME or STORE/NAME/VERSION.
        data: Folder of good images that show the part's region, which the bundle rejects.
        held_out: Folder with the good images of the training, or of `calibrate` if it has run since. If those that set the
            score threshold are among them, they set it again. None: the threshold stays.
        on_image: Called after each image.

    Raises:
        ConfigError: `path` is not a version in a store, or it has no memory.
        DataError: The images cannot be used, teach nothing, or would make the bundle pass what it must reject.
        EngineError: The bundle is refused.
    """
    before, target = load_version(path)
    try_folder(target, "BUNDLE")
    detector = ExtensibleDetector(before)
    vectors = detector.vectors
    calibration = None if held_out is None else HeldOutImages.find(held_out, before)
    images, judged = _judged(detector, data, on_image)
    learned = _learned(detector, judged)
    threshold, notes = _threshold(detector, calibration)
    value = before.manifest.score_threshold if threshold is None else threshold.value
    parts_known = calibration is not None and calibration.parts_known
    golden = detector.golden(value, set(images.pixel_digests))
    draft = dataclasses.replace(
        BundleDraft.of(before),
        score_threshold=value,
        calibration=_calibration(before, threshold, parts_known=parts_known),
        model_onnx=onnx_from_detector(detector.detector, before.manifest.input),
        golden=golden.kept,
        # Both were measured with the earlier memory.
        rules=(),
        metrics={},
        training=_record(detector, learned),
        origin=Origin(command="learn-good", parent_version=before.manifest.version, parent_digest=before.digest),
    )
    return Learned(
        bundle=write_bundle(target, draft),
        before=before,
        images=tuple(judged),
        vectors=(vectors, detector.vectors),
        golden=golden,
        threshold=threshold,
        parts_known=parts_known,
        notes=(
            *images.notes,
            *_warnings(detector, judged, value),
            *golden.notes,
            *notes,
            *_rules_note(before),
            *plan_notes(before),
        ),
    )


def _judged(detector: ExtensibleDetector, data: Path, on_image: OnImage) -> tuple[GoodImages, list[JudgedImage]]:
    """Judge the given images, and find out which of them are to be learned.

    Raises:
        DataError: The images cannot be used, or none is to be learned.
    """
    manifest, paths = detector.bundle.manifest, find_good_images(data, least=1)
    judged: list[JudgedImage] = []

    def judge(path: Path, image: Image) -> None:
        found = detector.predict(image)
        judged.append(JudgedImage(path, pixel_digest(image), found.score, detector.network_score(found.values)))
        on_image(len(judged), len(paths))

    images = read_good_images(paths, judge)
    held_out = held_out_digests(detector.bundle)
    # A runtime on the line may score a part higher than the FP32 network that judges here: by the tolerance of the self-test.
    least = manifest.score_threshold - manifest.golden_tolerance.score
    for one in judged:
        if one.before < least:
            one.left_out = PASSES
        elif one.digest[:DIGEST] in held_out:
            one.left_out = HELD_OUT
    if all(one.left_out for one in judged):
        raise DataError(
            f"none of these images is to be learned: {'; '.join(_left_out(judged))}. The score threshold is "
            f"{manifest.score_threshold:.4f}; nothing was written",
            hint="if a camera rejects them, look at its `rules`, `score_threshold` and `region`: here, the bundle's own "
            "threshold judges each image as a whole",
        )
    return images, judged


def _learned(detector: ExtensibleDetector, judged: Sequence[JudgedImage]) -> list[JudgedImage]:
    """Add the images to the memory, those with the highest scores first, and judge them again; return those learned.

    Raises:
        DataError: The memory knows them already.
    """
    learned = sorted((one for one in judged if not one.left_out), key=lambda one: -one.before)
    added = detector.learn([one.path for one in learned])
    if not any(sum(one) for one in added):
        raise DataError(
            "the memory knows every place of these images already, so the other views reject them: nothing was written",
            hint="train again with these images among the good ones (anoseg-train fit), or set a new threshold "
            "(anoseg-train calibrate)",
        )
    for one, (vectors, places) in zip(learned, added, strict=True):
        found = detector.predict(read_image(one.path))
        one.added, one.usual = vectors, places
        one.after, one.loudest = found.score, detector.loudest_view(found.values)
    return learned


def _threshold(detector: ExtensibleDetector, calibration: HeldOutImages | None) -> tuple[ScoreThreshold | None, list[str]]:
    """Calibrate again on the images that set the threshold; None if they are not all there, with notes for the user."""
    before = detector.bundle.manifest
    known = threshold_images_known(detector.bundle)
    promise = f"its promise is that of version {before.version}" if known else NOT_PROMISED
    kept = f"the score threshold stays, and {promise}"
    if calibration is None:
        return None, [f"{kept}; with --held-out and the good images that set it, it is calibrated again"]
    if calibration.missing is None:
        return None, [f"this bundle does not say which images set its score threshold: {kept}"]
    if calibration.missing:
        return None, [
            f"{calibration.missing} of the images that set the score threshold "
            f"{agreeing(calibration.missing, 'is', 'are')} not among those of --held-out: {kept}"
        ]
    scores = [detector.predict(read_image(path)).score for path in calibration.paths]
    threshold = conformal_threshold(np.array(scores), before.calibration.false_reject_target, parts=calibration.parts)
    note = f"`calibrate` had set the threshold of version {before.version} from other images than those of --held-out"
    return threshold, [] if known else [note]


def _calibration(before: Bundle, threshold: ScoreThreshold | None, *, parts_known: bool) -> Calibration:
    """Describe the calibration of the new version."""
    old = before.manifest.calibration
    if threshold is None:
        if old.guarantee.startswith(NOT_PROMISED):
            return old
        if not threshold_images_known(before):
            unknown = (
                f"{NOT_PROMISED}: the memory has learned good parts since version {before.manifest.version}, and images that "
                "set its score threshold may be among them. Calibrate with other good images (anoseg-train calibrate)"
            )
            return msgspec.structs.replace(old, guarantee=unknown)
        if EARLIER in old.guarantee:
            return old
        since = f"{EARLIER}{before.manifest.version}. The memory has learned good parts since: other scores may have changed"
        return msgspec.structs.replace(old, guarantee=old.guarantee + since)
    return Calibration(
        method="split conformal over held-out good images, after good parts were added to the memory",
        n_images=threshold.n,
        false_reject_target=old.false_reject_target,
        guarantee=describe_threshold(threshold, old.false_reject_target, parts_known=parts_known),
    )


def _record(detector: ExtensibleDetector, learned: Sequence[JudgedImage]) -> dict[str, Any]:
    """Return the training record with what was learned; so `calibrate` recognises these images as known to the bundle."""
    manifest = detector.bundle.manifest
    training, spec = manifest.training, manifest.input
    digests = [one.digest[:DIGEST] for one in learned]
    entry = {
        "version": manifest.version,
        "images": len(learned),
        "vectors": sum(one.added for one in learned),
        "places": sum(one.usual for one in learned),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return {
        **training,
        PIXEL_DIGESTS: [*(training.get(PIXEL_DIGESTS) or ()), *digests],
        "detector": detector_record(detector.detector),
        "macs": count_macs(detector.detector, spec.height, spec.width),
        "parameters": sum(p.numel() for p in detector.detector.parameters()),
        LEARNED: [*(training.get(LEARNED) or ()), entry],
    }


def _warnings(detector: ExtensibleDetector, judged: Sequence[JudgedImage], threshold: float) -> Iterator[str]:
    """Say what the user should look at before a release."""
    manifest = detector.bundle.manifest
    for one in judged:
        name = shown_name(one.path.name)
        if one.left_out:
            continue
        if one.network is not None and one.network >= manifest.score_threshold:
            yield (
                f"{name} looks like a defect to the network alone (score {one.network:.4f}): look at it again. A defect that "
                "is learned as good is no longer found"
            )
        if one.after >= threshold:
            yield f"{name} is still rejected, {_what_remains(one.loudest)}"
        elif one.after >= threshold - manifest.golden_tolerance.score:
            yield f"{name} scores so little below the threshold that a runtime on the line may still reject it"
    if not detector.has_network:
        yield "this version has no network, which would say what looks like a defect: look at every image before you release it"
    elif detector.typical is None:
        yield "an earlier version trained this bundle, so what the network alone says is not known: look at each image"
    repeated = {one.digest[:DIGEST] for one in judged} & set(manifest.training.get(PIXEL_DIGESTS) or ())
    if repeated:
        yield f"{len(repeated)} of these images {agreeing(len(repeated), 'was', 'were')} used for training, or learned before"


def _what_remains(view: str | None) -> str:
    """Say why an image is still rejected, and what to do."""
    if view is None or view in (MEMORY, PLACES):
        return "because one image teaches only so much: run the command again on the new version to learn more of it"
    return f"mostly by the view `{view}`, which learns in a training only: train with this image among the good ones"


def _rules_note(before: Bundle) -> list[str]:
    if not before.rule_calibrations:
        return []
    return ["region rules were counted with the earlier memory: count them again (anoseg-train calibrate --config)"]


def _left_out(judged: Sequence[JudgedImage]) -> Iterator[str]:
    """Name the images that are not learned, with the reason and their scores."""
    for reason in (PASSES, HELD_OUT):
        some = [one for one in judged if one.left_out == reason]
        if some:
            low, high = min(one.before for one in some), max(one.before for one in some)
            yield f"{named([one.path for one in some])} {reason} (scores {low:.4f} to {high:.4f})"


def _verdict(score: float, threshold: float) -> str:
    return "rejected" if score >= threshold else "passes"
