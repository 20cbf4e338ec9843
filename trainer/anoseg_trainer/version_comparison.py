"""Compares two bundles on the same images: what each would reject, and which parts change sides. Runs on the main thread.

Both run through the engine code that the daemon runs. A part is one number for each bundle: the largest score of its images,
and of an image in tiles the largest of its tiles. Images of one part (copies, exposures) count once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from anoseg_engines.bundle import Bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import ConfigError, DataError
from anoseg_engines.files import shown_name
from anoseg_engines.images import list_images, read_image
from anoseg_engines.judgement import judge
from anoseg_engines.words import agreeing, counted
from anoseg_trainer.data.evaluation_images import GOOD, EvaluationImage
from anoseg_trainer.data.good_images import GoodImages, find_good_images, named, read_good_images
from anoseg_trainer.data.parts import find_parts
from anoseg_trainer.evaluation import inspect_image
from anoseg_trainer.metrics import image_auroc
from anoseg_trainer.operating_point import OperatingPoint, at_threshold, share_of

LAYOUTS = (
    "give the MVTec AD layout (test/good, and test/<defect> for each kind of defect), or a folder of good images; masks "
    "are not needed"
)
HEAD_OF_PARTS = ["part", "kind", "score of A", "score of B"]
CHANGES = {
    "passes_now": "Defects that A rejects and B passes",
    "found_now": "Defects that A passes and B rejects",
    "rejected_now": "Good parts that A passes and B rejects",
    "accepted_now": "Good parts that A rejects and B passes",
}
"""The ways in which a part changes sides, the worst first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPart:
    """One part with the judgement of both bundles.

    Attributes:
        images: Its images below the data folder; the one with the largest score of A or B comes first.
        defect: Name of the folder of its images; `good` for a good part.
        scores: Of A and of B.
        rejected: By A and by B.
    """

    images: tuple[str, ...]
    defect: str
    scores: tuple[float, float]
    rejected: tuple[bool, bool]

    @property
    def change(self) -> str | None:
        """How the part changes sides, one of `CHANGES`; None if both agree."""
        if self.rejected[0] == self.rejected[1]:
            return None
        if self.defect == GOOD:
            return "rejected_now" if self.rejected[1] else "accepted_now"
        return "found_now" if self.rejected[1] else "passes_now"


@dataclass(frozen=True, slots=True)
class ComparedBundle:
    """One of the bundles.

    Attributes:
        auroc: Image AUROC with one score for each part; None without good or without defective parts.
        point: What its own threshold does; the counts are of parts.
    """

    bundle: str
    digest: str
    runtime: str
    threshold: float
    auroc: float | None
    point: OperatingPoint


@dataclass(frozen=True, slots=True)
class VersionComparison:
    """What two bundles do with the same parts.

    Attributes:
        bundles: A and B.
        parts: All parts, in the order of their images.
        notes: Remarks for the user.
    """

    bundles: tuple[ComparedBundle, ComparedBundle]
    parts: tuple[ComparedPart, ...]
    notes: tuple[str, ...]

    def changed(self, change: str) -> list[ComparedPart]:
        """Return the parts that change sides in one way of `CHANGES`, the largest change of the score first."""
        found = [part for part in self.parts if part.change == change]
        return sorted(found, key=lambda part: -abs(part.scores[1] - part.scores[0]))

    def rows(self) -> Iterator[list[str]]:
        """Yield the figures of both; the first row is the head."""
        a, b = self.bundles
        yield ["", f"A: {a.bundle}", f"B: {b.bundle}"]
        yield ["score threshold", *(f"{each.threshold:.4f}" for each in self.bundles)]
        if a.point.defective:
            yield ["defective parts that pass", *(each.point.escapes_cell for each in self.bundles)]
        if a.point.good:
            yield ["good parts rejected", *(each.point.false_rejects_cell for each in self.bundles)]
        if a.auroc is not None:
            yield ["image AUROC", *(f"{each.auroc:.4f}" for each in self.bundles)]

    def kind_rows(self) -> Iterator[list[str]]:
        """Yield the escapes of both for each kind of defect; the first row is the head. Nothing without defective parts."""
        kinds = sorted({part.defect for part in self.parts} - {GOOD})
        if kinds:
            yield ["defect", "parts", "A passes", "B passes"]
        for kind in kinds:
            parts = [part for part in self.parts if part.defect == kind]
            passed = [sum(not part.rejected[i] for part in parts) for i in (0, 1)]
            yield [shown_name(kind), str(len(parts)), *(share_of(count, len(parts)) for count in passed)]

    def answer(self) -> str:
        """Say in a sentence what changes if B takes the place of A."""
        counts = {change: len(self.changed(change)) for change in CHANGES}
        if not any(counts.values()):
            return f"No part changes sides: both reject the same {counted(sum(p.rejected[0] for p in self.parts), 'part')}."
        said = []
        if self.bundles[0].point.defective:
            more = counted(counts["found_now"], "more defective part")
            said.append(f"finds {more}, and passes {counts['passes_now']} that A finds")
        if self.bundles[0].point.good:
            more = counted(counts["rejected_now"], "more good part")
            said.append(f"rejects {more}, and passes {counts['accepted_now']} that A rejects")
        return f"B {'; it '.join(said)}."

    def plain(self) -> dict[str, Any]:
        """Return all figures and parts as plain data, for `--json`."""
        return {
            "bundles": [
                {
                    "bundle": each.bundle,
                    "digest": each.digest,
                    "runtime": each.runtime,
                    "score_threshold": each.threshold,
                    "image_auroc": each.auroc,
                    "escapes": each.point.escapes,
                    "defective_parts": each.point.defective,
                    "false_rejects": each.point.false_rejects,
                    "good_parts": each.point.good,
                }
                for each in self.bundles
            ],
            "changed": {change: [part.images[0] for part in self.changed(change)] for change in CHANGES},
            "parts": [
                {"images": list(p.images), "defect": p.defect, "scores": list(p.scores), "rejected": list(p.rejected)}
                for p in self.parts
            ],
            "notes": list(self.notes),
        }


def part_rows(parts: list[ComparedPart]) -> list[list[str]]:
    """Return the rows of `HEAD_OF_PARTS`."""
    return [[shown_name(part.images[0]), shown_name(part.defect), *(f"{score:.4f}" for score in part.scores)] for part in parts]


def check_comparable(bundles: tuple[Bundle, Bundle], *, any_product: bool) -> list[str]:
    """Check that two bundles can be compared.

    Args:
        bundles: A and B.
        any_product: Whether they may be of different products.

    Returns:
        Remarks for the user.

    Raises:
        ConfigError: They are one bundle, or of different products.
    """
    a, b = bundles
    if a.path.resolve() == b.path.resolve():
        raise ConfigError(f"{a.path}: both bundles are this one", hint="name two versions: STORE/NAME/1 STORE/NAME/2")
    if a.manifest.product != b.manifest.product and not any_product:
        raise ConfigError(
            f"{a.label} and {b.label} are bundles of different products",
            hint="name two versions of one product, or add --any-product if both inspect the same parts",
        )
    first, second = ({"shrink": "area", **msgspec.to_builtins(each.manifest.input)} for each in bundles)
    differing = [f"{key} {first[key]} (A), {second[key]} (B)" for key in first if first[key] != second[key]]
    if not differing:
        return []
    return [f"the bundles have different inputs: {'; '.join(differing)}. Each scales the images for itself"]


def find_compared_images(data: Path) -> list[EvaluationImage]:
    """List the images of `data`: those below `test` in the MVTec AD layout, or all of a folder of good images.

    Raises:
        DataError: There are none.
    """
    test = data / "test"
    if not test.is_dir():
        return [EvaluationImage(path, GOOD, None) for path in find_good_images(data, least=1)]
    folders = sorted(p for p in test.iterdir() if p.is_dir())
    found = [EvaluationImage.at(data, path) for folder in folders for path in list_images(folder)]
    if not found:
        raise DataError(f"{test}: no images in its folders", hint=LAYOUTS)
    return found


def compare(
    engines: tuple[Engine, Engine],
    data: Path,
    group: str | None = None,
    on_image: Callable[[int, int], None] = lambda _, __: None,
) -> VersionComparison:
    """Inspect every image with both bundles.

    Args:
        engines: A and B, loaded.
        data: The folder, see `find_compared_images`.
        group: Regular expression over file names that says which images show the same part; None: that of the training of B,
            or else of A.
        on_image: Called after each image with the number of images inspected and the total.

    Raises:
        DataError: There are no images, or one cannot be read.
        EngineError: The runtime failed.
    """
    images = find_compared_images(data)
    scores: list[tuple[float, float]] = []
    for n, each in enumerate(images):
        image = read_image(each.path)
        a, b = (judge((x := inspect_image(e, image)).inspection, e.thresholds, x.placement).score for e in engines)
        scores.append((a, b))
        on_image(n + 1, len(images))
    if group and not any(re.search(group, image.path.name) for image in images):
        raise ConfigError(f"--group: '{group}' matches none of the file names", hint="without it, the images are compared")
    if group is None:
        group = next(filter(None, (_group_of(engine) for engine in reversed(engines))), "")
    thresholds = tuple(engine.thresholds.score for engine in engines)
    parts, notes, unknown = list[ComparedPart](), list[str](), list[str]()
    for kind in dict.fromkeys(each.defect for each in images):
        of_kind = [i for i, each in enumerate(images) if each.defect == kind]
        read = read_good_images([images[i].path for i in of_kind])
        if kind == GOOD:
            notes += _notes_on_good(read, engines)
        found = find_parts(read, group, inherited=True)
        if not found.known and len(of_kind) > 1:
            unknown.append(shown_name(kind))
        for number in range(found.count):
            some = [i for i, own in zip(of_kind, found.numbers, strict=True) if own == number]
            some.sort(key=lambda i: -max(scores[i]))
            largest = max(scores[i][0] for i in some), max(scores[i][1] for i in some)
            parts.append(
                ComparedPart(
                    images=tuple(images[i].path.relative_to(data).as_posix() for i in some),
                    defect=kind,
                    scores=largest,
                    rejected=(largest[0] >= thresholds[0], largest[1] >= thresholds[1]),
                )
            )
    if unknown:
        notes.append(
            f"which images show the same part is not known in {', '.join(unknown)}, so each counts by itself; --group says it"
        )
    kinds = {part.defect == GOOD for part in parts}
    if len(kinds) == 1:
        missing = "defective" if True in kinds else "good"
        lacking = "whether more or fewer defects pass" if True in kinds else "how many good parts are rejected"
        notes.append(f"there are no {missing} images, so nothing is known about {lacking}")
    both = _compared(engines[0], parts, 0), _compared(engines[1], parts, 1)
    return VersionComparison(both, tuple(parts), tuple(notes))


def _compared(engine: Engine, parts: list[ComparedPart], which: int) -> ComparedBundle:
    good = [part.scores[which] for part in parts if part.defect == GOOD]
    defective = [part.scores[which] for part in parts if part.defect != GOOD]
    auroc = image_auroc(good, defective)
    return ComparedBundle(
        bundle=engine.bundle.label,
        digest=engine.bundle.digest,
        runtime=engine.runtime_description,
        threshold=engine.thresholds.score,
        auroc=None if auroc is None else round(auroc, 6),
        point=at_threshold(good, defective, engine.thresholds.score),
    )


def _notes_on_good(images: GoodImages, engines: tuple[Engine, Engine]) -> list[str]:
    """Say which good images a bundle was trained on: it passes them more easily than others."""
    notes = []
    for name, engine in zip("AB", engines, strict=True):
        if used := images.used_in(engine.bundle.manifest.training):
            these = agreeing(len(used), "image was", "images were")
            notes.append(f"{these} used for the training of {name}, so it rejects too few of them: {named(used)}")
    return notes


def _group_of(engine: Engine) -> str:
    config = engine.bundle.manifest.training.get("config")
    holdout = config.get("holdout") if isinstance(config, dict) else None
    return str(holdout.get("group") or "") if isinstance(holdout, dict) else ""
