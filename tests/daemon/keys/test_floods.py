"""The station under attack, in small: `make floods` does it in earnest."""

from stress.floods import floods


def test_a_station_with_keys_goes_on_under_malformed_frames() -> None:
    """Every verdict reaches a good client once and in order; memory, files and log stay bounded."""
    assert floods(3000, half_open=60, clients=5, keys=True, seed=1, settle_s=4, rate_kept=0) == []
