"""Reads the daemon's configuration file into strict structs with defaults. `main` reads it once and passes it down.

`configs/reference.yaml` documents every key for the user; a test compares its values with the defaults here. `config_check.py`
checks whether the files and folders that a configuration names exist.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from anoseg_engines.errors import ConfigError
from anoseg_engines.files import shown_name
from anoseg_engines.judgement import QualityLimits, Rule, ignore_everything
from anoseg_engines.placement import Region
from anoseg_engines.strict_yaml import Removed, read_yaml
from anosegd.capture.config import (
    LIVE,
    CaptureConfig,
    DeviceSource,
    FileSource,
    FolderSource,
    HardwareTrigger,
    IntervalTrigger,
    NotEmpty,
    Positive,
    SoftwareTrigger,
)
from anosegd.config_addresses import refuse_addresses
from anosegd.endpoint import check_endpoint, check_local, same_place
from anosegd.evidence import EvidenceConfig
from anosegd.journal import JournalConfig
from anosegd.keys import KeysConfig

CameraName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z",
        description="a camera's name has 1 to 63 characters: letters, digits, - and _, the first one a letter or a digit",
    ),
]
ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f]*\Z"
ONE_LINE_SAID = "line breaks and control characters are not allowed"

BYTES_PER_PIXEL = 3
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5570"
DEFAULT_CONTROL = "tcp://127.0.0.1:5571"


class PresenceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says how to recognise that a part is in the image.

    Attributes:
        empty: Path of an image of the place without a part, as the camera gives it.
        difference: Grey values by which a pixel must differ from that image.
        share: Share of the pixels that must differ for a part to be present.
    """

    empty: NotEmpty
    difference: Annotated[float, Meta(gt=0, le=255)] = 25.0
    share: Annotated[float, Meta(gt=0, le=1)] = 0.05


class CameraConfig(CaptureConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says how one camera is read (`CaptureConfig`) and how its parts are inspected.

    Attributes:
        region: The part's place in camera pixels; None is the whole image.
        mm_per_pixel: If given, defects are also given in millimetres.
        recipe: Name of this camera's inspection job, copied into its verdicts.
        presence: How to recognise frames without a part; None makes every frame a part.
        quality: Images too dark, too bright or blurred are UNKNOWN: image_quality; None accepts all.
        score_threshold: A part with this score or more is FAIL; None takes the bundle's calibrated threshold.
        rules: Named regions with thresholds of their own. If there are any, they alone decide.
        review_from: Score (with rules, map value) from which a part that does not fail is UNKNOWN: review.
        queue: Parts that may wait under policy `every`.
        deadline_ms: Longest time from software trigger, else capture, until the verdict is sent. None sets no deadline.
        keep_evidence: Whether its parts are kept as evidence, where the station keeps any.
    """

    region: Region | None = None
    mm_per_pixel: Positive | None = None
    recipe: Annotated[str, Meta(max_length=256, pattern=ONE_LINE, description=ONE_LINE_SAID)] = "default"
    presence: PresenceConfig | None = None
    quality: QualityLimits | None = None
    score_threshold: Annotated[float, Meta(gt=0, le=1)] | None = None
    rules: tuple[Rule, ...] = ()
    review_from: Annotated[float, Meta(gt=0, lt=1)] | None = None
    queue: Annotated[int, Meta(ge=1, le=64)] = 2
    deadline_ms: Annotated[float, Meta(gt=0, le=86_400_000)] | None = None
    keep_evidence: bool = True

    def __post_init__(self) -> None:
        if len({rule.name for rule in self.rules}) < len(self.rules):
            raise ValueError("rules: two rules have the same name")
        if self.rules and self.score_threshold is not None:
            raise ValueError("score_threshold: it has no effect with rules, because they alone decide: remove one of the two")
        if ignore_everything(self.rules):
            raise ValueError("the rules ignore the whole part, so every part would pass: leave something to inspect")
        paced = isinstance(self.trigger, (SoftwareTrigger, IntervalTrigger))
        if isinstance(self.source, FolderSource) and self.source.fps is None and self.policy != "wait" and not paced:
            raise ValueError(f"a folder has no rate of its own: set source.fps, or policy: wait (now {self.policy})")
        if isinstance(self.trigger, (SoftwareTrigger, HardwareTrigger)) and self.policy != "every":
            raise ValueError(f"every trigger needs a verdict: set policy: every (now {self.policy})")
        if isinstance(self.trigger, SoftwareTrigger) and self.presence is not None:
            raise ValueError("presence: a software trigger already says that a part is in place: remove one of the two")
        if isinstance(self.trigger, HardwareTrigger) and not isinstance(self.source, LIVE):
            raise ValueError("trigger.kind hardware needs a camera: a file or folder has no trigger input")
        if self.policy == "wait" and isinstance(self.source, LIVE):
            raise ValueError("a live camera cannot wait: choose policy latest or every")
        if self.region is not None and (
            min(self.region.x, self.region.y) < 0 or min(self.region.width, self.region.height) < 1
        ):
            raise ValueError("region: x and y must be at least 0, width and height at least 1")
        if self.region is not None:
            width, height = self.region.x + self.region.width, self.region.y + self.region.height
            if width * height * BYTES_PER_PIXEL > self.max_frame_mb << 20:
                what = f"region: a frame of at least {width}×{height} pixels exceeds max_frame_mb ({self.max_frame_mb} MiB)"
                raise ValueError(f"{what}: correct the region, or raise max_frame_mb")


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says which bundle inspects and how it runs.

    Attributes:
        bundle: STORE/NAME (the version released last) or STORE/NAME/VERSION.
        runtime: One of `anoseg_engines.runtimes.select.RUNTIMES`.
        build: Whether a missing TensorRT plan may be built at the start.
        threads: Threads of the CPU runtime; 0 lets it choose.
        prove_every_min: Minutes between self-tests with the golden images; None runs them on request only.
    """

    bundle: NotEmpty
    runtime: Literal["auto", "tensorrt", "cpu", "cpu-f32", "cpu-bf16", "cpu-f16", "cpu-int8"] = "auto"
    build: bool = False
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    prove_every_min: Annotated[float, Meta(gt=0, le=525_600)] | None = 60.0


def _check_endpoint(endpoint: str) -> None:
    try:
        check_endpoint(endpoint)
    except ValueError as error:
        raise ValueError(f"endpoint: {error}") from error


def _check_local(section: str, endpoint: str) -> None:
    try:
        check_local(endpoint)
    except ValueError as error:
        raise ValueError(f"{section}.endpoint: {error}") from error


class PublishConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Holds the publisher's ZeroMQ address, and says whether anomaly maps and, to those who ask, pictures are published too."""

    endpoint: str = DEFAULT_ENDPOINT
    masks: bool = True
    images: bool = True

    def __post_init__(self) -> None:
        _check_endpoint(self.endpoint)


class ControlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Holds the ZeroMQ address at which requests are answered."""

    endpoint: str = DEFAULT_CONTROL

    def __post_init__(self) -> None:
        _check_endpoint(self.endpoint)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Describes a station.

    Attributes:
        engine: Which bundle inspects.
        cameras: The cameras by name.
        station: Name of the station in every message.
        publish: Where verdicts go.
        journal: None publishes without a journal; then nothing can be replayed.
        on_journal_failure: A verdict that cannot be committed is sent as UNKNOWN: journal, or (`continue`) unchanged but not
            durable.
        evidence: None keeps no pictures of parts.
        control: None opens no control socket.
        keys: None needs none, and allows connections from this machine only.
        exit_when_finished: Stop when every folder and file has been read to its end.
        drain_timeout_s: How long the inspection of captured parts may take when the daemon stops.
    """

    engine: EngineConfig
    cameras: Annotated[dict[CameraName, CameraConfig], Meta(min_length=1)]
    station: Annotated[str, Meta(min_length=1, max_length=64, pattern=ONE_LINE, description=ONE_LINE_SAID)] = "station"
    publish: PublishConfig = PublishConfig()
    journal: JournalConfig | None = None
    on_journal_failure: Literal["unknown", "continue"] = "unknown"
    evidence: EvidenceConfig | None = None
    control: ControlConfig | None = None
    keys: KeysConfig | None = None
    exit_when_finished: bool = False
    drain_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0

    def __post_init__(self) -> None:
        triggered = [name for name, camera in self.cameras.items() if isinstance(camera.trigger, SoftwareTrigger)]
        if triggered and self.control is None:
            raise ValueError(f"cameras.{triggered[0]}: it waits for triggers at the control socket: set control")
        if self.keys is None:
            for name, section in (("publish", self.publish), ("control", self.control)):
                if section is not None:
                    _check_local(name, section.endpoint)
        if self.control is not None and same_place(self.publish.endpoint, self.control.endpoint):
            raise ValueError(f"control.endpoint is publish.endpoint ({self.publish.endpoint}): give each its own")


PAUSES = "the daemon chooses the pauses itself"
REMOVED: Removed = {
    CameraConfig: {"restart_min_s": PAUSES, "restart_max_s": PAUSES},
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
    """Read a configuration file. Relative paths in it start at the file's folder, `~` at the user's; they are made absolute.

    Raises:
        ConfigError: The file cannot be read, or a value is invalid. The message names file, line and key.
    """
    config = read_yaml(path, Config, removed=REMOVED)
    refuse_addresses(path, config)
    base = path.absolute().parent
    if (shown := shown_name(base)) != str(base):
        what = f"{shown}: this folder's name is not UTF-8, so what is in it cannot be named in messages"
        raise ConfigError(what, hint="rename the folder, or move the configuration")
    cameras = {name: _with_absolute_paths(camera, base) for name, camera in config.cameras.items()}
    engine = msgspec.structs.replace(config.engine, bundle=_absolute(config.engine.bundle, base))
    journal = config.journal and msgspec.structs.replace(config.journal, path=_absolute(config.journal.path, base))
    if journal is not None and os.path.realpath(journal.path) == os.path.realpath(path):
        raise ConfigError(f"{path}: journal.path is this configuration file itself", hint="give the path of a new file")
    evidence = config.evidence and msgspec.structs.replace(config.evidence, folder=_absolute(config.evidence.folder, base))
    publish = msgspec.structs.replace(config.publish, endpoint=_numeric(config.publish.endpoint))
    control = config.control and msgspec.structs.replace(config.control, endpoint=_numeric(config.control.endpoint))
    keys = config.keys and msgspec.structs.replace(
        config.keys,
        clients=_absolute(config.keys.clients, base),
        station=config.keys.station and _absolute(config.keys.station, base),
    )
    replaced = {"keys": keys, "cameras": cameras, "engine": engine, "journal": journal, "evidence": evidence}
    return msgspec.structs.replace(config, publish=publish, control=control, **replaced)


def _with_absolute_paths(camera: CameraConfig, base: Path) -> CameraConfig:
    if camera.presence is not None:
        presence = msgspec.structs.replace(camera.presence, empty=_absolute(camera.presence.empty, base))
        camera = msgspec.structs.replace(camera, presence=presence)
    if isinstance(camera.source, (FileSource, FolderSource)):
        source = msgspec.structs.replace(camera.source, path=_absolute(camera.source.path, base))
        return msgspec.structs.replace(camera, source=source)
    return camera


def _absolute(path: str, base: Path) -> str:
    return str(base / os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def _numeric(endpoint: str) -> str:
    """Return the endpoint without the name localhost: a machine's name service could give it any address."""
    return endpoint.replace("tcp://localhost:", "tcp://127.0.0.1:", 1)
