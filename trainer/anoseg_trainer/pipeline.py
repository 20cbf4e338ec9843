"""Makes a bundle from a folder of good images. The commands `fit` and `ablate` use it. Runs on the main thread."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib.figure  # noqa: F401 (for the report after training; if it is missing, nothing is trained)
import msgspec
import sklearn.metrics  # noqa: F401 (for the first validation)
import torch

from anoseg_engines.bundle import NAME, PLANS, Bundle
from anoseg_engines.errors import AnosegError, ConfigError, DataError, EngineError
from anoseg_engines.placement import InputSpec
from anoseg_engines.words import counted
from anoseg_trainer.bundle_creation import CreatedBundle, create_bundle
from anoseg_trainer.config import TrainConfig
from anoseg_trainer.data.clusters import describe_clusters
from anoseg_trainer.data.good_images import find_good_images, named, read_good_images
from anoseg_trainer.data.image_size import sizes_from_headers
from anoseg_trainer.data.input_choice import choose_input, describe_input, show_one_view
from anoseg_trainer.data.part_store import PartStore, PartStoreWriter
from anoseg_trainer.data.parts import find_parts, held_out_together
from anoseg_trainer.data.samples import SampleSettings
from anoseg_trainer.data.split import split_images
from anoseg_trainer.data.variation_choice import choose_variation
from anoseg_trainer.detector_build import (
    describe_comparison,
    describe_places,
    features_of_good_parts,
    places_may_count,
    with_good_parts,
)
from anoseg_trainer.fit_status import Figures, StatusFile, TrainingKey, alone_in
from anoseg_trainer.model.backbone import PretrainedBackbone
from anoseg_trainer.model.checkpoint import find_checkpoint
from anoseg_trainer.model.detector import Detector
from anoseg_trainer.model.encoder import configured_encoder, rounded
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.report.fit_report import fit_report, load_for_report, real_defects
from anoseg_trainer.report.html import Report
from anoseg_trainer.report.lead import answer_of
from anoseg_trainer.synthesis.background import has_background
from anoseg_trainer.threshold_study import ThresholdStudy
from anoseg_trainer.thresholds import images_needed
from anoseg_trainer.training import Status, TrainingResult, train
from anoseg_trainer.training.comparison import Comparison
from anoseg_trainer.training.state import TrainingState, whole_identity
from anoseg_trainer.training.together import Together
from anoseg_trainer.training_record import Product
from anoseg_trainer.validation import Validation, make_cases

REPORT = "report.html"
"""The report of the newest version; each version's own is beside it."""
BACKGROUND_PROBES = 40
"""Good images that are searched for a plain background."""
FEW_STEPS = 10
"""Before so many steps, nothing is said about the time that is left."""
ODD_SHOWN = 5
"""Odd parts whose images are named."""
MAX_UNIT = 256
"""Synthetic defects are sized by the shorter side of the input, but by at most this many network pixels."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished bundle, and the training that it comes from; None if no network was trained."""

    bundle: Bundle
    result: TrainingResult | None
    validation: Validation
    study: ThresholdStudy
    report: Path


def fit(
    data: Path,
    target: Path,
    config: TrainConfig,
    *,
    seed: int,
    work: Path,
    resume: bool = False,
    go_on: bool = False,
    quick: bool = False,
    cores: int | None = None,
    group: Together | None = None,
    on_status: Callable[[Status], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Fitted:
    """Write new versions of the bundle `target` from the good images of `data`: a first one in a minute, then a trained one.

    The first version has no network of its own. It compares parts with the memory of good parts.

    Args:
        data: Folder of good images.
        target: STORE/NAME.
        config: The configuration; values left open are chosen from the images.
        seed: Seed of all random choices.
        work: Folder for checkpoint, scaled parts, status.json and report.html; created if missing.
        resume: Continue from the checkpoint in `work`; no first version is written.
        go_on: Do what an earlier call left to do: resume if there is a checkpoint of this training, and write no version that
            the store has already.
        quick: End with the first version.
        cores: Processor cores to use; None: all that this process may use.
        group: The processes that share the training; None: this one is alone.
        on_status: Called after each training step.
        on_note: Receives remarks for the user.

    Raises:
        ConfigError: The bundle's name or the configuration cannot be used.
        DataError: The images or the checkpoint cannot be used.
        AnosegError: The training failed or was stopped, or another one uses `work`.
    """
    if not NAME.fullmatch(target.name) or target.name == PLANS:
        raise ConfigError(
            f"--out {target}: '{target.name}' is not a valid product name",
            hint=f"use letters, digits, '.', '_', '-'; at most 64; not '{PLANS}'",
        )
    if resume:
        find_checkpoint(work)  # before all images are read
    if cores is not None:
        torch.set_num_threads(cores)
        cv2.setNumThreads(cores)
    _create_folder(work)
    with alone_in(work), StatusFile(work, TrainingKey.of(data, target, config, seed=seed, quick=quick)) as status:
        status.write()

        def show(now: Status) -> None:
            status.training(
                step=now.step,
                done=now.done,
                loss=now.loss,
                image_auroc=None if now.validation is None else now.validation.image_auroc,
                left_s=now.left_s if now.step >= FEW_STEPS else None,
            )
            on_status(now)

        options = _Options(work, seed, resume, go_on, quick, cores or len(os.sched_getaffinity(0)), group)
        return _fit(data, target, config, options, status, show, on_note)


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of `fit`."""

    work: Path
    seed: int
    resume: bool
    go_on: bool
    quick: bool
    cores: int
    group: Together | None


def _fit(
    data: Path,
    target: Path,
    config: TrainConfig,
    options: _Options,
    status: StatusFile,
    on_status: Callable[[Status], None],
    on_note: Callable[[str], None],
) -> Fitted:
    work, seed, resume, quick = options.work, options.seed, options.resume, options.quick
    pretrained = configured_encoder(config.network)
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        on_note(text)

    paths = find_good_images(data)
    sizes = sizes_from_headers(paths) or read_good_images(paths).sizes_hw
    by_places = pretrained is not None and places_may_count(config)
    chosen_input = choose_input(config.input, sizes, lambda: by_places and show_one_view(paths))
    with PartStoreWriter(work / "parts.u8", chosen_input.spec) as writer:
        images = read_good_images(paths, writer.add)
        store = writer.finish()
    try:
        for text in images.notes:
            note(text)
        parts = find_parts(images, config.holdout.group, note)
        if clusters := describe_clusters(images):
            note(clusters)
        needed = images_needed(config.false_reject)
        groups = held_out_together(images, parts)
        split = split_images(parts.numbers, config.holdout, seed, needed, known=parts.known, groups=groups)
        if chosen_input != config.input:
            note(describe_input(config.input, chosen_input, images.sizes_hw))
        variation, choices = choose_variation(config.variation, images, parts.numbers, split, seed=seed)
        for text in choices:
            note(text)
        config = msgspec.structs.replace(config, input=chosen_input, variation=variation)
        on_note(
            f"{len(images.paths)} good images: {len(split.train)} for training, {len(split.validation)} for validation, "
            f"{len(split.calibration)} (of {counted(split.calibration_groups, 'part')}) for the score threshold"
        )
        background = config.background
        if background is None:
            background = has_background(store[i] for i in split.train[:BACKGROUND_PROBES])
            note(_describe_background(background))
            config = msgspec.structs.replace(config, background=background)
        samples = _sample_settings(config, store, split.train, seed=seed, background=background)
        cases = make_cases(_sample_settings(config, store, split.validation, seed=seed, background=background))
        if all(case.label is None for case in cases):
            raise ConfigError(
                "none of the synthetic defects on the held-out images is visible",
                hint="give `defects` more kinds, or a lower `visible`",
            )
        encoder, origin = pretrained or (None, None)
        features = features_of_good_parts(config, encoder, background=background)
        if config.network.memory_input and features is None:
            raise ConfigError(
                "network.memory_input: there is no memory of good parts that the network could see, because without a "
                "pretrained encoder, only parts on a plain background are compared with good ones, by fixed filters",
                hint="set network.memory_input to false, or network.encoder to efficientnet-lite0",
            )
        note(describe_comparison(config, features, background=background))
        # The first version has no network, so another view must count in its score.
        first = features is not None and bool(config.views.memory or config.views.whole_image)
        if quick and not first:
            raise ConfigError(
                "--quick needs something to compare parts by, and this configuration has nothing",
                hint="set network.encoder to efficientnet-lite0 (the pretrained encoder), detector to true, and views.memory "
                "or views.whole_image above 0",
            )
        product = Product(config, images, groups, split, store, cases, background, origin, seed)
        detector = comparison = None
        if features is not None:
            detector, built = with_good_parts(Detector(None, encoder=features), product)
            if detector.places is not None:
                note(describe_places(detector.places))
            if built.odd:
                note(_odd_images(built.odd, product))
            if config.network.memory_input and detector.memory is not None:
                comparison = Comparison(detector.memory, built.parts, torch.from_numpy(groups))
        held_out = hashlib.sha256(msgspec.json.encode([split.validation, split.calibration])).hexdigest()
        # The network's layers depend on the features that it is built on; with memory_input, on the memory, too.
        built_on = features or encoder or (FixedFilters() if config.network.fixed_filters else None)
        compared = type(built_on).__name__ if comparison is None else f"{type(built_on).__name__} {comparison.memory.config}"
        identity = {
            "data": images.fingerprint,
            "seed": str(seed),
            "held-out images": held_out,
            "comparison with good parts": compared,
        }
        if options.go_on and not quick:
            resume = TrainingState.is_in(work, whole_identity(identity, config))
        if first and detector is not None and not resume:
            try:
                on_first = note if quick else on_note
                created = create_bundle(
                    target, product, detector, None, on_first, int8=quick and config.int8, once=options.go_on
                )
                caught = created.bundle.manifest.metrics["synthetic_defects_caught"]
                on_note(
                    f"{created.bundle.path}: a first version, without training, catches {caught:.0%} of the synthetic defects"
                )
            except (DataError, EngineError) as error:  # the network may still tell what the other views cannot
                if quick:
                    raise
                on_note(f"there is no first version: {error}")
            else:
                if quick:
                    status.write(state="finishing")
                finished = _finished(data, product, created, None, work=work, notes=notes)
                if quick:
                    status.finished(_figures(finished, product, None))
                    return finished
        result = train(
            config,
            samples,
            cases,
            work=work,
            identity=identity,
            resume=resume,
            cores=options.cores,
            encoder=built_on,
            comparison=comparison,
            group=options.group,
            on_status=on_status,
        )
        status.write(state="finishing", done=1.0, left_s=0.0)
        if options.resume and result.steps == result.steps_before:
            on_note(
                f"the training in {work} had reached its end after {counted(result.steps, 'step')}, and was not continued. To "
                "continue it, resume with more --minutes or --steps, or with a larger training.patience if it had ended early"
            )
        if config.network.encoder_rate > 0 and isinstance(result.network.backbone, PretrainedBackbone):
            rounded(result.network.backbone.encoder)
        trained = Detector(result.network).eval()
        if features is None:
            detector = trained
        elif detector is None or config.network.encoder_rate > 0:
            detector, _ = with_good_parts(trained, product)
        else:
            detector = Detector(
                result.network, memory=detector.memory, whole_image=detector.whole_image, places=detector.places
            ).eval()
        created = create_bundle(target, product, detector, result, note, int8=config.int8, once=options.go_on)
        finished = _finished(data, product, created, result, work=work, notes=notes)
        status.finished(_figures(finished, product, result))
        return finished
    finally:
        store.path.unlink(missing_ok=True)


def _odd_images(odd: tuple[int, ...], product: Product) -> str:
    """Name the training images of the oddest parts in a note for the user."""
    paths = [product.images.paths[i] for part in odd[:ODD_SHOWN] for i in product.split.train if product.groups[i] == part]
    more = f" and images of {counted(len(odd) - ODD_SHOWN, 'more part')}" if len(odd) > ODD_SHOWN else ""
    return (
        f"these good images differ most from all others: {named(paths)}{more}. Look at them. If one shows a defect, remove it "
        "and train again, because a defect that is learned as good will pass"
    )


def _finished(
    data: Path, product: Product, created: CreatedBundle, result: TrainingResult | None, *, work: Path, notes: list[str]
) -> Fitted:
    """Write the report of a bundle."""
    study, report = _report(data, created, product, losses=result.losses if result else [], notes=notes)
    version = f"report-{created.bundle.manifest.version}.html"
    for name in (REPORT, version):
        report.write(work / name)
    return Fitted(created.bundle, result, created.validation, study, work / version)


def _figures(fitted: Fitted, product: Product, result: TrainingResult | None) -> Figures:
    """Return the figures that status.json keeps."""
    manifest, study = fitted.bundle.manifest, fitted.study
    point, kind = study.point, study.defects[0]
    level, answer = answer_of(point, kind, asked=study.false_reject, promised=study.parts_known)
    return Figures(
        version=manifest.version,
        digest=fitted.bundle.digest,
        report=fitted.report.name,
        level=level,
        answer=answer,
        defects=kind,
        defective=point.defective,
        escapes=point.escapes,
        good=point.good,
        false_rejects=point.false_rejects,
        asked=study.false_reject,
        promised=study.threshold.reject_probability if study.parts_known else None,
        needed=0 if study.threshold.met else study.threshold.needed,
        look_at=study.odd_words(),
        score_threshold=manifest.score_threshold,
        synthetic_caught=manifest.metrics["synthetic_defects_caught"],
        image_auroc=fitted.validation.image_auroc,
        images=len(product.images.paths),
        steps=0 if result is None else result.steps,
        seconds=0.0 if result is None else round(result.seconds, 1),
    )


def _report(
    data: Path, created: CreatedBundle, product: Product, *, losses: list[tuple[int, float]], notes: list[str]
) -> tuple[ThresholdStudy, Report]:
    """Study the threshold, with real defects if the data folder has some, and build the report."""
    split = product.split
    engine = load_for_report(created.bundle)
    try:
        study = ThresholdStudy(
            threshold=created.threshold,
            false_reject=product.config.false_reject,
            parts_known=split.parts_known,
            paths=[product.images.paths[i] for i in split.calibration],
            scores=created.calibration_scores,
            parts=split.calibration_parts,
            synthetic=created.defective_scores,
            real=real_defects(engine, data),
        )
        report = fit_report(
            engine,
            data,
            study,
            created.validation,
            good_part=lambda path: product.store[product.images.paths.index(path)],
            good_scores=created.good_scores,
            cases=product.cases,
            losses=losses,
            notes=notes,
        )
    finally:
        engine.close()
    return study, report


def _describe_background(background: bool) -> str:
    if background:
        return (
            "parts are on a plain background: synthetic defects are placed on the part (`background: false` if that is wrong)"
        )
    return "no plain background: the product fills the image (`background: true` if parts do lie on one)"


def _sample_settings(
    config: TrainConfig, store: PartStore, indices: tuple[int, ...], *, seed: int, background: bool
) -> SampleSettings:
    spec, crop = config.input.spec, config.training.crop
    return SampleSettings(
        store=store,
        indices=indices,
        input=spec,
        window=InputSpec(min(spec.height, crop), min(spec.width, crop)),
        variation=config.variation,
        defects=config.defects,
        batch=config.training.batch,
        seed=seed,
        unit=min(spec.height, spec.width, MAX_UNIT),
        background=background,
    )


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnosegError(f"{folder}: cannot be created ({error.strerror})", hint="choose another --work") from error
