"""`anoseg-train ablate`: the same training with each part of the method left out (or put in) in turn, and what it gives.

Trainings run one after another. What only ends otherwise is not trained anew; a variant whose figures are in the folder already
is not run again, so a stopped ablation goes on.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from anoseg_engines.bundle.read import load_bundle
from anoseg_engines.errors import AnosegError, ConfigError, DataError
from anoseg_engines.loading import load_engine
from anoseg_trainer.commands.evaluate import Evaluation, evaluate, find_test_images
from anoseg_trainer.commands.fit import fit
from anoseg_trainer.config import DEFECT_KINDS, TrainConfig
from anoseg_trainer.model.checkpoint import NAME as CHECKPOINT
from anoseg_trainer.report.charts import line_chart
from anoseg_trainer.report.html import Report

FULL = "full"
Change = Callable[[TrainConfig], TrainConfig]


def _set(section: str, **values: Any) -> Change:
    def change(config: TrainConfig) -> TrainConfig:
        part = msgspec.structs.replace(getattr(config, section), **values)
        return msgspec.structs.replace(config, **{section: part})

    return change


def _set_top(**values: Any) -> Change:
    return lambda config: msgspec.structs.replace(config, **values)


OTHER_KINDS = tuple(kind for kind in DEFECT_KINDS if kind != "hard")
"""Kinds of synthetic defects that AnoSeg does not have."""

VARIANTS: Mapping[str, tuple[str, Change]] = {
    FULL: ("everything as configured", lambda config: config),
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
    "no-coordinates": ("without coordinate channels (paper 5)", _set_top(coordinates=False)),
    "no-detector": ("without the detector over the map's pools (paper 6)", _set_top(detector=False)),
    "no-variation": (
        "good images without variation of light",
        _set("variation", brightness=0.0, contrast=0.0, shading=0.0, tint=0.0, noise=0.0, litter=0.0),
    ),
}

AFTER_TRAINING = ("no-detector",)
"""Variants that differ in what is done with the trained network: they take the whole's training, if it is there."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one variant gave. figures: as in `Evaluation.overall`. iou_curve: (threshold, IoU)."""

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
    """Train and evaluate the variants `names` (empty: all) and write ablation.json and report.html into `out`.

    Raises:
        ConfigError: an unknown variant, or `out` holds another ablation. DataError, AnosegError: see `fit`.
    """
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise ConfigError(f"no such variant: {', '.join(unknown)}", hint=f"there are {', '.join(VARIANTS)}")
    find_test_images(data)  # before hours of training, not after
    identity = hashlib.sha256(msgspec.json.encode([msgspec.to_builtins(config), seed, str(data.resolve())])).hexdigest()
    rows = []
    for name in names or list(VARIANTS):
        words, change = VARIANTS[name]
        try:
            changed = change(config)
        except ValueError as error:
            on_note(f"{name}: not possible with this configuration, left out: {error}")
            continue
        if name != FULL and changed == config:
            on_note(f"{name}: as configured already, not run again")
            continue
        record = out / f"{name}.json"
        row = _known(record, identity)
        if row is None:
            on_note(f"{name}: {words}")
            whole = _known(out / f"{FULL}.json", identity) if name in AFTER_TRAINING else None
            row = _run(data, out, name, words, changed, seed, trained=whole is not None)
            _write(record, {"identity": identity, "row": msgspec.to_builtins(row)})
        rows.append(row)
        on_row(row)
    _write(out / "ablation.json", [msgspec.to_builtins(row) for row in rows])
    ablation_report(rows, config, seed).write(out / "report.html")
    return rows


def _run(data: Path, out: Path, name: str, words: str, config: TrainConfig, seed: int, *, trained: bool) -> Row:
    """trained: the whole's training is this one's as well; it only ends otherwise."""
    work, whole = out / "work" / name, out / "work" / FULL / CHECKPOINT
    resume = trained and whole.is_file()
    if resume:
        work.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(whole, work / CHECKPOINT)
    fitted = fit(data, out / "store" / name, config, seed=seed, work=work, resume=resume)
    engine = load_engine(load_bundle(fitted.bundle.path))
    try:
        found: Evaluation = evaluate(engine, data)
    finally:
        engine.close()
    return Row(name, words, found.overall, found.iou_curve, fitted.result.steps, round(fitted.result.seconds, 1))


def _known(record: Path, identity: str) -> Row | None:
    """The row of an earlier run, None if there is none."""
    if not record.is_file():
        return None
    try:
        found = msgspec.json.decode(record.read_bytes())
        if found["identity"] != identity:
            raise ConfigError(
                f"{record}: is of another configuration, seed or data", hint="give another --out, or remove that folder"
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
        raise AnosegError(f"{path}: cannot be written ({error.strerror})", hint="free space or another --out") from error


def ablation_report(rows: list[Row], config: TrainConfig, seed: int) -> Report:
    """Table of image AUROC, pixel AUROC, AUPRO and IoU, and IoU against threshold as curves."""
    table = [["", "image AUROC", "pixel AUROC", "AUPRO 30 %", "best IoU", "IoU at threshold", "steps", "minutes"]]
    keys = ("image_auroc", "pixel_auroc", "aupro_30", "best_iou", "iou_at_pixel_threshold")
    for row in rows:
        figures = ["–" if row.figures[k] is None else f"{row.figures[k]:.3f}" for k in keys]
        table.append([row.words, *figures, str(row.steps), f"{row.seconds / 60:.1f}"])
    chart = line_chart({row.name: row.iou_curve for row in rows}, "threshold", "IoU")
    return Report(
        title="Ablation",
        facts={"seed": str(seed)},
        tables={"Each part left out": table},
        charts={"IoU against threshold": chart},
        settings=msgspec.to_builtins(config),
    )
