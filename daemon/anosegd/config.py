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
from anoseg_engines.strict_yaml import Removed, read_yaml
from anosegd.capture.config import DeviceSource, FileSource, FolderSource, NotEmpty, SoftwareTrigger
from anosegd.config_addresses import refuse_addresses
from anosegd.config_cameras import ONE_LINE, ONE_LINE_SAID
from anosegd.config_cameras import CameraConfig as CameraConfig
from anosegd.config_cameras import CameraName as CameraName
from anosegd.config_cameras import PresenceConfig as PresenceConfig
from anosegd.config_recipes import RecipeConfig, RecipeName, check_recipes, inspected_by
from anosegd.endpoint import check_endpoint, check_local, same_place
from anosegd.evidence import EvidenceConfig
from anosegd.journal import JournalConfig
from anosegd.keys import KeysConfig

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5570"
DEFAULT_CONTROL = "tcp://127.0.0.1:5571"


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says which bundle inspects and how it runs.

    Attributes:
        bundle: STORE/NAME (the version released last) or STORE/NAME/VERSION.
        runtime: One of `anoseg_engines.runtimes.select.RUNTIMES`.
        build: Whether a missing TensorRT plan may be built at the start.
        threads: Threads of the CPU runtime; 0 lets it choose.
        prove_every_min: Minutes between self-tests with the golden images; None runs them on request only.
        warm: How many engines may be loaded, the one that inspects included. The others wait for their recipes.
    """

    bundle: NotEmpty
    runtime: Literal["auto", "tensorrt", "cpu", "cpu-f32", "cpu-bf16", "cpu-f16", "cpu-int8"] = "auto"
    build: bool = False
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    prove_every_min: Annotated[float, Meta(gt=0, le=525_600)] | None = 60.0
    warm: Annotated[int, Meta(ge=1, le=100)] = 4


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
        cameras: The cameras by name. With `engine`, they are the default recipe.
        recipes: How other products are inspected, by the name of the recipe.
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
    recipes: dict[RecipeName, RecipeConfig] = {}
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
        check_recipes(self.recipes, self.cameras)
        triggered = [name for name, camera in self.cameras.items() if isinstance(camera.trigger, SoftwareTrigger)]
        if triggered and self.control is None:
            raise ValueError(f"cameras.{triggered[0]}: it waits for triggers at the control socket: set control")
        if self.keys is None:
            for name, section in (("publish", self.publish), ("control", self.control)):
                if section is not None:
                    _check_local(name, section.endpoint)
        if self.control is not None and same_place(self.publish.endpoint, self.control.endpoint):
            raise ValueError(f"control.endpoint is publish.endpoint ({self.publish.endpoint}): give each its own")

    def cameras_of(self, recipe: str) -> dict[str, CameraConfig]:
        """Return the cameras' configurations while one of `recipes` is in force."""
        cameras = self.recipes[recipe].cameras
        return {name: inspected_by(camera, recipe, cameras[name]) for name, camera in self.cameras.items()}


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
    recipes = {name: _recipe_with_absolute_paths(recipe, base) for name, recipe in config.recipes.items()}
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
    replaced = {
        "keys": keys,
        "cameras": cameras,
        "recipes": recipes,
        "engine": engine,
        "journal": journal,
        "evidence": evidence,
    }
    return msgspec.structs.replace(config, publish=publish, control=control, **replaced)


def _with_absolute_paths(camera: CameraConfig, base: Path) -> CameraConfig:
    if camera.presence is not None:
        camera = msgspec.structs.replace(camera, presence=_presence_with_absolute_path(camera.presence, base))
    if isinstance(camera.source, (FileSource, FolderSource)):
        source = msgspec.structs.replace(camera.source, path=_absolute(camera.source.path, base))
        return msgspec.structs.replace(camera, source=source)
    return camera


def _recipe_with_absolute_paths(recipe: RecipeConfig, base: Path) -> RecipeConfig:
    cameras = {
        name: camera
        if camera.presence is None
        else msgspec.structs.replace(camera, presence=_presence_with_absolute_path(camera.presence, base))
        for name, camera in recipe.cameras.items()
    }
    return msgspec.structs.replace(recipe, cameras=cameras, bundle=recipe.bundle and _absolute(recipe.bundle, base))


def _presence_with_absolute_path(presence: PresenceConfig, base: Path) -> PresenceConfig:
    return msgspec.structs.replace(presence, empty=_absolute(presence.empty, base))


def _absolute(path: str, base: Path) -> str:
    return str(base / os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def _numeric(endpoint: str) -> str:
    """Return the endpoint without the name localhost: a machine's name service could give it any address."""
    return endpoint.replace("tcp://localhost:", "tcp://127.0.0.1:", 1)
