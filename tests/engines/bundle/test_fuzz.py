"""A short run of `tests/stress/fuzz_manifests.py`; the long one is run by hand."""

from pathlib import Path

import msgspec
import pytest
from stress.fuzz_manifests import fuzz

from anoseg_engines.bundle.manifest import Manifest
from anoseg_engines.runtimes.tensorrt.plan import PlanDescription


def test_damaged_manifests_and_descriptions_are_refused_without_a_crash(tmp_path: Path) -> None:
    """Each of 400 manifests and plan descriptions, damaged at random and sealed again, is an engine error or loads."""
    seen, _ = fuzz(400, 1, tmp_path)
    assert seen["refused"] > 150
    assert seen["plan refused"] > 50
    assert sum(seen[kind] for kind in ("refused", "loaded", "plan refused", "plan read")) >= 400


@pytest.mark.parametrize(("kind", "field"), [(Manifest, "product"), (Manifest, "seal"), (PlanDescription, "plan")])
def test_a_name_ends_with_its_last_letter(kind: type, field: str) -> None:
    """A line end behind a product's name, a hash or a plan's file name is refused; without it, the text is accepted."""
    (kind_of_field,) = (f.type for f in msgspec.structs.fields(kind) if f.name == field)
    text = {"product": "part", "seal": "0" * 64, "plan": "a.plan"}[field]
    assert msgspec.convert(text, kind_of_field) == text
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text + "\n", kind_of_field)
