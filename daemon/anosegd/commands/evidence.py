"""Runs `anosegd evidence list`, `export` and `dataset`: kept parts, for people and programs. The daemon may run or not."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anoseg_engines.errors import ConfigError, DataError
from anoseg_engines.files import shown_json
from anoseg_engines.words import counted
from anosegd.commands.evidence_dataset import export_dataset, marks_by_part, verdicts_in
from anosegd.commands.evidence_export import export_archive, export_data
from anosegd.commands.moments import Period, period_of
from anosegd.commands.past import open_past
from anosegd.commands.shown import local_time, shown
from anosegd.config import load_config
from anosegd.evidence import EvidenceReader, PartName


def main(options: argparse.Namespace) -> int:
    """List or export the chosen parts.

    Raises:
        ConfigError: The evidence folder is not known or cannot be read, or the target of an export exists.
        AnosegError: The export cannot be written.
    """
    reader = EvidenceReader(_folder(options))
    if options.action == "dataset":
        with open_past(options) as past:
            marks = marks_by_part(past.marks())
            sys.stdout.write(export_dataset(reader, marks, options.data, verdicts_in(past), options.camera))
        return 0
    period = period_of(options.since, options.until)
    names = _chosen(reader, options, period)
    if options.action == "list":
        _list(reader, names, as_json=options.json)
    elif options.archive is not None:
        n = export_archive(reader, names, options.archive)
        sys.stdout.write(f"{counted(n, 'part')}{period}{f' in {options.archive}' if n else ': no archive was written'}\n")
    else:
        sys.stdout.write(export_data(reader, names, options.data))
    return 0


def _folder(options: argparse.Namespace) -> Path:
    """Return the evidence folder.

    Raises:
        ConfigError: CONFIG is invalid, or its station keeps no evidence.
    """
    if options.folder is not None:
        if not options.folder.is_dir():
            raise ConfigError(f"--folder {options.folder}: no such folder")
        return Path(options.folder)
    config = load_config(options.config)
    if config.evidence is None:
        raise ConfigError(f"{options.config}: this station keeps no evidence", hint="set `evidence`, or give --folder")
    return Path(config.evidence.folder)


def _chosen(reader: EvidenceReader, options: argparse.Namespace, period: Period) -> Iterator[PartName]:
    """Yield the parts that the options choose, the oldest first. With --limit, only the newest of them."""
    found = reader.find(
        since=_moment(period.since),
        until=_moment(period.until),
        cameras=options.camera,
        outcomes=options.outcome,
        newest_first=options.limit is not None,
    )
    if options.part_id is not None:
        found = (name for name in found if (verdict := _verdict(reader, name)) and verdict["part_id"] == options.part_id)
    return found if options.limit is None else reversed(list(islice(found, options.limit)))


def _moment(ns: int | None) -> datetime | None:
    return None if ns is None else datetime.fromtimestamp(ns / 1e9, timezone.utc)


def _verdict(reader: EvidenceReader, name: PartName) -> dict[str, Any] | None:
    """Return a part's verdict; None for a part that is gone, or whose file is damaged, which is reported."""
    try:
        return reader.verdict(name)
    except DataError as error:
        if reader.path(name).exists():  # else the daemon has just deleted it
            sys.stderr.write(f"anosegd: {error.what}: left out\n")
        return None


def _list(reader: EvidenceReader, names: Iterator[PartName], *, as_json: bool) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("time", "seq", "camera", "outcome", "score", "part"):
        table.add_column(column, overflow="fold", justify="right" if column in ("seq", "score") else "left")
    n = 0
    for name in names:
        if (verdict := _verdict(reader, name)) is None:
            continue
        n += 1
        if as_json:
            line = {"file": str(reader.path(name)), "verdict": verdict}
            sys.stdout.write(shown_json(json.dumps(line, separators=(",", ":"), ensure_ascii=False)) + "\n")
            continue
        score = verdict.get("score")
        cells = (
            local_time(name.moment.isoformat()),
            str(name.seq),
            name.camera,
            name.outcome if name.reason is None else f"{name.outcome}: {name.reason}",
            f"{score:.3f}" if isinstance(score, (int, float)) else "",
            shown(verdict["part_id"], 40),
        )
        table.add_row(*map(Text, cells))
    if n and not as_json:
        Console().print(table)
    elif not as_json:
        sys.stdout.write("no kept parts\n")
