"""Says how a station ended, and what the next one begins with. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from anoseg_engines.engine import Engine
from anosegd.config import Config
from anosegd.inspection.history import Inspected


@dataclass(frozen=True, slots=True)
class Successor:
    """Says what the next station begins with.

    Attributes:
        config: Its configuration.
        engine: Its engine, which has passed the self-test; None lets the station load it. The station closes it.
        inspected: The bundles that inspected.
        recipe: The key of the recipe that was in force.
    """

    config: Config
    engine: Engine | None
    inspected: Inspected
    recipe: str


@dataclass(frozen=True, slots=True)
class End:
    """Says how a station ended.

    Attributes:
        exit_code: The process's exit code.
        stuck: A thread did not end, or still loads an engine; the process must exit without it.
        successor: After a reload, what the next station begins with.
    """

    exit_code: int
    stuck: bool
    successor: Successor | None = None
