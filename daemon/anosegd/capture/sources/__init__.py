"""Sources of frames, one module a kind: `opencv`, `genicam`, `folder`, `demo`. `source_of` chooses by the configuration.

A new kind of source is a struct in `capture/config.py`, a class here that has the methods of `base.Source`, and a line below.
"""

from __future__ import annotations

from anosegd.capture.config import DemoSource, DeviceSource, FileSource, FolderSource, GenicamSource
from anosegd.capture.protocol import Job
from anosegd.capture.sources.base import Shot, Source
from anosegd.capture.sources.demo import Demo
from anosegd.capture.sources.folder import Folder
from anosegd.capture.sources.genicam import Genicam
from anosegd.capture.sources.opencv import Device, Stream, VideoFile

__all__ = ["Shot", "Source", "source_of"]


def source_of(job: Job) -> Source:
    """The job's source, not opened yet."""
    config = job.camera.source
    if isinstance(config, DeviceSource):
        return Device(config, job)
    if isinstance(config, GenicamSource):
        return Genicam(config, job)
    if isinstance(config, FileSource):
        return VideoFile(config, job)
    if isinstance(config, FolderSource):
        return Folder(config)
    if isinstance(config, DemoSource):
        return Demo(config)
    return Stream(config, job)
