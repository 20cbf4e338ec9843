"""A short run of `tests/stress/fuzz_manifests.py`; the long one is run by hand."""

from pathlib import Path

from stress.fuzz_manifests import fuzz


def test_damaged_manifests_and_descriptions_are_refused_without_a_crash(tmp_path: Path) -> None:
    """Each of 400 manifests and plan descriptions, damaged at random and sealed again, is an engine error or loads."""
    seen, _ = fuzz(400, 1, tmp_path)
    assert seen["refused"] > 150
    assert seen["plan refused"] > 50
    assert sum(seen[kind] for kind in ("refused", "loaded", "plan refused", "plan read")) >= 400
