"""One check of a whole configuration, for `check`, start and reload alike: nothing is opened that a line needs."""

from __future__ import annotations

from pathlib import Path

from anoseg_engines.bundle.read import load_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import ConfigError
from anoseg_engines.judgement.rules import plan
from anosegd.cameras.presence import Presence
from anosegd.config import Config, check_sources
from anosegd.journal import check_place


def check_surroundings(config: Config, *, journal: bool = True) -> None:
    """What a configuration names besides its bundle: sources, the journal's folder, pictures of the empty place.

    journal: its folder must be there; False where a service makes it before the daemon starts.

    Raises:
        ConfigError: it cannot work.
    """
    check_sources(config)
    if journal and config.journal is not None:
        check_place(config.journal)
    for name, camera in config.cameras.items():
        if camera.presence is not None:
            try:
                Presence(camera.presence, camera.region)
            except ConfigError as error:
                raise ConfigError(f"cameras.{name}: {error.what}", hint=error.hint) from error


def check_whole(config: Config, *, journal: bool = True) -> Engine:
    """The surroundings, the bundle's proof on this machine, and each camera's region and rules. Builds no engine plan.

    Returns the proved engine, the caller's to close.

    Raises:
        ConfigError: it cannot work. EngineError: the bundle is refused.
    """
    check_surroundings(config, journal=journal)
    engine = Engine.load(load_bundle(Path(config.engine.bundle)), runtime=config.engine.runtime, threads=config.engine.threads)
    try:
        for name, camera in config.cameras.items():
            if camera.region is None:
                continue
            try:
                plan(camera.rules, engine.thresholds.pixel, engine.place(camera.region))
            except ConfigError as error:
                raise ConfigError(f"cameras.{name}: {error.what}", hint=error.hint) from error
    except BaseException:
        engine.close()
        raise
    return engine
