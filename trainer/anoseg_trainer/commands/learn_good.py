"""Runs `anoseg-train learn-good`: adds good images that a bundle rejects to its memory of good parts, without a training.

It writes the bundle's next version, a candidate. PyTorch is imported after the folders are checked.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import Progress

from anoseg_engines.bundle import how_to_release, note_on_candidates
from anoseg_trainer.data.good_images import find_good_images


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    find_good_images(options.data, least=1)
    if options.held_out is not None:
        find_good_images(options.held_out)

    from anoseg_trainer.good_part_learning import learn_good

    if note := note_on_candidates(options.bundle):
        print(f"note: {note}", file=sys.stderr)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("judging", total=None)

        def show(n: int, total: int) -> None:
            progress.update(task, completed=n, total=total)

        found = learn_good(options.bundle, options.data, options.held_out, on_image=show)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    for line in found.summary():
        print(line)
    print(f"{found.bundle.path}: finished, self-test passed; {found.before.path} is unchanged")
    print(how_to_release(found.bundle))
