"""Thousands of damaged and malicious manifests and plan descriptions: each is refused with a message or loads. None crashes
the program, makes it hang, or makes it grow.

    python tests/stress/fuzz_manifests.py [--count 10000] [--seed 0]

Each is sealed again if possible. Otherwise the check of the seal would refuse most of them at once.
"""

import argparse
import contextlib
import copy
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.bundle import MANIFEST, Manifest, canonical_bytes, load_bundle, sealed
from anoseg_engines.errors import EngineError
from anoseg_engines.loading import load_engine
from anoseg_engines.runtimes.tensorrt.gpu import platform_name
from anoseg_engines.runtimes.tensorrt.plan import Machine, PlanDescription, check_plan
from anoseg_engines.runtimes.tensorrt.plan_store import PlanStore

MACHINE = Machine("tensorrt", "10.3.0", None, platform_name())
ODD = [None, True, -1, 0, 1, 2**31, 2**63, 2**200, 1e308, -0.5, float("nan"), "", "x", "é" * 9, "\0", "../../x", "/etc/passwd"]
ODD += ["a" * 70_000, [], [[]], {}, {"a": 1}, [0] * 5000, ["golden/00.png"] * 300, 10**-300, "1e999", "0" * 64, "golden/00.png"]


def places(value, path=()):
    """Yield every place in a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 50)):
            yield from places(value[i], (*path, i))


def damaged(value, rng):
    """Change one to three places of a value: replace, remove, add, or scale."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(list(places(value)))
        if not path:
            continue
        parent = value
        for step in path[:-1]:
            parent = parent[step]
        change = rng.randrange(6)
        if change < 3:
            parent[path[-1]] = copy.deepcopy(rng.choice(ODD))
        elif change == 3:
            del parent[path[-1]]
        elif change == 4 and isinstance(parent, dict):
            parent[rng.choice(["extra", "", "seal", "schema_version"])] = copy.deepcopy(rng.choice(ODD))
        elif isinstance(parent[path[-1]], (int, float)) and not isinstance(parent[path[-1]], bool):
            parent[path[-1]] = parent[path[-1]] * rng.choice([-1, 0, 0.5, 2, 1e9])
    return value


def as_bytes(value, rng):
    """Encode the value as JSON, sealed again if it is a manifest, sometimes with bytes cut, changed or inserted."""
    raw = json.dumps(value, indent=2).encode()
    with contextlib.suppress(msgspec.DecodeError, UnicodeError, RecursionError, OverflowError):
        raw = canonical_bytes(sealed(msgspec.json.decode(raw, type=Manifest)))
    change = rng.randrange(12)
    if change == 0:
        raw = raw[: rng.randrange(len(raw))]
    elif change == 1:
        at = rng.randrange(len(raw))
        raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
    elif change == 2:
        at = rng.randrange(len(raw))
        raw = raw[:at] + rng.choice([b"[" * 20_000, b'{"a":' * 20_000, b"\xff\xfe", b"\0", b"9" * 5000]) + raw[at:]
    return raw


def fuzz(count, seed, folder, *, slowest_s=5.0):
    """Returns the results by kind, and the growth of the peak memory in MiB. Raises AssertionError if a case takes too long."""
    rng = random.Random(seed)
    bundle = write_tiny_bundle(folder / "store" / "tiny")
    manifest = json.loads((bundle.path / MANIFEST).read_bytes())
    description = json.loads(msgspec.json.encode(plan_description(bundle)))
    store = PlanStore.of(bundle)
    store.folder.mkdir(parents=True)
    seen = {"refused": 0, "loaded": 0, "passed": 0, "plan refused": 0, "plan read": 0}
    grown = []
    for i in range(count):
        start = time.monotonic()
        if i % 4:
            (bundle.path / MANIFEST).write_bytes(as_bytes(damaged(manifest, rng), rng))
            try:
                loaded = load_bundle(bundle.path)
                seen["loaded"] += 1
                if loaded.manifest.input.height * loaded.manifest.input.width <= 1 << 20:
                    load_engine(loaded, runtime="cpu-f32", threads=1).close()
                    seen["passed"] += 1
            except EngineError:
                seen["refused"] += 1
        else:
            path = store.folder / f"{MACHINE.stem}.json"
            path.write_bytes(as_bytes(damaged(description, rng), rng))
            try:
                read = store.read(path)
                check_plan(read, MACHINE, bundle)
                store.load(read)
                seen["plan read"] += 1
            except EngineError:
                seen["plan refused"] += 1
            store.clean()
        took = time.monotonic() - start
        assert took < slowest_s, f"case {i} of seed {seed} took {took:.1f} s"
        if i in (count // 3, count - 1):
            grown.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return seen, grown[-1] - grown[0]


def plan_description(bundle):
    """Make a description that fits `MACHINE`."""
    spec = bundle.manifest.input
    return PlanDescription(
        bundle=bundle.label,
        bundle_sha256=bundle.digest,
        library=MACHINE.library,
        library_version=MACHINE.library_version,
        gpu="any",
        compute_capability="any",
        platform=MACHINE.platform,
        height=spec.height,
        width=spec.width,
        opt_batch=1,
        max_batch=4,
        built="2026-01-01T00:00:00+00:00",
        build_seconds=1.0,
        plan=f"{MACHINE.stem}-0123456789ab.plan",
        plan_sha256="0" * 64,
        plan_bytes=10,
        layers={"HALF": 90},
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seen, grown = fuzz(options.count, options.seed, Path(folder))
    print(f"{options.count} cases in {time.monotonic() - start:.0f} s: {seen}; peak memory grew by {grown:.1f} MiB")
    sys.exit(grown > 32)


if __name__ == "__main__":
    main()
