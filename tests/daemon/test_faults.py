"""The fault table, a short run of some rows; all of them: `make faults`."""

import pytest
from stress.faults import faults


@pytest.mark.parametrize("name", ["camera hung", "engine error", "daemon killed"])
def test_no_defective_part_passes_during_a_fault(name: str) -> None:
    """Nor after it; at most one committed verdict a part, every accepted trigger answered, good parts PASS again."""
    assert faults([name], parts=6) == []
