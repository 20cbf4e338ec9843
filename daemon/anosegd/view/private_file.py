"""Writes files that hold secrets. Any thread."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from anoseg_engines.files import sync_folder


def write_private(path: Path, content: bytes) -> None:
    """Replace a file at once; only its owner may read it. Written by root, it keeps its owner, or gets its folder's owner.

    Raises:
        OSError: It cannot be written; the file is as it was.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if os.geteuid() == 0:
                owner = (path if path.exists() else path.parent).stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    sync_folder(path.parent)
