"""Compares two results of the same images: which images change sides, and how far the scores move. Main thread.

A result may have millions of rows. They stay in Arrow's tables; only images that change sides become Python objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anoseg_engines.errors import DataError
from anoseg_engines.files import shown_name
from anoseg_engines.reinspection.result_folder import (
    RunRecord,
    counts_of,
    missing_shards,
    note_on_runtimes,
    read_columns,
    read_record,
)
from anoseg_engines.words import agreeing, counted

COLUMNS = ["path", "part_id", "outcome", "score", "threshold", "runtime"]
CHANGES = {
    "rejected_now": "A passes and B rejects",
    "passes_now": "A rejects and B passes",
    "not_inspected_now": "A inspected and B could not",
    "inspected_now": "A could not inspect and B did",
}
"""The ways in which an image changes sides."""
NAMED = 3
"""Images that an error message names."""


@dataclass(frozen=True, slots=True)
class ComparedImage:
    """An image that changes sides, with what A and B say about it; a score is None if the image was not inspected."""

    path: str
    part_id: str | None
    outcomes: tuple[str, str]
    scores: tuple[float | None, float | None]

    @property
    def change(self) -> str:
        """How it changes sides, one of `CHANGES`."""
        a, b = self.outcomes
        if "UNKNOWN" in (a, b):
            return "not_inspected_now" if b == "UNKNOWN" else "inspected_now"
        return "rejected_now" if b == "FAIL" else "passes_now"

    @property
    def move(self) -> float | None:
        """The score of B less that of A; None if one is missing."""
        a, b = self.scores
        return None if a is None or b is None else b - a


@dataclass(frozen=True, slots=True)
class ComparedResult:
    """One of the two results.

    Attributes:
        missing_shards: How many shards it lacks.
        outcomes: How many of the compared images have each outcome.
        only_here: Images that the other one does not have.
        threshold: The score threshold of its rows.
        runtimes: Those that inspected its images.
        same_name: How many rows are not compared, because an earlier row has the same path.
    """

    folder: str
    record: RunRecord
    missing_shards: int
    outcomes: dict[str, int]
    only_here: tuple[str, ...]
    threshold: float | None
    runtimes: tuple[str, ...]
    same_name: int


@dataclass(frozen=True, slots=True)
class Difference:
    """What two results say about the same images.

    Attributes:
        results: A and B.
        images: How many images both have.
        changed_images: Those that change sides, in the order of A.
        moves: How far the scores move from A to B: the median and the largest; None if no image has both scores.
    """

    results: tuple[ComparedResult, ComparedResult]
    images: int
    changed_images: tuple[ComparedImage, ...]
    moves: dict[str, float] | None

    def changed(self, change: str) -> list[ComparedImage]:
        """Return the images that change sides in one way of `CHANGES`, the largest change of the score first."""
        found = [image for image in self.changed_images if image.change == change]
        return sorted(found, key=lambda image: (-abs(image.move or 0.0), image.path))

    def answer(self) -> str:
        """Say in a sentence what changes from A to B."""
        counts = [(len(self.changed(change)), words) for change, words in CHANGES.items()]
        said = [f"{n} that {words}" for n, words in counts if n]
        changed = sum(n for n, _ in counts)
        if not changed:
            return f"Of {counted(self.images, 'image')}, none changes sides."
        change = agreeing(changed, "changes", "change")
        return f"Of {counted(self.images, 'image')}, {changed} {change} sides: {', '.join(said)}."

    def notes(self) -> Iterator[str]:
        """Yield remarks for the user."""
        a, b = self.results
        for name, result in (("A", a), ("B", b)):
            if result.missing_shards:
                yield f"{name} is not complete: {counted(result.missing_shards, 'shard')} of {result.record.shards} missing"
            if n := result.same_name:
                are = agreeing(n, "is", "are")
                yield f"{name}: {counted(n, 'row')} {are} not compared: an earlier row of another image has the same path"
            if note := note_on_runtimes(result.runtimes):
                yield f"{name}: {note}"
            if n := len(result.only_here):
                yield f"only {name} has {counted(n, 'image')}, for example {result.only_here[0]}"
        if a.record.engine_digest == b.record.engine_digest:
            yield "both results are of the same bundle"
        else:
            yield "scores of two bundles have different scales: compare them with the thresholds"

    def plain(self) -> dict[str, Any]:
        """Return all figures, and all images that change sides, as plain data."""
        return {
            "results": [
                {
                    "folder": each.folder,
                    "bundle": each.record.bundle,
                    "engine_digest": each.record.engine_digest,
                    "runtime": each.record.runtime,
                    "score_threshold": each.threshold,
                    "outcomes": each.outcomes,
                    "missing_shards": each.missing_shards,
                    "only_here": list(each.only_here),
                }
                for each in self.results
            ],
            "images": self.images,
            "score_moves": self.moves,
            "changed": {
                change: [
                    {
                        "path": image.path,
                        "part_id": image.part_id,
                        "outcomes": list(image.outcomes),
                        "scores": list(image.scores),
                    }
                    for image in self.changed(change)
                ]
                for change in CHANGES
            },
            "notes": list(self.notes()),
        }


def compare_results(a: Path, b: Path, *, common: bool) -> Difference:
    """Compare two results, image by image. Images are the same if their paths are.

    Args:
        a: The output folder of a run.
        b: That of another one.
        common: Whether to compare the images that both have if one is not complete or has other images.

    Raises:
        DataError: One is no result, or cannot be read; or, without `common`, is not complete or has other images; or
            they have no image in common.
    """
    records = read_record(a), read_record(b)
    missing = missing_shards(a, records[0]), missing_shards(b, records[1])
    for folder, record, lacking in zip((a, b), records, missing, strict=True):
        if lacking and not common:
            what = f"{shown_name(folder)}: is not complete: {len(lacking)} of {counted(record.shards, 'shard')} missing"
            hint = "give its `reinspect` command again, which goes on; or add --common to compare what both have"
            raise DataError(what, hint=hint)
    everything = [
        read_columns(folder, sorted({*range(record.shards)}.difference(lacking)), COLUMNS)
        for folder, record, lacking in zip((a, b), records, missing, strict=True)
    ]
    rows_a, rows_b = (_first_of_each_path(table) for table in everything)
    found = pc.index_in(rows_a["path"], value_set=rows_b["path"]).combine_chunks()  # for each row of A, the row of B, or null
    only = _paths(rows_a, pc.is_null(found)), _paths(rows_b, pc.invert(pc.is_in(_numbers(rows_b), value_set=found)))
    if any(only) and not common:
        raise DataError(_other_images(a, b, only), hint="add --common to compare the images that both have")
    both_a = rows_a.filter(pc.is_valid(found))
    if not both_a.num_rows:
        what = f"{shown_name(a)} and {shown_name(b)} have no image in common"
        raise DataError(what, hint="images are the same if their paths are: inspect both times at the same place")
    both_b = rows_b.select(["outcome", "score"]).take(found.drop_null())
    results = [
        ComparedResult(
            folder=shown_name(folder),
            record=records[which],
            missing_shards=len(missing[which]),
            outcomes=counts_of(both["outcome"]),
            only_here=only[which],
            threshold=everything[which]["threshold"][0].as_py(),
            same_name=everything[which].num_rows - rows.num_rows,
            runtimes=tuple(sorted(counts_of(rows["runtime"]))),
        )
        for which, (folder, rows, both) in enumerate(((a, rows_a, both_a), (b, rows_b, both_b)))
    ]
    moves = _moves(pc.subtract(both_b["score"], both_a["score"]).drop_null().to_numpy())
    return Difference((results[0], results[1]), both_a.num_rows, _changed_images(both_a, both_b), moves)


def _first_of_each_path(table: pa.Table) -> pa.Table:
    """Leave out rows whose path an earlier row has too."""
    first = pc.equal(pc.index_in(table["path"], value_set=table["path"]), _numbers(table))
    return table if pc.all(first).as_py() else table.filter(first)


def _numbers(table: pa.Table) -> pa.Array:
    return pa.array(np.arange(table.num_rows, dtype=np.int32))


def _paths(table: pa.Table, wanted: pa.Array) -> tuple[str, ...]:
    return tuple(table["path"].filter(wanted).to_pylist())


def _changed_images(a: pa.Table, b: pa.Table) -> tuple[ComparedImage, ...]:
    changes = pc.not_equal(a["outcome"], b["outcome"])
    return tuple(
        ComparedImage(
            path=row_a["path"],
            part_id=row_a["part_id"],
            outcomes=(row_a["outcome"], row_b["outcome"]),
            scores=(row_a["score"], row_b["score"]),
        )
        for row_a, row_b in zip(a.filter(changes).to_pylist(), b.filter(changes).to_pylist(), strict=True)
    )


def _moves(moves: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float] | None:
    if not len(moves):
        return None
    return {
        "median": float(np.median(moves)),
        "median_absolute": float(np.median(np.abs(moves))),
        "largest_rise": max(0.0, float(moves.max())),
        "largest_fall": min(0.0, float(moves.min())),
    }


def _other_images(a: Path, b: Path, only: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
    said = [
        f"{counted(len(paths), 'image')} only in {shown_name(folder)}, such as {', '.join(paths[:NAMED])}"
        for folder, paths in zip((a, b), only, strict=True)
        if paths
    ]
    return f"the results are of different images: {'; '.join(said)}"
