"""Measures recipes: how long a switch takes, warm and cold, and how much memory an engine costs that is kept loaded.

    python tests/bench/recipe_switch.py [--bundle DIR] [--engines 4] [--warm-switches 60] [--cold-switches 6] [--fps 8]

A line inspects at `--fps` while a client switches. Each recipe has a copy of the bundle of its own, so nothing is shared. A
switch takes from the request to its answer; every later part is judged by the new recipe. Memory is the daemon's resident
memory.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from stress.rubbish import resident_mb
from support.anosegd_line import Daemon, wait_until
from support.paths import DEMO

from anosegd.client import Client, ClientError


def write_line(folder: Path, bundle: Path, *, engines: int, warm: int, fps: float) -> Path:
    """Write the configuration of a line with so many recipes."""
    recipes = ""
    for n in range(1, engines):
        copy = folder / f"product-{n}" / bundle.name
        if not copy.exists():
            shutil.copytree(bundle, copy)
        recipes += f"  r{n}: {{bundle: {copy}, cameras: {{c: {{}}}}}}\n"
    config = folder / "station.yaml"
    config.write_text(
        f"engine: {{bundle: {bundle}, warm: {warm}}}\npublish: {{endpoint: 'ipc://{folder}/pub'}}\n"
        f"control: {{endpoint: 'ipc://{folder}/ctl'}}\njournal: {{path: verdicts.db}}\n"
        f"recipes:\n{recipes or '  {}'}\n"
        f"cameras:\n  c: {{source: {{kind: demo, fps: {fps}}}, policy: every, queue: 64, recipe: r0}}\n"
    )
    return config


def is_ready(client: Client, loaded: int) -> bool:
    """Return whether the line inspects, all recipes are tested, and so many engines are loaded."""
    try:
        state = client.status()
    except ClientError:
        return False
    states = [recipe["state"] for recipe in state["recipes"].values()]
    found = sum(recipe in ("in_force", "warm") for recipe in states)
    return state["state"] == "ContinuousExecution" and "waiting" not in states and (not states or found == loaded)


def measure(bundle: Path, *, engines: int, warm: int, switches: int, fps: float) -> tuple[float, list[float], str]:
    """Run a line. Return its memory in MB when all recipes are tested, the milliseconds of each switch, and what was lost."""
    with tempfile.TemporaryDirectory(prefix="anoseg-recipes-") as name:
        folder = Path(name)
        daemon = Daemon(write_line(folder, bundle, engines=engines, warm=warm, fps=fps))
        try:
            with Client(f"ipc://{folder}/pub", f"ipc://{folder}/ctl", request_timeout_s=120) as client:
                wait_until(lambda: is_ready(client, min(engines, warm)), "the line is ready")
                time.sleep(2)
                memory_mb = resident_mb(daemon.process.pid)
                spent = []
                for _, n in zip(range(switches), itertools.cycle([*range(1, engines), 0]), strict=False):
                    began = time.perf_counter()
                    client.recipe(f"r{n}")
                    spent.append(1e3 * (time.perf_counter() - began))
                    time.sleep(0.05)
                state = client.status()
        finally:
            daemon.terminate()
            daemon.close()
        counts, camera = state["counts"], state["cameras"]["c"]
        return memory_mb, spent, f"{counts['unknown']} of {camera['frames']} parts UNKNOWN"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=DEMO, help="STORE/NAME/VERSION (the demo's)")
    parser.add_argument("--engines", type=int, default=4, help="recipes, each with an engine of its own (4)")
    parser.add_argument("--warm-switches", type=int, default=60)
    parser.add_argument("--cold-switches", type=int, default=6)
    parser.add_argument("--fps", type=float, default=8.0, help="parts per second (8)")
    options = parser.parse_args()
    bundle, engines, fps = options.bundle.absolute(), options.engines, options.fps
    one_mb, _, _ = measure(bundle, engines=1, warm=1, switches=0, fps=fps)
    all_mb, warm, warm_lost = measure(bundle, engines=engines, warm=engines, switches=options.warm_switches, fps=fps)
    _, cold, cold_lost = measure(bundle, engines=engines, warm=1, switches=options.cold_switches, fps=fps)
    table = Table("switch", "times", "median ms", "95 % ms", "longest ms", "parts")
    for kind, spent, lost in (("engine loaded", warm, warm_lost), ("engine not loaded", cold, cold_lost)):
        numbers = (np.median(spent), np.percentile(spent, 95), max(spent))
        table.add_row(kind, str(len(spent)), *(f"{number:.0f}" for number in numbers), lost)
    Console().print(table)
    each = (all_mb - one_mb) / (engines - 1)
    sys.stdout.write(f"memory: {one_mb:.0f} MB with one engine, {all_mb:.0f} MB with {engines}: {each:.0f} MB for each more\n")


if __name__ == "__main__":
    main()
