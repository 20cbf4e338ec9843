"""The daemon's configuration file: strict structs with their defaults, read once and passed down.

`configs/reference.yaml` documents every key for the user; a test holds it equal to the defaults here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import cv2
import msgspec
from msgspec import Meta

from anoseg_engines.errors import AnosegError, ConfigError
from anoseg_engines.judgement.image_quality import QualityLimits
from anoseg_engines.judgement.rules import Rule
from anoseg_engines.placement import Region
from anoseg_engines.strict_yaml import Removed, read_yaml
from anosegd.capture.config import (
    BACKENDS,
    LIVE,
    CaptureConfig,
    DeviceSource,
    FileSource,
    FolderSource,
    GenicamSource,
    HardwareTrigger,
    IntervalTrigger,
    Positive,
    SoftwareTrigger,
    SourceConfig,
    UrlSource,
    backend_of,
)
from anosegd.capture.sources.aravis import load_aravis
from anosegd.capture.sources.folder import images_of
from anosegd.endpoint import check_endpoint
from anosegd.journal import JournalConfig

CameraName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5570"
DEFAULT_CONTROL = "tcp://127.0.0.1:5571"


class PresenceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """empty: a picture of the place without a part, as the camera gives it. A part is there when at least `share` of the pixels
    differ from it by `difference` grey values or more."""

    empty: Annotated[str, Meta(min_length=1)]
    difference: Annotated[float, Meta(gt=0, le=255)] = 25.0
    share: Annotated[float, Meta(gt=0, le=1)] = 0.05


class CameraConfig(CaptureConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One camera: how it is read (`CaptureConfig`), and how its parts are inspected.

    Attributes:
        region: The part's place in camera pixels; None is the whole image.
        mm_per_pixel: With it, defects have their size in mm, too.
        recipe: The name of this camera's inspection job.
        presence: Frames without a part are no parts; None makes every frame a part.
        quality: Pictures beyond these limits (dark, bright, blurred) are UNKNOWN: image_quality; None has no limits.
        rules: Named regions with thresholds of their own; if there are any, they alone decide.
        review_from: From this score on (with rules: this map value), a part that does not fail is UNKNOWN: review.
        queue: How many parts may wait under policy `every`.
        deadline_ms: From the software trigger, otherwise from capture, until the verdict is sent; None has no deadline.
    """

    region: Region | None = None
    mm_per_pixel: Positive | None = None
    recipe: str = "default"
    presence: PresenceConfig | None = None
    quality: QualityLimits | None = None
    rules: tuple[Rule, ...] = ()
    review_from: Annotated[float, Meta(gt=0, lt=1)] | None = None
    queue: Annotated[int, Meta(ge=1, le=64)] = 2
    deadline_ms: Positive | None = None

    def __post_init__(self) -> None:
        if len({rule.name for rule in self.rules}) < len(self.rules):
            raise ValueError("two rules have the same name")
        paced = isinstance(self.trigger, (SoftwareTrigger, IntervalTrigger))
        if isinstance(self.source, FolderSource) and self.source.fps is None and self.policy != "wait" and not paced:
            raise ValueError(f"a folder has no rate of its own: set source.fps, or policy: wait (now {self.policy})")
        if isinstance(self.trigger, (SoftwareTrigger, HardwareTrigger)) and self.policy != "every":
            raise ValueError(f"each trigger is owed a verdict: set policy: every (now {self.policy})")
        if isinstance(self.trigger, SoftwareTrigger) and self.presence is not None:
            raise ValueError("presence: a trigger says that a part is there; it is owed a verdict")
        if isinstance(self.trigger, HardwareTrigger) and not isinstance(self.source, LIVE):
            raise ValueError("trigger.kind hardware needs a camera: a file or folder has nothing to wait for")
        if self.policy == "wait" and isinstance(self.source, LIVE):
            raise ValueError("a live camera cannot wait: choose policy latest or every")
        if self.region is not None and (
            min(self.region.x, self.region.y) < 0 or min(self.region.width, self.region.height) < 1
        ):
            raise ValueError("region: x and y must be at least 0, width and height at least 1")


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """bundle: STORE/NAME (newest version) or STORE/NAME/VERSION. runtime: see `choose.RUNTIMES`. build: a TensorRT plan that is
    missing may be built at the start. threads: of the CPU runtime, 0 lets it choose. prove_every_min: the golden images are run
    again so often, between parts; None does it on request only.
    """

    bundle: str
    runtime: str = "auto"
    build: bool = False
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    prove_every_min: Positive | None = 60.0


class PublishConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """endpoint: ZeroMQ address to bind. masks: publish anomaly maps too."""

    endpoint: str = DEFAULT_ENDPOINT
    masks: bool = True

    def __post_init__(self) -> None:
        check_endpoint(self.endpoint)


class ControlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """endpoint: ZeroMQ address at which requests are answered (replay, status, drain, reload)."""

    endpoint: str = DEFAULT_CONTROL

    def __post_init__(self) -> None:
        check_endpoint(self.endpoint)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A station. journal: None publishes without one, and nothing can be replayed. control: None opens no control socket.

    on_journal_failure: a verdict that cannot be committed goes out as UNKNOWN: journal, or (continue) as it is, not durable.
    exit_when_finished: stop when every camera's folder or file has come to its end.

    drain_timeout_s: how long what was captured may take to be inspected when the daemon stops.
    """

    engine: EngineConfig
    cameras: Annotated[dict[CameraName, CameraConfig], Meta(min_length=1)]
    station: Annotated[str, Meta(min_length=1, max_length=64)] = "station"
    publish: PublishConfig = PublishConfig()
    journal: JournalConfig | None = None
    on_journal_failure: Literal["unknown", "continue"] = "unknown"
    control: ControlConfig | None = None
    exit_when_finished: bool = False
    drain_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0

    def __post_init__(self) -> None:
        triggered = [name for name, camera in self.cameras.items() if isinstance(camera.trigger, SoftwareTrigger)]
        if triggered and self.control is None:
            raise ValueError(f"camera {triggered[0]} waits for triggers at the control socket: set control")


CHOSEN = "the daemon chooses the pauses itself"
REMOVED: Removed = {
    CameraConfig: {"restart_min_s": CHOSEN, "restart_max_s": CHOSEN},
    DeviceSource: {"backend": "a camera at this machine is always read through v4l2"},
    JournalConfig: {"block": "the daemon chooses how many numbers it reserves"},
    PublishConfig: {
        "mask_queue": "up to 8 maps wait for encoding, further ones are dropped and counted",
        "send_hwm": "2000 messages are kept for a slow subscriber",
        "linger_ms": "unsent messages are kept for one second when the daemon stops",
    },
}
"""Keys of earlier versions, each with what the daemon does instead."""


def load_config(path: Path) -> Config:
    """Read and check a configuration; relative paths in it are made absolute, from the folder the file is in.

    Raises:
        ConfigError: it cannot be used; the message names file, line and key.
    """
    config = read_yaml(path, Config, removed=REMOVED)
    base = path.absolute().parent
    cameras = {name: _with_absolute_path(camera, base) for name, camera in config.cameras.items()}
    engine = msgspec.structs.replace(config.engine, bundle=str(base / config.engine.bundle))
    journal = config.journal and msgspec.structs.replace(config.journal, path=str(base / config.journal.path))
    return msgspec.structs.replace(config, cameras=cameras, engine=engine, journal=journal)


def check_sources(config: Config) -> None:
    """What can be known without opening a camera: files and folders exist; OpenCV has the backends; Aravis is there.

    Raises:
        ConfigError: a source cannot work.
    """
    for name, camera in config.cameras.items():
        try:
            _check_source(camera.source)
        except AnosegError as error:
            raise ConfigError(f"cameras.{name}.source: {error.what}", hint=error.hint) from error


def _with_absolute_path(camera: CameraConfig, base: Path) -> CameraConfig:
    if camera.presence is not None:
        presence = msgspec.structs.replace(camera.presence, empty=str(base / camera.presence.empty))
        camera = msgspec.structs.replace(camera, presence=presence)
    if isinstance(camera.source, (FileSource, FolderSource)):
        source = msgspec.structs.replace(camera.source, path=str(base / camera.source.path))
        return msgspec.structs.replace(camera, source=source)
    return camera


def _check_source(source: SourceConfig) -> None:
    if isinstance(source, (DeviceSource, UrlSource, FileSource)):
        backend = backend_of(source)
        if not cv2.videoio_registry.hasBackend(BACKENDS[backend]):
            raise ConfigError(f"this OpenCV was built without the backend {backend}")
    if isinstance(source, GenicamSource):
        load_aravis()
    if isinstance(source, FileSource):
        path = Path(source.path)
        if not path.exists() or path.is_dir():
            raise ConfigError(f"{path}: no such file", hint="give a video file")
    if isinstance(source, FolderSource):
        images_of(Path(source.path), recursive=source.recursive)
