"""A short run of some rows of the fault table; `make faults` runs all of them."""

import pytest
from stress.faults import faults


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["camera hung", "frames without a tail", "H.264 packets lost", "engine error", "daemon killed"]
)
def test_no_defective_part_passes_during_a_fault(name: str) -> None:
    """During and after a fault a part has at most one committed verdict, triggers are answered, good parts PASS again."""
    assert faults([name], parts=6) == []
