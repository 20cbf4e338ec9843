"""Checks a whole configuration against this machine without opening a camera. Runs on the caller's thread.

`anosegd check` calls `check_whole`, which also runs the bundle's self-test. A reload does the same in two steps. The start
calls `check_surroundings`; the inspector loads the bundle then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2

from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import ConfigError
from anoseg_engines.loading import load_engine
from anoseg_engines.permissions import ENTER, looking
from anosegd.cameras import Presence
from anosegd.capture.config import (
    BACKENDS,
    DeviceSource,
    FileSource,
    FolderSource,
    GenicamSource,
    SourceConfig,
    UrlSource,
    backend_of,
    concealing_element,
)
from anosegd.capture.sources.aravis import load_aravis
from anosegd.capture.sources.folder import images_of
from anosegd.capture.sources.refusal import host_and_port
from anosegd.config import Config
from anosegd.endpoint import IPC, MAX_PORT, check_socket_place
from anosegd.evidence import check_place as check_evidence_place
from anosegd.inspection.ready import cameras_at, make_ready, naming
from anosegd.journal import check_place
from anosegd.keys import CREDENTIALS, keyring_of
from anosegd.recipe import Recipe, recipes_of


def check_sources(config: Config) -> None:
    """Check what is known without opening a camera: files and folders exist, OpenCV has the backends, Aravis is installed.

    Raises:
        ConfigError: A source cannot work.
    """
    for name, camera in config.cameras.items():
        with naming(f"cameras.{name}.source"):
            _check_source(camera.source)


def check_surroundings(config: Config, *, journal: bool = True) -> None:
    """Check everything that the configuration names except the bundle.

    Args:
        config: A loaded configuration.
        journal: Whether the journal's folder must exist. A service creates it only when it starts.

    Raises:
        ConfigError: A source, a socket's path, the keys, the journal's or the evidence's folder, or an image of the empty
            place cannot be used.
    """
    check_sources(config)
    with naming("publish"):
        check_socket_place(config.publish.endpoint)
    if config.control is not None:
        with naming("control"):
            check_socket_place(config.control.endpoint)
    if config.keys is not None and (config.keys.station is not None or CREDENTIALS in os.environ):
        keyring_of(config.keys)
    if journal and config.journal is not None:
        check_place(config.journal)
    if config.evidence is not None:
        check_evidence_place(config.evidence)
    for recipe in recipes_of(config).values():
        for name, camera in recipe.cameras.items():
            if camera.presence is not None:
                with naming(f"{recipe.at}.{name}"):
                    Presence.load(camera.presence, camera.region)


def check_ipc_folders(config: Config, *, created: Path | None = None) -> None:
    """Check that the folders of sockets exist.

    Args:
        config: A loaded configuration.
        created: A folder that may be missing, because the service creates it when it starts; None if no folder may.

    Raises:
        ConfigError: A folder is missing.
    """
    endpoints = {"publish": config.publish.endpoint, "control": config.control.endpoint if config.control else ""}
    for key, endpoint in endpoints.items():
        folder = Path(endpoint.removeprefix(IPC)).parent
        if not endpoint.startswith(f"{IPC}/") or folder == created:
            continue
        with looking(ConfigError, key=f"{key}.endpoint", hint=ENTER):
            if not folder.is_dir():
                raise ConfigError(f"{key}.endpoint: {folder}: no such folder", hint="create it, writable for the daemon's user")


Passed = Callable[[Engine, list[Recipe]], None]
"""Takes an engine that passed its self-test, and the recipes that use it. The engine is closed afterwards."""


def check_whole(config: Config, *, journal: bool = True, passed: Passed = lambda engine, recipes: None) -> None:
    """Check the surroundings, run the self-test of each bundle and check each camera's rules. Builds no TensorRT plan.

    Args:
        config: A loaded configuration.
        journal: As in `check_surroundings`.
        passed: Called for each bundle, that of the default recipe first.

    Raises:
        ConfigError: The configuration cannot work.
        EngineError: The bundle is refused.
    """
    check_surroundings(config, journal=journal)
    default = next(iter(recipes_of(config).values()))
    engine = load_checked(config, default, load_bundle(Path(default.bundle)), build=False)
    try:
        passed(engine, [recipe for recipe in recipes_of(config).values() if recipe.slot == default.slot])
    finally:
        engine.close()
    check_other_recipes(config, default.slot, build=False, passed=passed)


def check_other_recipes(config: Config, slot: str, *, build: bool, passed: Passed = lambda engine, recipes: None) -> None:
    """Load the engines of all recipes that do not share the engine of `slot`, one after the other, as `load_checked` does.

    Args:
        config: A loaded configuration.
        slot: The slot that is checked elsewhere.
        build: As in `load_checked`.
        passed: As in `check_whole`.

    Raises:
        ConfigError, EngineError: A recipe cannot be used. The message names it.
    """
    recipes = recipes_of(config)
    for other in dict.fromkeys(recipe.slot for recipe in recipes.values() if recipe.slot != slot):
        sharing = [recipe for recipe in recipes.values() if recipe.slot == other]
        with naming(f"recipes.{sharing[0].key}.bundle" if other else "engine.bundle"):
            bundle = load_bundle(Path(sharing[0].bundle))
            engine = load_engine(bundle, runtime=config.engine.runtime, threads=config.engine.threads, build=build)
        try:
            make_ready(engine, cameras_at(recipes.values(), other))
            passed(engine, sharing)
        finally:
            engine.close()


def load_checked(config: Config, recipe: Recipe, bundle: Bundle, *, build: bool) -> Engine:
    """Load the engine of a recipe, run its self-test, make it ready for the cameras and check their rules.

    Args:
        config: A loaded configuration.
        recipe: One of its recipes.
        bundle: The bundle of this recipe.
        build: Whether to build a missing TensorRT plan, which takes minutes.

    Returns:
        The engine. The caller closes it.

    Raises:
        ConfigError: A region or the rules of a camera cannot be used.
        EngineError: The bundle is refused.
    """
    engine = load_engine(bundle, runtime=config.engine.runtime, threads=config.engine.threads, build=build)
    try:
        make_ready(engine, cameras_at(recipes_of(config).values(), recipe.slot))
    except BaseException:
        engine.close()
        raise
    return engine


def _check_source(source: SourceConfig) -> None:
    if isinstance(source, (DeviceSource, UrlSource, FileSource)):
        backend = backend_of(source)
        if not cv2.videoio_registry.hasBackend(BACKENDS[backend]):
            raise ConfigError(f"this OpenCV was built without the backend {backend}")
    if (element := concealing_element(source)) is not None:
        raise ConfigError(
            f"{element} fills in what is missing in a damaged frame, and does not report it",
            hint="use backend: ffmpeg, or a pipeline that ends in JPEG images: … ! image/jpeg ! appsink",
        )
    if isinstance(source, UrlSource) and source.backend == "ffmpeg":
        _, port = host_and_port(source.url)
        if port.isdecimal() and not 0 < int(port) <= MAX_PORT:
            raise ConfigError(f"url: port {port} is not a port", hint=f"a port is a number from 1 to {MAX_PORT}")
    if isinstance(source, GenicamSource):
        load_aravis()
    if isinstance(source, FileSource):
        path = Path(source.path)
        with looking(ConfigError, hint=ENTER):
            if not path.exists() or path.is_dir():
                raise ConfigError(f"{path}: no such file", hint="give a video file")
    if isinstance(source, FolderSource):
        images_of(Path(source.path), recursive=source.recursive)
