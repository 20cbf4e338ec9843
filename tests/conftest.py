"""How tests share the machine when pytest-xdist runs several at once."""

import os

import pytest

# Otherwise threads of OpenMP burn a core while they wait for one another. PyTorch reads this when it loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SHARED = ("trained", "undisturbed")
"""Fixtures that take long. The tests that use one run on one worker, so that it is made once."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes half a minute or more, so it is started first")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests by what they share, and put long ones first: the last worker to finish decides how long a run takes."""
    for item in items:
        for name in SHARED:
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(name))
                item.add_marker("long")
                break
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
