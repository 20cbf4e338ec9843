"""Reads frames from cameras, files and folders. `source_of` chooses the class that the configuration names.

To add a kind of source:

1. Write a struct in `capture/config.py`, and add it to `SourceConfig` there.
2. Write a class with the methods of `base.Source` in a module of this package.
3. Add a line to `source_of`.
4. Check what can be checked without opening the source: `_check_source` in `config_check.py`.
5. Document its keys in `configs/reference.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable

from anosegd.capture.config import DemoSource, DeviceSource, FileSource, FolderSource, GenicamSource
from anosegd.capture.protocol import Job
from anosegd.capture.sources.base import Shot, Source
from anosegd.capture.sources.demo import Demo
from anosegd.capture.sources.folder import Folder
from anosegd.capture.sources.genicam import Genicam
from anosegd.capture.sources.opencv import Device, Stream, VideoFile

__all__ = ["Shot", "Source", "source_of"]


def source_of(job: Job, alive: Callable[[], None] = lambda: None) -> Source:
    """Return the job's source, not opened yet.

    Args:
        job: The job.
        alive: Called while the source is opened, if that can take long although nothing hangs.
    """
    config = job.camera.source
    if isinstance(config, DeviceSource):
        return Device(config, job)
    if isinstance(config, GenicamSource):
        return Genicam(config, job)
    if isinstance(config, FileSource):
        return VideoFile(config, job, alive)
    if isinstance(config, FolderSource):
        return Folder(config, job, alive)
    if isinstance(config, DemoSource):
        return Demo(config)
    return Stream(config, job)
