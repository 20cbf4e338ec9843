"""Tells a runtime that is lost from a part that the engine cannot judge. Runs on the inspector's thread.

A part on which the engine fails is UNKNOWN, and the next part may be well. A runtime that is lost, such as a GPU whose context
is gone, fails on every part; only a new process gets another one. So after some failures in a row the golden images decide:
if the engine fails on them too, the daemon ends, and the service manager starts it again.
"""

from __future__ import annotations

import time

from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError, EngineLostError, RuntimeFailedError
from anoseg_engines.golden import self_test_steps
from anosegd import logs

RUNTIME_FAILURES = 3
"""So many failures of the runtime in a row put the engine in doubt."""
FAILING_S = 30.0
"""So do other errors, such as scores that are not numbers, if no part was judged for so long."""


class Failures:
    """Counts the parts in a row on which the engine failed."""

    def __init__(self) -> None:
        self._runtime = 0
        self._began_at: float | None = None
        self._doubt: EngineError | None = None

    @property
    def in_doubt(self) -> bool:
        """Whether `check` has to run before the next part."""
        return self._doubt is not None

    def judged(self) -> None:
        """A part was judged: the engine works."""
        self._runtime, self._began_at, self._doubt = 0, None, None

    def doubt(self, error: EngineError) -> None:
        """Have `check` run the golden images."""
        self._doubt = error

    def failed(self, error: EngineError) -> None:
        """The engine failed on a part."""
        now = time.monotonic()
        self._began_at = self._began_at or now
        self._runtime += isinstance(error, RuntimeFailedError)
        if self._runtime >= RUNTIME_FAILURES or now >= self._began_at + FAILING_S:
            self.doubt(error)

    def check(self, engine: Engine) -> bool:
        """Run the golden images if the engine is in doubt. No part may be running. Return whether they ran, and passed.

        Raises:
            EngineLostError: The engine fails on the golden images too.
        """
        if self._doubt is None:
            return False
        try:
            for _ in self_test_steps(engine):
                pass
        except EngineError as error:
            raise EngineLostError(
                f"the engine fails on every part, and on its golden images too: {error.what}",
                hint="start the daemon again, as the service does; if that does not help, check the GPU and its driver",
            ) from error
        logs.info("proof.passed", after=self._doubt.what)
        self.judged()
        return True
