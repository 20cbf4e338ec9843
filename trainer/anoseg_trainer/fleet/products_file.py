"""Reads the file with the products, and checks all that can be checked before a training starts. Main thread."""

from __future__ import annotations

import difflib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from anoseg_engines.bundle import PLANS
from anoseg_engines.errors import AnosegError, ConfigError
from anoseg_engines.files import shown_name
from anoseg_engines.result_files import try_folder
from anoseg_engines.strict_yaml import read_yaml
from anoseg_engines.words import counted
from anoseg_trainer.config import Count, load_config, with_limits
from anoseg_trainer.fit_status import TrainingKey

CORES = 2
"""Processor cores of a training, if the file does not say how many."""
HTML, JSON = "fleet.html", "fleet.json"
"""The report on all products; it is beside the products' own folders."""
MOST_NAMED = 20
"""Products that are wrong and named in one message."""

ProductName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
        description="a product's name has letters, digits, '.', '_' and '-', at most 64, and begins with a letter or digit",
    ),
]


class TrainingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a training. They stand at the top of the file for all products, and at a product for this one.

    Attributes:
        config: YAML of the training, see configs/train.yaml.
        false_reject, minutes, steps, seed, quick: As the options of `fit`.
        cores: Processor cores.
        gpus: 1, or the share of a GPU; 0: it trains on the cores.
    """

    config: Annotated[str, Meta(min_length=1)] | None = None
    false_reject: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = None
    minutes: Annotated[float, Meta(gt=0.0, le=525_600.0)] | None = None
    steps: Count | None = None
    seed: Annotated[int, Meta(ge=0, lt=1 << 32)] | None = None
    quick: bool | None = None
    cores: Annotated[int, Meta(ge=1, le=4096)] | None = None
    gpus: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None


class ProductConfig(TrainingSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A product.

    Attributes:
        data: The data folder.
        out: STORE/NAME; null: the product's name in `store`.
    """

    data: Annotated[str, Meta(min_length=1)]
    out: Annotated[str, Meta(min_length=1)] | None = None


class ProductsConfig(TrainingSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file.

    Attributes:
        store: The folder of the bundles: a product's candidates are in STORE/NAME.
        work: The folder for checkpoints, logs and reports: each product has a folder in it.
        restarts: How often a training is started again whose process or machine died.
    """

    store: Annotated[str, Meta(min_length=1)]
    work: Annotated[str, Meta(min_length=1)] = "runs/fleet"
    restarts: Annotated[int, Meta(ge=0, le=100)] = 3
    products: Annotated[dict[ProductName, ProductConfig], Meta(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductTraining:
    """The training of one product, with every setting. All paths are absolute.

    Attributes:
        name: The product.
        data, out, work, config: Folders of the images, of the bundle and of the checkpoints; the training's YAML.
        key: What the training is of.
    """

    name: str
    data: Path
    out: Path
    work: Path
    config: Path | None
    false_reject: float | None
    minutes: float | None
    steps: int | None
    seed: int
    quick: bool
    cores: int
    gpus: float
    key: TrainingKey

    def arguments(self) -> list[str]:
        """Return the command line of `anoseg-train` that trains it, or goes on where it was stopped."""
        given = {
            "--data": self.data,
            "--out": self.out,
            "--work": self.work,
            "--config": self.config,
            "--false-reject": self.false_reject,
            "--minutes": self.minutes,
            "--steps": self.steps,
            "--seed": self.seed,
            "--cores": self.cores,
        }
        words = [word for option, value in given.items() if value is not None for word in (option, str(value))]
        return ["fit", "--go-on", *words, *(["--quick"] if self.quick else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The products of a file, in its order.

    Attributes:
        work: The folder of all checkpoints, logs and reports.
        restarts: How often a training is started again.
    """

    path: Path
    work: Path
    restarts: int
    trainings: tuple[ProductTraining, ...]

    def only(self, names: Sequence[str]) -> list[ProductTraining]:
        """Return the trainings of these products; without names, all.

        Raises:
            ConfigError: The file has no such product.
        """
        known = [training.name for training in self.trainings]
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else "--names lists its products"
                raise ConfigError(f"--only {name}: {self.path} has no such product", hint=hint)
        return [training for training in self.trainings if not names or training.name in names]


def read_products(path: Path) -> ProductsConfig:
    """Read the file, and check nothing outside it.

    Raises:
        ConfigError: It cannot be read or is not valid; the message names line and key.
    """
    return read_yaml(path, ProductsConfig)


def load_fleet(path: Path) -> Fleet:
    """Read the file, and look at the folders and configurations that it names.

    Raises:
        ConfigError: The file is not valid, or products cannot be trained; the message names each of these.
    """
    read, base = read_products(path), path.absolute().parent
    work = _resolved(base, read.work)
    trainings, wrong = [], []
    for name, product in read.products.items():
        try:
            trainings.append(_training(name, product, read, base, work))
        except AnosegError as error:
            wrong.append(f"products.{name}: " + "; ".join(filter(None, (error.what, error.hint))))
    wrong += _shared_outputs(trainings)
    if wrong:
        more = f"\n  and {counted(len(wrong) - MOST_NAMED, 'more product')}" if len(wrong) > MOST_NAMED else ""
        listed = "\n  ".join(wrong[:MOST_NAMED])
        raise ConfigError(f"{path}: nothing was started, because not all products can be trained\n  {listed}{more}")
    try_folder(work, f"{path}: work:")
    return Fleet(path=path, work=work, restarts=read.restarts, trainings=tuple(trainings))


def _training(name: str, product: ProductConfig, fleet: ProductsConfig, base: Path, work: Path) -> ProductTraining:
    """Return the training of a product.

    Raises:
        AnosegError: It cannot be trained so.
    """
    out = _resolved(base, product.out) if product.out is not None else _resolved(base, fleet.store) / name
    if name in (HTML, JSON):
        raise ConfigError(f"a product cannot be named '{name}', because a file of the report is", hint="choose another name")
    if out.name == PLANS:
        raise ConfigError(f"a bundle cannot be named '{PLANS}'", hint="set out")
    config = product.config if product.config is not None else fleet.config
    config_path = None if config is None else _resolved(base, config)
    limited = product if product.minutes is not None or product.steps is not None else fleet
    false_reject = product.false_reject if product.false_reject is not None else fleet.false_reject
    seed = product.seed if product.seed is not None else fleet.seed or 0
    quick = product.quick if product.quick is not None else bool(fleet.quick)
    settings = with_limits(load_config(config_path), minutes=limited.minutes, steps=limited.steps)
    if false_reject is not None:
        settings = msgspec.structs.replace(settings, false_reject=false_reject)
    data = _resolved(base, product.data)
    try_folder(out, "out:")
    return ProductTraining(
        name=name,
        data=data,
        out=out,
        work=work / name,
        config=config_path,
        false_reject=false_reject,
        minutes=limited.minutes,
        steps=limited.steps,
        seed=seed,
        quick=quick,
        cores=product.cores or fleet.cores or CORES,
        gpus=product.gpus if product.gpus is not None else fleet.gpus or 0.0,
        key=TrainingKey.of(data, out, settings, seed=seed, quick=quick),
    )


def _shared_outputs(trainings: Sequence[ProductTraining]) -> Iterator[str]:
    """Name the products whose candidates would be versions of one bundle."""
    by_out = defaultdict(list)
    for training in trainings:
        by_out[training.out.resolve()].append(training.name)
    for out, names in by_out.items():
        if len(names) > 1:
            yield f"products.{' and products.'.join(names)}: both would write {shown_name(out)} (out)"


def _resolved(base: Path, given: str) -> Path:
    """Return a path of the file: it is relative to the file's folder."""
    return base / os.path.expanduser(given)  # noqa: PTH111 - Path.expanduser raises for an unknown user
