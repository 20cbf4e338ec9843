"""From a click on the screen to another verdict, with a trained bundle and real images; a few minutes. Needs Chromium.

    python tests/stress/feedback_loop.py --bundle STORE/NAME/VERSION --data DIR [--defects 60] [--threshold T]

DIR has the MVTec AD layout, and the bundle was trained on its train/good. The real daemon inspects test/good and some defective
parts. The good parts that it rejects are marked as false rejects in Chromium. Then, with the commands of the documentation:
`evidence dataset`, `learn-good`, `release`, and the daemon inspects the same parts again. Nothing is written to
the bundle's own store.

With --threshold, the bundle gets this score threshold first, for more false rejects, and keeps it: what changes then is due
to the memory alone. Without it, `learn-good` sets the threshold again from the images of the training.

It prints one line a step, and at the end how many of the marked parts pass. Exit code 0 if at least one of them passes then, if
`learn-good` has named each one that it cannot make pass, and if no defective part passes that was rejected before.

More is not promised: only the memory of good parts learns. Where the network or the whole image rejects a good part,
`learn-good` says so, and a training with this image helps (docs/training.md).
"""

import argparse
import dataclasses
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.anosegd_line import Daemon
from support.browser import Browser
from support.view_server import ViewServer

from anoseg_engines.bundle import load_bundle
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_trainer.recalibration import rejudged
from anosegd.client import Client, ClientError

MARK = """(() => {
  document.querySelector("#head input").click();
  [...document.querySelectorAll("#mark button")].find((one) => one.textContent === "False reject").click();
})()"""
MARKED = "[...document.querySelectorAll('td.mark')].every((cell) => cell.textContent === 'False reject')"
STILL_REJECTED = ("is still rejected", "may still reject it")
"""What `learn-good` says of images that do not pass on the line."""
PARTS_LIMIT_S = 600


def command(program: str, *arguments: str | Path) -> str:
    """Run one of our commands; return what it printed to both outputs."""
    line = [str(Path(sys.executable).with_name(program)), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    print(f"  {program} {' '.join(map(str, arguments))}", flush=True)
    if done.returncode != 0:
        sys.exit(f"ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


class Line:
    """The station, in a folder of its own."""

    def __init__(self, folder: Path, bundle: Path, threshold: float | None) -> None:
        self.folder, self.store = folder, folder / "store" / "part"
        shutil.copytree(bundle, self.store / bundle.name)
        self.version = int(bundle.name)
        if threshold is not None:
            set_threshold(self.store / bundle.name, threshold)
            self.version += 1
        command("anoseg-engine", "release", self.store / str(self.version))
        self.endpoint = f"ipc://{folder}/pub"
        self.config = folder / "line.yaml"
        camera = "{{policy: wait, source: {{kind: folder, path: {}}}}}"
        self.config.write_text(
            f"station: loop\nengine: {{bundle: {self.store}}}\npublish: {{endpoint: '{self.endpoint}'}}\n"
            f"control: {{endpoint: 'ipc://{folder}/control'}}\njournal: {{path: verdicts.db}}\n"
            "evidence: {folder: evidence, good_share: 0, min_free: 0}\n"
            "cameras:\n" + "".join(f"  {name}: {camera.format(name)}\n" for name in ("good", "defective"))
        )

    def add_images(self, data: Path, defects: int) -> int:
        """Put the images in front of the cameras; return how many there are."""
        for name in ("good", "defective"):
            (self.folder / name).mkdir()
        for path in (data / "test" / "good").iterdir():
            shutil.copy(path, self.folder / "good")
        defective = [
            path for kind in sorted((data / "test").iterdir()) if kind.name != "good" for path in sorted(kind.iterdir())
        ]
        for path in defective[:: max(1, len(defective) // defects)]:
            shutil.copy(path, self.folder / "defective" / f"{path.parent.name}-{path.name}")
        return sum(len(list((self.folder / name).iterdir())) for name in ("good", "defective"))

    @contextmanager
    def inspecting(self, parts: int) -> Iterator[dict[tuple[str, str], str]]:
        """Run the daemon until it has inspected so many parts. Yields the outcome of each, by camera and file."""
        daemon = Daemon(self.config)
        try:
            with Client(self.endpoint, f"ipc://{self.folder}/control") as client:
                give_up_at = time.monotonic() + PARTS_LIMIT_S
                while inspected(client) < parts:
                    assert daemon.process.poll() is None, daemon.log
                    assert time.monotonic() < give_up_at, "the parts are not inspected"
                    time.sleep(0.5)
                run_id = client.status()["run_id"]
                verdicts = [verdict for verdict in client.replay(1) if verdict["run_id"] == run_id]
            yield {(verdict["camera"], Path(verdict["source"]).name): verdict["outcome"] for verdict in verdicts}
        finally:
            daemon.terminate()


def set_threshold(path: Path, threshold: float) -> None:
    """Write the next version of a bundle, with another score threshold. A camera's own one would not reach `learn-good`."""
    bundle = load_bundle(path)
    margin = bundle.manifest.golden_tolerance.margin
    golden = zip((golden.image for golden in bundle.manifest.golden), bundle.golden_samples(), strict=True)
    kept, _ = rejudged(golden, threshold, margin)
    write_bundle(path.parent, dataclasses.replace(BundleDraft.of(bundle), score_threshold=threshold, golden=kept))


def inspected(client: Client) -> int:
    """Return how many parts the daemon has inspected; 0 before it answers."""
    try:
        return sum(client.status()["counts"][outcome] for outcome in ("passed", "failed", "unknown"))
    except ClientError:
        return 0


def mark(line: Line, count: int) -> None:
    """Mark the good parts that were rejected, in the browser: so many are there."""
    view = ViewServer(line.folder, str(line.config))
    browser = Browser(line.folder)
    try:
        browser.open(f"{view.url}parts?outcome=FAIL&camera=good&lang=en")
        browser.wait_for(f"document.querySelectorAll('#rows tr').length === {count}")
        browser.evaluate("localStorage.setItem('who', 'Anna'); true")
        browser.evaluate(f"{MARK} ?? true")
        browser.wait_for(MARKED)
        assert browser.messages == []
    finally:
        browser.close()
        view.close()


def main() -> int:
    """Go round the loop once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--defects", type=int, default=60)
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="of the bundle; lower than the calibrated one, for more false rejects"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        line = Line(Path(made), options.bundle.resolve(), options.threshold)
        parts = line.add_images(options.data, options.defects)
        with line.inspecting(parts) as before:
            rejected = [name for name, outcome in before.items() if outcome == "FAIL" and name[0] == "good"][:50]
            caught = [name for name, outcome in before.items() if outcome == "FAIL" and name[0] == "defective"]
            good = sum(name[0] == "good" for name in before)
            print(
                f"before: {len(rejected)} of {good} good parts rejected, {len(caught)} of {parts - good} defective ones",
                flush=True,
            )
            if not rejected:
                sys.exit("no good part is rejected: there is nothing to mark")
            mark(line, len(rejected))
            print(f"marked in the browser: {len(rejected)} false rejects", flush=True)
        data = line.folder / "marked"
        print(command("anosegd", "evidence", "dataset", line.config, "--data", data), end="", flush=True)
        held_out = () if options.threshold is not None else ("--held-out", options.data / "train" / "good")
        said = command("anoseg-train", "learn-good", line.store, "--data", data, *held_out)
        print("\n".join(f"    {text}" for text in said.splitlines()), flush=True)
        command("anoseg-engine", "release", line.store / str(line.version + 1))
        with line.inspecting(parts) as after:
            pass
    turned = [name for name in rejected if after[name] == "PASS"]
    named = sum(any(what in text for what in STILL_REJECTED) for text in said.splitlines())
    escaped = [name for name in caught if after[name] != "FAIL"]
    others = sum(outcome == "FAIL" for name, outcome in after.items() if name[0] == "good")
    print(f"after: {len(turned)} of the {len(rejected)} marked parts pass, {others} good parts are rejected")
    print(f"after: `learn-good` has named {named} of the {len(rejected) - len(turned)} marked parts that do not pass")
    print(f"after: {len(caught) - len(escaped)} of the {len(caught)} defective parts that were rejected are rejected")
    return 0 if turned and named >= len(rejected) - len(turned) and not escaped else 1


if __name__ == "__main__":
    sys.exit(main())
