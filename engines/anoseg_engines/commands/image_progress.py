"""Shows how many images are inspected, how fast, and how long the rest will take. Standard error; main thread."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_EVERY_S = 60.0
"""How often a line is written where no terminal shows a bar."""


@contextlib.contextmanager
def image_progress(total: int, before: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of a run: a bar in a terminal, else a line once a minute.

    Args:
        total: How many images the run has.
        before: How many of them an earlier run has inspected.

    Yields:
        A function to call with the number of images that were just inspected.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(total, before)
        return
    columns = (TextColumn("inspecting"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total, completed=before)
        yield lambda n: progress.update(task, advance=n)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f} images/s")


def _lines(total: int, before: int) -> Callable[[int], None]:
    began = last = time.monotonic()
    done = before

    def on_images(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last = now
            rate = (done - before) / (now - began)
            left = time.strftime("%H:%M:%S", time.gmtime((total - done) / rate)) if total - done < rate * 86400 else "days"
            sys.stderr.write(f"{done:,} of {total:,} images, {rate:.0f} images/s, {left} left\n")

    return on_images
