"""A short run of the rig that keeps evidence at full rate; `make evidence` runs it for ten minutes."""

from pathlib import Path

import pytest
from stress.evidence import full_rate
from support.small_disk import mounted


@pytest.mark.long
def test_evidence_at_full_rate(tmp_path: Path) -> None:
    """On a small disk, with a kill: the limits hold, the oldest go first, every file is whole, no part waits or is lost."""
    with mounted(tmp_path / "disk", "1m"):
        pass  # else it is skipped
    assert full_rate(0.4, runs=2) == []
