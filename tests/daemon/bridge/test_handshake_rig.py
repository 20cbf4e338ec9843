"""The rig of the handshake, with fewer parts."""

import pytest
from stress.plc_handshake import run


@pytest.mark.parametrize("triggered", [True, False], ids=["triggered by the PLC", "triggered by the camera"])
def test_no_part_is_acted_on_wrongly(triggered: bool) -> None:
    """Through restarts of station, bridge and PLC, lost polls and lost messages; and most parts are judged at all."""
    report = run(6000, 5, triggered=triggered)
    assert report.wrong == []
    assert report.counts["PASS"] > 2500
    for what in ("Station.restart", "Bridge.restart", "Plc.restart", "Bridge.suspend"):
        assert report.counts[what] > 3
    if not triggered:
        for what in ("Station.lose_camera", "not captured", "dropped", "recipe changed", "recipe given up", "UNKNOWN recipe"):
            assert report.counts[what] > 3
