"""The file of products, and what is planned for each. Wrong files are in tests/bad_inputs."""

import os
import subprocess
import sys

import cv2
import msgspec
import numpy as np
import pytest
import yaml
from support.anoseg_train_command import run
from support.fleet import figures
from support.paths import CONFIGS
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.bundle import NAME
from anoseg_engines.strict_yaml import FORMAT
from anoseg_trainer.fit_status import STATUS, FitStatus
from anoseg_trainer.fleet.plan import CHECKPOINT, manifest_digest, plan_of
from anoseg_trainer.fleet.products_file import CORES, ProductsConfig, load_fleet, read_products
from anoseg_trainer.model import checkpoint


@pytest.fixture
def products(tmp_path):
    """A file with two products, a and b, of twelve good images each."""
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            assert cv2.imwrite(str(tmp_path / "images" / name / f"{i:02}.png"), np.full((40, 40, 3), 100 + i, np.uint8))
    path = tmp_path / "products.yaml"
    path.write_text(
        "store: store\ncores: 1\nminutes: 5\nfalse_reject: 0.02\nproducts:\n"
        "  a: {data: images/a}\n  b: {data: images/b, cores: 2, steps: 7, seed: 3, quick: true, out: other/b-1}\n"
    )
    return path


def only(path, name):
    (training,) = load_fleet(path).only([name])
    return training


def test_the_shipped_file_names_every_key():
    """configs/products.yaml is valid, has the defaults of the code, and mentions every other key behind a #."""
    path = CONFIGS / "products.yaml"
    read, raw = read_products(path), yaml.safe_load(path.read_text())
    assert (raw.pop("format"), read.restarts, read.cores, read.gpus) == (FORMAT, 3, CORES, 0)
    text = path.read_text()
    assert all(f"\n{key}: " in text or f"\n# {key}: " in text or key == "products" for key in ProductsConfig.__struct_fields__)


def test_settings_of_all_and_of_one(products):
    """A product's own settings count before those of all; its limits are those of one place; paths are relative to the file."""
    a, b = load_fleet(products).trainings
    folder = products.parent
    assert a.arguments() == [
        *("fit", "--go-on", "--data", f"{folder}/images/a", "--out", f"{folder}/store/a", "--work", f"{folder}/runs/fleet/a"),
        *("--false-reject", "0.02", "--minutes", "5.0", "--seed", "0", "--cores", "1"),
    ]
    assert b.arguments()[-9:] == ["--false-reject", "0.02", "--steps", "7", "--seed", "3", "--cores", "2", "--quick"]
    assert b.out == folder / "other" / "b-1"


def test_a_products_name_is_a_bundles_name():
    """The pattern of the file is that of the store."""
    pattern = msgspec.json.schema(ProductsConfig)["$defs"]["ProductsConfig"]["properties"]["products"]["propertyNames"][
        "pattern"
    ]
    assert pattern == rf"^{NAME.pattern}\Z"
    assert checkpoint.NAME == CHECKPOINT


def write_status(training, **changes):
    status = FitStatus(key=training.key, **{"state": "training", "step": 40, **changes})
    training.work.mkdir(parents=True, exist_ok=True)
    (training.work / STATUS).write_bytes(msgspec.json.encode(status))


def test_a_plan_says_what_and_why(products):
    """New, killed before and after its first checkpoint, failed, finished, and finished with a bundle that is gone."""
    a = only(products, "a")
    assert plan_of(a) == ("train", "new")
    write_status(a)
    assert plan_of(a) == ("train", "ended before its first checkpoint")
    (a.work / CHECKPOINT).touch()
    assert plan_of(a) == ("go on", "was at step 40")
    write_status(a, state="failed", error="the disk is full\n  free space", exit_code=1)
    assert plan_of(a) == ("go on", "failed at step 40: the disk is full; free space")
    bundle = write_tiny_bundle(a.out)
    write_status(a, state="finished", figures=figures(version=1, digest=bundle.digest))
    assert plan_of(a) == ("skip", "finished: version 1")
    (bundle.path / "manifest.json").unlink()
    assert plan_of(a).action == "train"
    assert "version 1 is no longer in" in plan_of(a).why
    assert manifest_digest(bundle.path) is None


def test_a_product_that_has_changed_is_trained_again(products):
    """Its images, its configuration, its seed: the plan says which. More cores change nothing."""
    a = only(products, "a")
    write_status(a, state="finished", figures=figures(version=1, digest=write_tiny_bundle(a.out).digest))
    products.write_text(products.read_text().replace("cores: 1", "cores: 2"))
    assert plan_of(only(products, "a")).action == "skip"
    products.write_text(products.read_text().replace("minutes: 5", "minutes: 6\nseed: 1"))
    assert plan_of(only(products, "a")) == ("train", "its configuration has changed; the seed was 0")
    (a.data / "00.png").unlink()
    assert "its good images have changed; its configuration" in plan_of(only(products, "a")).why


def test_a_dry_run_does_nothing(products):
    """It says what it would do for each product and why; no file is there that was not before."""
    before = sorted(products.parent.rglob("*"))
    done = run("fleet", products, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert [line.split("│")[1:4] for line in done.stdout.splitlines() if line.startswith("│")] == [
        [" a       ", " train ", " new "],
        [" b       ", " train ", " new "],
    ]
    assert "2 of 2 products would be trained on" in done.stdout
    assert run("fleet", products, "--names").stdout == "a\nb\n"
    assert sorted(products.parent.rglob("*")) == before


def test_a_slurm_task_trains_its_product(products, tmp_path):
    """configs/fleet-slurm.sh takes the product of its number: the command line is run, with --dry-run added by a wrapper."""
    program = tmp_path / "bin" / "anoseg-train"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *--names) more= ;; *) more=--dry-run ;; esac\n'
        f'exec {sys.executable} -m anoseg_trainer.cli "$@" $more\n'
    )
    program.chmod(0o755)

    def task(number):
        environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(number)}
        command = [CONFIGS / "fleet-slurm.sh", products]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    done = task(2)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 product would be trained" in done.stdout
    assert "│ b " in done.stdout
    assert (task(3).returncode, "has no product number 3" in task(3).stderr) == (2, True)
    assert (task("").returncode, task("").stderr.startswith("usage: sbatch --array=1-N")) == (2, True)
