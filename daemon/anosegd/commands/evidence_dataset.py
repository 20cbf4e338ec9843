"""Writes the pictures of marked parts into a data folder for the trainer, for `anosegd evidence dataset`.

Good parts go to `train/good`, every fifth of those that passed to `test/good`, defective ones to `test/defective`. The name
of a file has the part's number, so a later run adds what is new, and moves what is marked differently now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from anoseg_engines.errors import AnosegError, ConfigError, DataError
from anoseg_engines.files import shown_name
from anoseg_engines.words import counted
from anosegd.commands.evidence_export import cut_to_region, empty_mask
from anosegd.commands.past import Past
from anosegd.evidence import EvidenceReader, PartName

TRAIN, TEST, DEFECTIVE, NOT_USED = "train/good", "test/good", "test/defective", "not_used"
MASKS = "ground_truth/defective"
TESTED = 5
"""One of so many good parts that passed is kept for measuring."""
NAMED = 20
"""The most parts that are listed one by one."""

Marks = Mapping[tuple[str, int], str]
"""What was said about parts, by journal_id and number."""
FindVerdict = Callable[[str, int], Mapping[str, Any] | None]
"""Finds the verdict with this journal_id and number; None if the journal does not have it."""


def export_dataset(
    reader: EvidenceReader,
    marks: Marks,
    folder: Path,
    verdict_of: FindVerdict,
    cameras: Collection[str] | None = None,
) -> str:
    """Write the marked parts into the folder, and return what to print.

    Args:
        reader: The evidence.
        marks: What was said about parts.
        folder: A new folder, or one that this command made.
        verdict_of: Finds verdicts.
        cameras: Only these; None takes all.

    Raises:
        ConfigError: The parts and the pictures in the folder come from several cameras, or the folder is not one that this
            command made.
        AnosegError: It cannot be written.
    """
    kept = {(name.journal_id, name.seq): name for name in reader.find()}
    chosen = [name for key, name in kept.items() if key in marks and (cameras is None or name.camera in cameras)]
    _refuse_several({name.camera for name in chosen})
    try:
        dataset = _Dataset(folder, marks)
        _refuse_several({name.camera for name in chosen} | dataset.cameras, f" and the pictures in {shown_name(folder)}")
        dataset.sort_again(verdict_of)
        for name in sorted(chosen):
            dataset.add(reader, name)
    except OSError as error:
        raise AnosegError(f"--data {shown_name(folder)}: cannot be written ({error.strerror})") from error
    without = [key for key, mark in marks.items() if mark != "unsure" and key not in kept and key not in dataset.files]
    if cameras is not None:
        without = [key for key in without if (verdict := verdict_of(*key)) is None or verdict["camera"] in cameras]
    return "\n".join(_said(folder, dataset.written, sorted([*(seq for _, seq in without), *dataset.unreadable]))) + "\n"


def _refuse_several(cameras: Collection[str], also: str = "") -> None:
    if len(cameras) > 1:
        what = f"the marked parts{also} come from several cameras: {', '.join(sorted(cameras))}"
        raise ConfigError(what, hint="a bundle learns one camera's picture: choose one with --camera, and a folder for each")


class _Dataset:
    """A data folder. Its constructor reads it; it and the methods may raise OSError.

    Attributes:
        files: Its pictures by journal_id and number.
        written: How many pictures were written or moved, by folder.
        unreadable: The numbers of parts whose evidence cannot be read.
    """

    def __init__(self, folder: Path, marks: Marks) -> None:
        self._folder, self._marks = folder, marks
        self.files = _pictures_in(folder)
        if not self.files and folder.exists() and any(folder.iterdir()):
            what = f"--data {shown_name(folder)}: is not empty"
            raise ConfigError(what, hint="give a new folder, or one that this command made")
        self.written: Counter[str] = Counter()
        self.unreadable: list[int] = []
        self._counts = Counter(self._place_of(path) for path in self.files.values())

    @property
    def cameras(self) -> set[str]:
        """The cameras of its pictures, by their names."""
        return {path.stem.rsplit("-", 3)[0] for path in self.files.values()}

    def sort_again(self, verdict_of: FindVerdict) -> None:
        """Move the pictures of parts that are marked differently now. Without a verdict, nobody knows, and they stay."""
        for key, path in self.files.items():
            if (verdict := verdict_of(*key)) is None:
                continue
            outcome = verdict["outcome"]
            good = _is_good(outcome, self._marks.get(key))
            was = self._place_of(path)
            if was != NOT_USED if good is None else was not in ((TRAIN, TEST) if good else (DEFECTIVE,)):
                self.files[key] = self._move(path, self._place_for(outcome, good))

    def add(self, reader: EvidenceReader, name: PartName) -> None:
        """Write the picture of a part that is not there yet, if it is known to be good or defective."""
        key = (name.journal_id, name.seq)
        good = _is_good(name.outcome, self._marks[key])
        if key in self.files or good is None:
            return
        try:
            data, suffix = cut_to_region(reader.read(name))
        except DataError:  # deleted meanwhile, or not whole
            self.unreadable.append(name.seq)
            return
        place = self._place_for(name.outcome, good)
        path = self._folder / place / f"{name.camera}-{name.at}-{name.seq:012d}-{name.journal_id}{suffix}"
        if place == DEFECTIVE:
            _new_file(self._mask_of(path), empty_mask(data) or b"")
        _new_file(path, data)
        self.files[key] = path
        self._count(place)

    def _place_of(self, path: Path) -> str:
        return path.parent.relative_to(self._folder).as_posix()

    def _place_for(self, outcome: str, good: bool | None) -> str:
        """Return the folder of a part. What the station judged wrongly is to be learned, so it is never kept for measuring."""
        if not good:
            return NOT_USED if good is None else DEFECTIVE
        before = self._counts[TRAIN] + self._counts[TEST]
        return TEST if outcome == "PASS" and (self._counts[TEST] + 1) * TESTED <= before + 1 else TRAIN

    def _move(self, path: Path, place: str) -> Path:
        """Move a picture, and its mask with it: a defective part always has one, others never."""
        new = self._folder / place / path.name
        if place == DEFECTIVE:
            _new_file(self._mask_of(path), empty_mask(path.read_bytes()) or b"")
        new.parent.mkdir(parents=True, exist_ok=True)
        path.replace(new)
        if place != DEFECTIVE:
            self._mask_of(path).unlink(missing_ok=True)
        self._counts[self._place_of(path)] -= 1
        self._count(place)
        return new

    def _count(self, place: str) -> None:
        self._counts[place] += 1
        self.written[place] += 1

    def _mask_of(self, path: Path) -> Path:
        return self._folder / MASKS / f"{path.stem}_mask.png"


def _said(folder: Path, written: Counter[str], without: list[int]) -> Iterator[str]:
    for place, n in sorted(written.items()):
        if n:
            why = ", no longer marked as good or defective" if place == NOT_USED else ""
            yield f"{folder / place}: {counted(n, 'picture')}{why}"
    if not +written:
        yield "nothing new: no marked part that is not in the folder already"
    if without:
        more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
        yield f"marked, but without a picture in the evidence: {', '.join(map(str, without[:NAMED]))}{more}"


def _is_good(outcome: str, mark: str | None) -> bool | None:
    """Return whether a part is good; None if nobody has said so, or is unsure."""
    return {"right": outcome == "PASS", "false_reject": True, "missed_defect": False}.get(mark or "")


def _pictures_in(folder: Path) -> dict[tuple[str, int], Path]:
    """Return the pictures that an earlier run wrote, by the journal_id and number in their names."""
    found = {}
    for place in (TRAIN, TEST, DEFECTIVE, NOT_USED):
        for path in (folder / place).glob("*.*"):
            parts = path.stem.rsplit("-", 3)
            if (
                path.suffix in (".png", ".jpg")
                and len(parts) == len(("camera", "at", "seq", "journal"))
                and parts[2].isdecimal()
            ):
                found[parts[3], int(parts[2])] = path
    return found


def _new_file(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def marks_by_part(marks: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    """Return the marks as `export_dataset` takes them."""
    return {(mark["journal_id"], mark["seq"]): mark["mark"] for mark in marks}


def verdicts_in(past: Past) -> FindVerdict:
    """Return a function that finds verdicts in the journal."""
    return lambda journal_id, seq: next((v for v in past.replay(seq, seq) if v["journal_id"] == journal_id), None)
