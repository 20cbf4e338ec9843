"""The bundle: written with a seal after its self-test, and refused with the reason if anything in it has changed."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.tiny_bundle import TINY_RULES, bad_part, good_part, tiny_draft, write_tiny_bundle

from anoseg_engines.bundle import MANIFEST, canonical_bytes, load_bundle, manifest_schema, sealed
from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.commands.inspect import bundle_table
from anoseg_engines.errors import ConfigError, EngineError
from anoseg_engines.judgement import judge
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import InputSpec, Region


def test_a_written_bundle_loads_and_judges(tmp_path: Path) -> None:
    """Loaded by name (newest version), it fails the white spot and passes the grey part."""
    write_tiny_bundle(tmp_path / "tiny")
    write_tiny_bundle(tmp_path / "tiny")
    bundle = load_bundle(tmp_path / "tiny")
    assert bundle.label == "tiny/2"
    engine = load_engine(bundle)
    placement = engine.place(Region(0, 0, 80, 48))
    for image, outcome in [(good_part(), "PASS"), (bad_part(), "FAIL")]:
        judgement = judge(engine.inspect(image, placement), engine.thresholds, placement)
        assert judgement.outcome == outcome
    (defect,) = judgement.defects
    assert (defect.x, defect.y) == pytest.approx((20, 10), abs=1.5)
    engine.close()


def test_tile_mode_finds_the_same_spot_as_resize_mode(tmp_path: Path) -> None:
    """A part larger than the network's input is inspected in overlapping tiles; the defect has its true place and size."""
    engine = load_engine(write_tiny_bundle(tmp_path / "tiny", InputSpec(32, 32, "tile", 1.0, 8)))
    placement = engine.place(Region(0, 0, 80, 48))
    assert len(placement.tiles) == 6
    (defect,) = judge(engine.inspect(bad_part(), placement), engine.thresholds, placement).defects
    assert (defect.x, defect.y, defect.width, defect.height) == (20, 10, 20, 20)
    engine.close()


def test_any_changed_byte_is_detected(tmp_path: Path) -> None:
    """A bundle with one flipped bit, in any file including the manifest, is refused with the file's name."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    rng = np.random.default_rng(0)
    for path in sorted(p for p in bundle.path.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for position in rng.integers(0, len(whole), 40):
            changed = bytearray(whole)
            changed[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            with pytest.raises(EngineError, match=path.name.replace(".", r"\.")):
                load_bundle(bundle.path)
        path.write_bytes(whole)
    load_bundle(bundle.path)


@pytest.mark.parametrize("name", ["model.onnx", "golden/00.png", "golden/01.map.png"])
def test_a_missing_or_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    """A truncated or missing file is refused with its name."""
    path = write_tiny_bundle(tmp_path / "tiny").path / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(EngineError, match=f"{name}.*damaged"):
        load_bundle(tmp_path / "tiny")
    path.unlink()
    with pytest.raises(EngineError, match=f"{name}.*cannot be read"):
        load_bundle(tmp_path / "tiny")


def test_a_newer_schema_says_update(tmp_path: Path) -> None:
    """A bundle of a newer program is refused with both versions and what to do."""
    path = write_tiny_bundle(tmp_path / "tiny").path / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"schema_version": 1', b'"schema_version": 9'))
    with pytest.raises(EngineError, match=r"(?s)schema version 9.*update"):
        load_bundle(tmp_path / "tiny")


def test_a_bundle_of_another_input_size_than_its_network_is_refused(tmp_path: Path) -> None:
    """A correctly sealed manifest with a size that its network rejects is refused when it is loaded, exit code 3."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    manifest = msgspec.structs.replace(bundle.manifest, input=InputSpec(32, 32))
    (bundle.path / MANIFEST).write_bytes(canonical_bytes(sealed(manifest)))
    with pytest.raises(EngineError, match="32×32") as caught:
        load_engine(load_bundle(bundle.path))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname"])
def test_a_manifest_cannot_reach_outside_the_bundle(tmp_path: Path, name: str) -> None:
    """Even a correctly sealed manifest cannot name a file outside its folder."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    manifest = msgspec.structs.replace(bundle.manifest, files={**bundle.manifest.files, name: "0" * 64})
    (bundle.path / MANIFEST).write_bytes(canonical_bytes(sealed(manifest)))
    with pytest.raises(EngineError, match="not a path inside the bundle"):
        load_bundle(bundle.path)


def test_a_path_without_a_bundle_is_a_configuration_error(tmp_path: Path) -> None:
    """It is the user's mistake (exit code 2), not a refused engine."""
    with pytest.raises(ConfigError, match="no such bundle"):
        load_bundle(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="no bundle in this folder"):
        load_bundle(tmp_path)


def test_inspect_and_verify_as_a_user_runs_them(tmp_path: Path) -> None:
    """The commands print the bundle and its self-test. A damaged bundle exits 3, a missing one 2, without a traceback."""
    bundle = write_tiny_bundle(tmp_path / "tiny")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "anoseg_engines", *arguments], capture_output=True, text=True)

    inspected = json.loads(run("inspect", str(tmp_path / "tiny"), "--json").stdout)
    assert inspected["product"] == "tiny"
    verified = json.loads(run("verify", str(tmp_path / "tiny"), "--json").stdout)
    assert [g["verdict"] for g in verified["golden"]] == ["PASS", "FAIL"]
    assert verified["digest"] == bundle.digest
    (bundle.path / "model.onnx").write_bytes(b"")
    for arguments, code in [(("verify", str(tmp_path / "tiny")), 3), (("inspect", str(tmp_path / "none")), 2)]:
        done = run(*arguments)
        assert done.returncode == code
        assert done.stderr.startswith("anoseg-engine: ")
        assert "Traceback" not in done.stderr


def test_inspect_shows_the_rules_of_each_size_of_the_frames(tmp_path: Path) -> None:
    """Two calibrations of the same rules, for frames of two sizes, are two rows."""
    larger = msgspec.structs.replace(TINY_RULES, width=160, height=96, guarantee="other words")
    bundle = write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), rules=(TINY_RULES, larger)))
    rows = bundle_table(bundle).columns
    shown = dict(zip(rows[0].cells, map(str, rows[1].cells), strict=True))
    assert shown["rules 000000000000, 80×48"] == "words"
    assert shown["rules 000000000000, 160×96"] == "other words"


def test_the_manifest_follows_its_published_schema(tmp_path: Path) -> None:
    """The JSON Schema generated from the code is valid for manifests with and without calibrated rules."""
    import jsonschema

    for rules in ((), (TINY_RULES,)):
        bundle = write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), rules=rules))
        written = json.loads((bundle.path / MANIFEST).read_bytes())
        jsonschema.validate(written, manifest_schema())
        # omitted if there are none, so that seals from before there were rules stay valid
        assert ("rules" in written) == bool(rules)
        assert bundle.rule_calibrations == rules
