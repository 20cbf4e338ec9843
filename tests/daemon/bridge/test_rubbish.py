"""The rig of malformed Modbus frames, with fewer frames."""

from stress.modbus_rubbish import flood


def test_malformed_frames_change_nothing_for_others() -> None:
    """Beside 100 clients and 20 slow ones, a good master is served, memory stays, and the log stays short."""
    assert flood(3000) == []
