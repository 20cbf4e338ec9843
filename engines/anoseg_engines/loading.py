"""Loads a bundle into an engine, and runs the engine's self-test. Runs on the caller's thread."""

from __future__ import annotations

from anoseg_engines.bundle import Bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import GpuMemoryError
from anoseg_engines.golden import self_test
from anoseg_engines.runtimes.select import SelectedRuntime, select_runtimes
from anoseg_engines.runtimes.tensorrt.build import PlanTest
from anoseg_engines.runtimes.tensorrt.plan import PlanDescription
from anoseg_engines.runtimes.tensorrt.runtime import TensorRTRuntime


def load_engine(bundle: Bundle, *, runtime: str = "auto", threads: int = 0, build: bool = False) -> Engine:
    """Load `bundle` on a runtime and run the self-test, which also warms the engine up.

    Args:
        runtime: One of `select.RUNTIMES`.
        threads: Threads of the CPU runtime; 0 lets it decide.
        build: Whether to build a missing TensorRT plan, which takes minutes.

    Raises:
        ConfigError: The runtime's name is unknown.
        EngineError: The runtime cannot run, or the self-test failed.
    """
    found = select_runtimes(bundle, runtime, threads=threads, build_with=plan_test(bundle) if build else None)
    *others, last = found
    failure = ""
    for selected in others:
        try:
            return _load(bundle, selected, failure)
        except selected.instead as error:
            failure = error.what if isinstance(error, GpuMemoryError) else failure  # the reasons of the CPU name the others
    return _load(bundle, last, failure)


def plan_test(bundle: Bundle) -> PlanTest:
    """Return the self-test that `build_plan` runs on a new plan."""

    def test(description: PlanDescription, plan: bytes) -> None:
        engine = Engine(bundle, TensorRTRuntime.open(bundle, plan, description))
        try:
            self_test(engine)
        finally:
            engine.close()

    return test


def _load(bundle: Bundle, selected: SelectedRuntime, failure: str) -> Engine:
    why = f"{failure}; {selected.why}" if failure else selected.why
    engine = Engine(bundle, selected.open(), name=selected.name, why=why)
    try:
        self_test(engine)
    except BaseException:
        engine.close()
        raise
    selected.passed()
    return engine
