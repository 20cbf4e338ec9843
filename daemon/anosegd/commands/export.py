"""Runs `anosegd export`: writes the verdicts of a period from the journal as CSV."""

from __future__ import annotations

import argparse
import contextlib
import csv
import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from anoseg_engines.errors import AnosegError, ConfigError
from anoseg_engines.files import shown_name
from anoseg_engines.words import counted
from anosegd.client import Verdict
from anosegd.commands.connection import print_missing
from anosegd.commands.moments import Period, period_of, time_of
from anosegd.commands.past import Past, open_past
from anosegd.commands.shown import moment_of

COLUMNS = (
    "seq",
    "captured_at",
    "committed_at",
    "camera",
    "part_id",
    "outcome",
    "reason",
    "score",
    "threshold",
    "threshold_from",
    "recipe",
    "source",
)
MARK_COLUMNS = ("mark", "comment", "who", "at")
HEAD = ("time", *COLUMNS, "bundle", "version", "digest", "defects", "mark", "comment", "marked_by", "marked_at")
STDOUT = Path("-")


def main(options: argparse.Namespace) -> int:
    """Write the verdicts of parts from `--since` up to `--until` to a new file, and print their number.

    Raises:
        ConfigError: The file exists already, or `--until` is not after `--since`.
        AnosegError: The file cannot be written.
        PublishError, JournalError: As `open_past`.
    """
    period = period_of(options.since, options.until)
    if options.csv != STDOUT:
        _check_target(options.csv)
    with open_past(options, print_missing) as past:
        # Before the file is opened: a station that cannot be asked leaves no empty file.
        committed = period.first_committed
        first = 1 if committed is None else past.first_seq_since(committed)
        if options.csv == STDOUT:
            rows = _write(sys.stdout, past, first, period)
        else:
            with _new_file(options.csv) as file:
                rows = _write(file, past, first, period)
    said = f"{counted(rows, 'verdict')}{period} in {'standard output' if options.csv == STDOUT else shown_name(options.csv)}\n"
    (sys.stderr if options.csv == STDOUT else sys.stdout).write(said)
    return 0


def _write(file: TextIO, past: Past, first: int, period: Period) -> int:
    """Write the rows and return their number. To the journal's end: after a clock was set back, later rows may be earlier."""
    writer = csv.writer(file)
    writer.writerow(HEAD)
    rows = 0
    for verdict in past.replay(first):
        if period.has(verdict):
            writer.writerow(row(verdict))
            rows += 1
    return rows


def row(verdict: Verdict) -> list[Any]:
    """Return the cells of a verdict, in the order of `HEAD`."""
    engine = verdict["engine"]
    local = moment_of(time_of(verdict)).astimezone().isoformat(timespec="milliseconds")
    values = [local, *(verdict.get(column) for column in COLUMNS), engine["name"], engine["version"], engine["digest"]]
    mark = verdict.mark or {}
    values += [len(verdict["defects"]), *(mark.get(column) for column in MARK_COLUMNS)]
    return [as_text(value) if isinstance(value, str) else value for value in values]


def as_text(value: str) -> str:
    """Return a cell that a spreadsheet takes as text, with an apostrophe in front if it would take it as something else.

    A tab would not do: Gnumeric 1.12 reads numbers and dates behind spaces and tabs.
    """
    return f"'{value}" if _FORMULA.match(value) or _NUMBER_OR_DATE.fullmatch(value) else value


_FORMULA = re.compile(r"[=+\-@|%'\s]")
# Without june, which is jun and e: if a text could be divided into words in two ways, a long one would take for ever.
_WORDS = (
    "e|am|pm|true|false|wahr|falsch|jan|feb|mar|mär|mrz|apr|may|mai|jun|jul|aug|sep|sept|oct|okt|nov|dec|dez|january|february"
    "|march|april|july|august|september|october|november|december|januar|februar|märz|juni|juli|oktober|dezember"
)
_NUMBER_OR_DATE = re.compile(rf"(?:[\d\s.,:;/\\\-+%$€£()]|{_WORDS})+", re.IGNORECASE)
"""Numbers, amounts, dates, times and truth values, as English and German programs read them: 007, 1E5, 3/4, MAR1, true."""


def _check_target(path: Path) -> None:
    """Check that a file of this name can be made, before the station is asked.

    Raises:
        ConfigError: It cannot.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # the name is too long, or this user may not look into the folder
        raise ConfigError(f"{shown_name(path)}: cannot be written ({error.strerror})", hint="name another file") from error
    else:
        raise ConfigError(f"{shown_name(path)}: exists already", hint="give a new file")
    folder = shown_name(path.parent)
    if not path.parent.is_dir():
        raise ConfigError(f"{shown_name(path)}: {folder} is not a folder", hint="make the folder, or name another")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{shown_name(path)}: this user may not write in {folder}", hint="name another folder")


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """Open a new file for the length of a `with` block. One that cannot be written to its end is removed.

    Raises:
        ConfigError: It exists already, or a file of this name cannot be made.
        AnosegError: It cannot be written.
    """
    try:
        file = path.open("x", newline="", encoding="utf-8-sig")  # with a byte order mark, without which spreadsheets guess
    except FileExistsError as error:
        raise ConfigError(f"{shown_name(path)}: exists already", hint="give a new file") from error
    except OSError as error:
        kind = ConfigError if error.errno in (errno.ENAMETOOLONG, errno.EROFS) else AnosegError
        raise kind(f"{shown_name(path)}: cannot be written ({error.strerror})") from error
    try:
        with file:
            yield file
    except OSError as error:
        path.unlink(missing_ok=True)
        raise AnosegError(f"{shown_name(path)}: cannot be written ({error.strerror})", hint="is the disk full?") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
