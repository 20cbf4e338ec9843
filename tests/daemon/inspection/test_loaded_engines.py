"""The engines that are loaded, read by one thread while another one changes their order."""

import sys
import threading
from typing import Any
from unittest.mock import Mock

from anosegd.inspection.loaded_engines import LoadedEngines


def test_an_engine_that_is_used_is_always_found() -> None:
    """Also while it is noted as used, or replaced. Otherwise its parts would be UNKNOWN."""
    engines, done, lost = LoadedEngines(), threading.Event(), 0
    one: Any = Mock()
    for slot in ("lid", "base"):
        engines.put(slot, one)

    def change() -> None:
        while not done.is_set():
            engines.touch("lid")
            engines.put("lid", one)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        lost = sum(engines.get("lid") is None for _ in range(100_000))
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert lost == 0


def test_the_engine_used_last_is_the_last_one() -> None:
    engines = LoadedEngines()
    one: Any = Mock()
    for slot in ("lid", "base", "small"):
        assert engines.put(slot, one) is None
    engines.touch("lid")
    engines.touch("none")
    assert engines.slots == ("base", "small", "lid")
    assert engines.put("base", one) is one
    assert engines.slots == ("small", "lid", "base")
