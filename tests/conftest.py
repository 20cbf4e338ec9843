"""How tests share the machine when pytest-xdist runs several at once."""

import os

import pytest
from hypothesis import settings

# Otherwise threads of OpenMP burn a core while they wait for one another. PyTorch reads this when it loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# As in a capture process. OpenCV reads this when a process opens or writes its first video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "48")

# A timing is not a test: on a busy machine one example can take longer than the default limit of 200 ms.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes 20 seconds or more; started first")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first: one that starts last would run while the other workers have nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
