"""Turns a path that the user may not look at into an error in words: before Python 3.14, pathlib raises PermissionError."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from anoseg_engines.errors import AnosegError
from anoseg_engines.files import shown_name

ENTER_AS = "`namei -l PATH` shows who may enter the folders on the way there: run the command as such a user, or move it"
"""What to do about a path that the user of a command may not look at."""
ENTER = "`namei -l PATH` shows who may enter the folders on the way there; the daemon's user must, or move it elsewhere"
"""What to do about a path that cannot be looked at."""


@contextlib.contextmanager
def looking(error: type[AnosegError], *, key: str = "", hint: str = "") -> Iterator[None]:
    """Raise `error` in place of an OSError of the block: mostly the user may not enter a folder on the way to a path.

    Args:
        error: The kind of error to raise.
        key: The configuration's key, which is put before the message.
        hint: What to do if the user may not.
    """
    try:
        yield
    except OSError as e:
        what = f"{shown_name(e.filename or 'a path')}: cannot be looked at ({e.strerror})"
        raise error(f"{key}: {what}" if key else what, hint=hint if isinstance(e, PermissionError) else "") from e
