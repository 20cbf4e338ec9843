"""The accuracy of a configuration on test sets: trains each seed as a user would, evaluates the bundle, and prints a table.

    python tests/bench/accuracy_table.py --data magnetic_tile=DIR --data screw=DIR [--config FILE] [--seeds 0 1 2] [--quick]
        [--jobs N] [--out FOLDER]

DIR has the MVTec AD layout. With `--data bsd_pitting:pitting=DIR`, of the defective images only those of the folder
`test/pitting` count. A training takes half an hour or more. Stop the command and start it again as you like: a training goes on
from its checkpoint, and what is finished is not repeated. With --jobs N, N trainings run beside each other, one core each; for
times that count, nothing else may run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TRAINER = Path(sys.executable).with_name("anoseg-train")
HEAD = """\
| | seed | image AUROC | pixel AUROC | AUPRO | escapes at 2 % | escapes, calibrated | good rejected | `fit`, min |
|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Case:
    """One row of the table: a data set, a configuration and a seed. `defect` "": all kinds of defects."""

    name: str
    defect: str
    data: Path
    config: Path | None
    quick: bool
    seed: int
    cores: int
    folder: Path

    @property
    def figures(self):
        return self.folder / "figures.json"

    def run(self):
        """Train and evaluate, unless that was done before. Returns whether the figures exist."""
        if self.figures.exists():
            return True
        bundle, partial = self.folder / "store" / self.name, self.figures.with_suffix(".part")
        if not (self.quick and (bundle / "1").exists()):  # `--quick` would write another version
            config = ["--config", self.config] if self.config else []
            kind = ["--quick"] if self.quick else ["--go-on", "--work", self.folder / "training"]
            cores = ["--cores", self.cores] if self.cores else []
            start = time.monotonic()
            done = self._call("fit", "--data", self.data, "--out", bundle, "--seed", self.seed, *config, *kind, *cores)
            seconds = self.folder / "seconds"
            before = float(seconds.read_text()) if seconds.exists() else 0.0
            seconds.write_text(str(before + time.monotonic() - start))
            if not done:
                return False
        newest = max(int(version.name) for version in bundle.iterdir() if version.name.isdigit())
        if not self._call("evaluate", "--bundle", bundle / str(newest), "--data", self.data, "--json", partial):
            return False
        partial.rename(self.figures)
        return True

    def _call(self, command, *words):
        """Run a command of the trainer, its output in a log. Returns whether it succeeded."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "log.txt"
        print(f"{time.strftime('%H:%M')}  {self.folder.name}: {command}, log in {log}", flush=True)
        with log.open("a") as output:
            call = [str(word) for word in (TRAINER, command, *words)]
            done = subprocess.run(call, stdout=output, stderr=subprocess.STDOUT).returncode == 0
        if not done:
            print(f"{self.folder.name}: {command} failed; the end of {log} says why", file=sys.stderr, flush=True)
        return done

    def accuracy(self):
        """Return the figures of the defects that count, as `evaluate` writes them."""
        found = json.loads(self.figures.read_text())
        return found["per_defect"][self.defect] if self.defect else found["overall"]

    def row(self):
        found = self.accuracy()
        defects, good = found["n_defective"], found["n_good"]
        minutes = float((self.folder / "seconds").read_text()) / 60
        cells = [self.name, str(self.seed), *(f"{found[key]:.3f}" for key in ("image_auroc", "pixel_auroc", "aupro_30"))]
        cells += [
            f"{found[key]} of {defects}, {found[key] / defects:.1%}" for key in ("escapes_at_2_percent_rejected", "escapes")
        ]
        return "| " + " | ".join([*cells, f"{found['false_rejects']} of {good}", f"{minutes:.1f}"]) + " |"


def table(cases):
    """Return the rows of the finished cases, and the spread of image AUROC over the seeds of each data set."""
    finished = [case for case in cases if case.figures.exists()]
    lines = [HEAD, *(case.row() for case in finished), ""]
    for name in dict.fromkeys(case.name for case in finished):
        values = [case.accuracy()["image_auroc"] for case in finished if case.name == name]
        if len(values) > 1:
            middle, spread = statistics.mean(values), max(values) - min(values)
            lines.append(f"{name}: image AUROC {middle:.3f} on average, {spread:.3f} between the best and the worst seed")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, metavar="NAME[:DEFECT]=DIR")
    parser.add_argument("--config", type=Path, help="default: the trainer's defaults")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="without training, as `fit --quick`")
    parser.add_argument("--jobs", type=int, default=1, help="trainings beside each other")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/accuracy"), help="bundles, checkpoints, logs and figures (%(default)s)"
    )
    options = parser.parse_args()
    how = (options.config.stem if options.config else "default") + ("-quick" if options.quick else "")
    cases = []
    for given in options.data:
        name, _, folder = given.partition("=")
        name, _, defect = name.partition(":")
        if not name or not (Path(folder) / "test" / defect).is_dir():
            parser.error(f"--data {given}: NAME[:DEFECT]=DIR is wanted, and DIR must have a folder test/DEFECT")
        for seed in options.seeds:
            place = options.out / f"{name}-{how}-{seed}"
            cores = 1 if options.jobs > 1 else 0
            cases.append(Case(name, defect, Path(folder), options.config, options.quick, seed, cores, place))
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(Case.run, cases))
    print(table(cases))
    sys.exit(0 if all(done) else 1)


if __name__ == "__main__":
    main()
