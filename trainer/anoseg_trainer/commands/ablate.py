"""Runs `anoseg-train ablate`: leaves out (or adds) each part of the method in turn, trains, and compares the figures.

Trainings run one after another. A stopped ablation goes on where it was stopped: a variant does not run again if the folder
already has its figures, and a stopped training continues from its checkpoint. A variant that differs from another one only
after training takes the other one's training.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from anoseg_engines.bundle import load_bundle
from anoseg_engines.errors import AnosegError, ConfigError, DataError
from anoseg_engines.loading import load_engine
from anoseg_engines.result_files import try_folder
from anoseg_trainer.config import DEFECT_KINDS, TrainConfig, load_config, with_limits
from anoseg_trainer.data.evaluation_images import check_masks, find_evaluation_images
from anoseg_trainer.data.good_images import find_good_images
from anoseg_trainer.evaluation import METRICS, evaluate, metric_cells
from anoseg_trainer.model.checkpoint import NAME as CHECKPOINT
from anoseg_trainer.pipeline import fit
from anoseg_trainer.report.charts import line_chart
from anoseg_trainer.report.html import Report
from anoseg_trainer.training.loop import TrainingStoppedError

FULL = "full"
Change = Callable[[TrainConfig], TrainConfig]


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    try_folder(options.out, "--out")

    def on_row(row: Row) -> None:
        figures = "  ".join(f"{key} {cell}" for key, cell in zip(METRICS, metric_cells(row.figures), strict=True))
        print(f"{row.name}: {figures}  ({row.steps} steps, {row.seconds / 60:.1f} minutes)", flush=True)

    ablate(
        options.data,
        options.out,
        with_limits(load_config(options.config), minutes=options.minutes, steps=options.steps),
        seed=options.seed,
        names=[name.strip() for name in options.only.split(",") if name.strip()],
        on_row=on_row,
        on_note=lambda note: print(f"training {note}", file=sys.stderr, flush=True),
    )
    print(f"report in {options.out / 'report.html'}")


def _each(*changes: Change) -> Change:
    """Return a change that makes these changes one after the other."""

    def change(config: TrainConfig) -> TrainConfig:
        for each in changes:
            config = each(config)
        return config

    return change


def _set(section: str, **values: Any) -> Change:
    """Return a change of some keys of a section. If `section` is empty, the keys are those of the configuration itself."""

    def change(config: TrainConfig) -> TrainConfig:
        if not section:
            return msgspec.structs.replace(config, **values)
        part = msgspec.structs.replace(getattr(config, section), **values)
        return msgspec.structs.replace(config, **{section: part})

    return change


OTHER_KINDS = tuple(kind for kind in DEFECT_KINDS if kind != "hard")
"""Kinds of synthetic defects that are not in the AnoSeg paper."""

_in_network = _set("network", memory_input=True)

VARIANTS: Mapping[str, tuple[str, Change]] = {
    FULL: ("everything as configured", lambda config: config),
    "scratch-encoder": ("without pretrained weights, and without comparing parts by them", _set("network", encoder="scratch")),
    "tuned-encoder": ("with the pretrained encoder tuned at a tenth of the learning rate", _set("network", encoder_rate=0.1)),
    "no-memory": (
        "without the memory of good parts; where there are Gaussians of places, their map is left out, too",
        _each(_set("network", memory_input=False), _set("views", memory=0.0, memory_map=0.0)),
    ),
    "memory-in-score": (
        "with the memory in the score alone, not in the map; nor are Gaussians of places in the map",
        _set("views", memory_map=0.0),
    ),
    "memory-everywhere": ("with the memory's map as an input of the network, too", _in_network),
    "memory-in-network": (
        "with the memory's map as an input of the network, and nowhere else",
        _each(_in_network, _set("views", memory=0.0, memory_map=0.0)),
    ),
    "no-places": ("without the Gaussians of places, in score and map", _set("views", places=0.0)),
    "no-whole-image": ("without the model of the whole image", _set("views", whole_image=0.0)),
    "no-hard": ("without hard augmentation (paper 1)", _set("defects", hard=0.0)),
    "only-hard": (
        "hard augmentation as the only kind of defect, as in the paper",
        _set("defects", **dict.fromkeys(OTHER_KINDS, 0.0)),
    ),
    "no-l1": ("without the pixel-wise L1 loss (paper 2)", _set("loss", l1=0.0)),
    "only-l1": ("L1 as the only pixel-wise loss, as in the paper", _set("loss", bce=0.0, dice=0.0)),
    "image-loss": ("with the image loss on the map's largest values", _set("loss", image=0.1)),
    "no-adversarial": ("without the adversarial loss (paper 3)", _set("loss", adversarial=0.0)),
    "no-reconstruction": ("without masked reconstruction (paper 4)", _set("loss", reconstruction=0.0)),
    "adversarial": (
        "with the adversarial loss and masked reconstruction",
        _set("loss", adversarial=0.005, reconstruction=0.05),
    ),
    "muon": ("trained with Muon instead of AdamW", _set("training", optimizer="muon")),
    "no-coordinates": ("without coordinate channels (paper 5)", _set("", coordinates=False)),
    "no-detector": ("without the detector over the map's pools (paper 6)", _set("", detector=False)),
    "no-variation": (
        "good images without variation of light",
        _set("variation", brightness=0.0, contrast=0.0, shading=0.0, tint=0.0, noise=0.0, litter=0.0, compression=0.0),
    ),
}

AFTER_TRAINING = {
    "no-memory": FULL,
    "memory-in-score": FULL,
    "memory-in-network": "memory-everywhere",
    "no-places": FULL,
    "no-whole-image": FULL,
    "no-detector": FULL,
}
"""Variants that differ from another one only in how the trained network is used: they take its training, if there is one."""


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one variant.

    Attributes:
        name: Name of the variant.
        words: Its description.
        figures: As in `Evaluation.overall`.
        iou_curve: (threshold, IoU).
        steps: Steps trained.
        seconds: Training time.
    """

    name: str
    words: str
    figures: dict[str, Any]
    iou_curve: list[tuple[float, float]]
    steps: int
    seconds: float


def ablate(
    data: Path,
    out: Path,
    config: TrainConfig,
    *,
    seed: int,
    names: list[str],
    on_row: Callable[[Row], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Train and evaluate variants, and write ablation.json and report.html.

    Args:
        data: Folder in the MVTec AD layout.
        out: Folder for everything that is written.
        config: The full method.
        seed: Seed of all trainings.
        names: Variants to run; empty: all.
        on_row: Called with the figures of each variant.
        on_note: Receives remarks for the user.

    Raises:
        ConfigError: A variant does not exist, or `out` holds another ablation.
        DataError: Images or masks cannot be used.
        AnosegError: A training failed or was stopped.
    """
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise ConfigError(f"no such variant: {', '.join(unknown)}", hint=f"choose from {', '.join(VARIANTS)}")
    tested = find_evaluation_images(data)
    for text in check_masks(tested):  # before hours of training, not after
        on_note(text)
    masks = [image.mask for image in tested if image.mask is not None and image.mask.is_file()]
    files = [[str(path), path.stat().st_size] for path in (*find_good_images(data), *(image.path for image in tested), *masks)]
    identity = hashlib.sha256(msgspec.json.encode([msgspec.to_builtins(config), seed, str(data.resolve()), files])).hexdigest()
    rows = []
    for name in names or list(VARIANTS):
        words, change = VARIANTS[name]
        try:
            changed = change(config)
        except ValueError as error:
            on_note(f"{name}: not possible with this configuration, left out: {error}")
            continue
        if name != FULL and changed == config:
            on_note(f"{name}: the configuration is like this already, not run again")
            continue
        record = out / f"{name}.json"
        row = _read_row(record, identity)
        if row is None:
            on_note(f"{name}: {words}")
            like = AFTER_TRAINING.get(name)
            if like is not None and _read_row(out / f"{like}.json", identity) is None:
                like = None
            try:
                row = _run_variant(data, out, name, changed, seed=seed, training_of=like)
            except ConfigError as error:
                if name == FULL:
                    raise
                on_note(f"{name}: not possible with these images, left out: {error}")
                continue
            _write(record, {"identity": identity, "row": msgspec.to_builtins(row)})
        rows.append(row)
        on_row(row)
    _write(out / "ablation.json", [msgspec.to_builtins(row) for row in rows])
    ablation_report(rows, config, seed).write(out / "report.html")
    return rows


def _run_variant(data: Path, out: Path, name: str, config: TrainConfig, *, seed: int, training_of: str | None) -> Row:
    """Train and evaluate one variant, or go on with its stopped training.

    `training_of` names another variant whose finished training is taken if it fits.
    """
    work = out / "work" / name
    trained = None if training_of is None else out / "work" / training_of / CHECKPOINT
    if trained is not None and trained.is_file():
        work.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained, work / CHECKPOINT)
    # A checkpoint of another training, of other images or of an earlier version of the trainer is not continued.
    try:
        fitted = fit(data, out / "store" / name, config, seed=seed, work=work, go_on=True)
    except TrainingStoppedError as error:
        raise TrainingStoppedError(f"{name}: {error}", hint="the same command continues it") from error
    engine = load_engine(load_bundle(fitted.bundle.path))
    try:
        found = evaluate(engine, data)
    finally:
        engine.close()
    return Row(
        name=name,
        words=VARIANTS[name][0],
        figures=found.overall,
        iou_curve=found.iou_curve,
        steps=0 if fitted.result is None else fitted.result.steps,
        seconds=0.0 if fitted.result is None else round(fitted.result.seconds, 1),
    )


def _read_row(record: Path, identity: str) -> Row | None:
    """Read the row of an earlier run; None if there is none."""
    if not record.is_file():
        return None
    try:
        found = msgspec.json.decode(record.read_bytes())
        if found["identity"] != identity:
            raise ConfigError(
                f"{record}: belongs to another configuration, seed or data", hint="choose another --out, or remove that folder"
            )
        return msgspec.convert(found["row"], Row)
    except (OSError, msgspec.DecodeError, KeyError, TypeError) as error:
        raise DataError(f"{record}: damaged ({error})", hint="remove the file; that variant is then run again") from error


def _write(path: Path, content: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))
        temporary.replace(path)
    except OSError as error:
        raise AnosegError(f"{path}: cannot be written ({error.strerror})", hint="free space or choose another --out") from error


def ablation_report(rows: list[Row], config: TrainConfig, seed: int) -> Report:
    """Build the report: a table of the metrics, and the IoU of each variant against the threshold."""
    table = [["", *METRICS.values(), "steps", "minutes"]]
    table += [[row.words, *metric_cells(row.figures), str(row.steps), f"{row.seconds / 60:.1f}"] for row in rows]
    return Report(
        title="Ablation",
        facts={"seed": str(seed)},
        tables={"Each part left out": table},
        charts={"IoU against threshold": line_chart({row.name: row.iou_curve for row in rows}, "threshold", "IoU")},
        settings=msgspec.to_builtins(config),
    )
