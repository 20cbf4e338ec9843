"""Waiting for data on descriptors of any number."""

import os
import resource

import pytest

from anosegd.capture.readable import readable

ABOVE_SELECT = 1500
"""Descriptors above 1023 are refused by `select.select`; a station with a thousand connections gets them."""


def test_a_high_descriptor_is_waited_for() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= ABOVE_SELECT:
        pytest.skip(f"this machine allows no more than {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, ABOVE_SELECT + 1), hard))
    low, write = os.pipe()
    os.dup2(low, ABOVE_SELECT)
    try:
        assert readable([ABOVE_SELECT], 0.0) == []
        os.write(write, b"x")
        assert readable([ABOVE_SELECT], None) == [ABOVE_SELECT]
        os.read(low, 1)
        os.close(write)
        assert readable([low, ABOVE_SELECT], 1.0) == [low, ABOVE_SELECT]  # closed at the other end
    finally:
        os.close(low)
        os.close(ABOVE_SELECT)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
