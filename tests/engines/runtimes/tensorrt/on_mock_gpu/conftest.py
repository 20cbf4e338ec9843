"""Loads the mock driver, if this process was started for it (`test_on_mock_gpu.py`). Otherwise nothing here is collected."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import mock_gpu
from support.mock_gpu import Driver

FOLDER = os.environ.get("ANOSEG_MOCK_GPU")
collect_ignore_glob = [] if FOLDER else ["*"]
LOADED = mock_gpu.load(Path(FOLDER)) if FOLDER else None


@pytest.fixture(autouse=True)
def driver() -> Iterator[Driver]:
    """The mock driver. After each test, no rule of CUDA was broken and everything is freed."""
    assert LOADED is not None
    LOADED.forget()
    yield LOADED
    gc.collect()
    assert LOADED.violations == []
    assert LOADED.left == {}
    assert LOADED.library.mock_depth() == 0, "a context stays current on this thread"
