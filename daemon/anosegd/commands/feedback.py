"""Runs `anosegd feedback`: says whether the verdicts of parts are right, or takes that back."""

from __future__ import annotations

import argparse
import sys

from anoseg_engines.errors import ConfigError
from anoseg_engines.words import counted
from anosegd.commands.connection import connect, endpoints_of, refuse_if_down


def main(options: argparse.Namespace) -> int:
    """Mark the parts, or undo it, and print what was done.

    Raises:
        ConfigError: The options contradict each other.
        PublishError: The station is down, does not answer, or refuses; the message gives the reason.
    """
    if options.undo is None and not (options.seq and options.mark):
        raise ConfigError("feedback: give the numbers of the parts and --mark", hint="or --undo, to take feedback back")
    if options.undo is not None and (options.seq or options.mark or options.comment):
        raise ConfigError("feedback: --undo takes back a whole change: give no parts, no --mark and no --comment")
    endpoints = endpoints_of(options)
    refuse_if_down(endpoints)
    with connect(endpoints) as client:
        journal_id = options.journal_id or client.status()["journal_id"]
        if options.undo is None:
            done = client.feedback(journal_id, options.seq, options.mark, who=options.who, comment=options.comment)
            said = f"{counted(len(done['seqs']), 'part')} marked as {options.mark}; to take it back: --undo {done['change']}"
        else:
            parts = client.undo_feedback(journal_id, who=options.who, change=options.undo or None)
            said = f"taken back for {counted(len(parts), 'part')}" if parts else "it was taken back before"
    sys.stdout.write(f"feedback: {said}\n")
    return 0
