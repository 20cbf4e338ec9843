"""The trainer's configuration: strict typed structs, read once by `cli.main` from one YAML file, passed down.

Every default works for a new product; `configs/train.yaml` spells them out and a test holds the two equal.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import yaml
from msgspec import Meta

from anoseg_engines.errors import ConfigError
from anoseg_engines.placement import InputSpec, Mode

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Weight = Annotated[float, Meta(ge=0.0)]
Channels = Annotated[int, Meta(ge=4)]
NETWORK_STRIDE = 32
"""Input sides must be multiples of it: the network halves its input five times."""


class InputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The network's input, see DESIGN "Modes". What is null (or auto) is chosen from the images, see `choose.py`.

    height, width: network pixels. mode: the whole part in one input, or tiles of it. scale: network pixels a camera pixel
    (tile mode). overlap: network pixels that neighbouring tiles share at least (tile mode).
    """

    height: Annotated[int, Meta(ge=1)] | None = None
    width: Annotated[int, Meta(ge=1)] | None = None
    mode: Literal["auto"] | Mode = "auto"
    scale: Annotated[float, Meta(gt=0.0, lt=100.0)] | None = None
    overlap: Annotated[int, Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if side is not None and self.overlap is not None and self.overlap >= side:
                raise ValueError("overlap must be smaller than a tile")

    @property
    def sides_given(self) -> bool:
        """Whether both sides are set."""
        return self.height is not None and self.width is not None

    @property
    def spec(self) -> InputSpec:
        """The input as engines take it; only when nothing is left open."""
        assert self.height is not None
        assert self.width is not None
        assert self.mode != "auto"
        assert self.scale is not None
        assert self.overlap is not None
        return InputSpec(self.height, self.width, self.mode, self.scale, self.overlap)


class NetworkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """widths: channels at strides 2, 4, 8, 16, 32. blocks: residual blocks a level and side."""

    widths: tuple[Channels, Channels, Channels, Channels, Channels] = (16, 32, 64, 96, 96)
    blocks: Annotated[int, Meta(ge=1, le=4)] = 1


class VariationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What good parts do anyway, taught as normal.

    rotation_deg, shift, zoom: largest turn, shift (share of the input's side), change of size. brightness, contrast:
    largest change, natural logarithm. shading: strength of a smooth light field. tint: largest change of
    a colour channel, natural logarithm. noise: largest sigma in grey values.
    flip_x, flip_y: share of images mirrored left-right, upside down; only for parts that may lie so.
    litter: share of images with dust and hairs beside the part, where parts lie on a plain background.
    Turn, mirroring and light are chosen from the images where they are null.
    """

    rotation_deg: Weight | None = None
    shift: Share = 0.03
    zoom: Share = 0.07
    brightness: Share | None = None
    contrast: Share | None = None
    shading: Share | None = None
    tint: Share | None = None
    noise: Weight = 4.0
    flip_x: Share | None = None
    flip_y: Share | None = None
    litter: Share = 0.5


class DefectConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Synthetic defects. The kinds are relative weights; 0 leaves a kind out.

    share: share of training images that get defects. more: chance of a further defect after each one.
    at_rim: share of defects placed at the picture's rim, for parts that fill it.
    visible: difference in grey values at which a changed pixel counts as half a defect.
    hard: the paper's hard augmentation (rotated, permuted, colour-jittered image, a region of it pasted).
    blend: patches of other good images, blended in. The others: see `kinds.py`. Where parts lie on a plain background, chips
    sit on their outline and are four times as frequent; bend is left out where they do not.
    """

    share: Share = 0.7
    more: Annotated[float, Meta(ge=0.0, le=0.95)] = 0.7
    at_rim: Share = 0.0
    visible: Annotated[float, Meta(gt=0.0)] = 12.0
    hard: Weight = 1.0
    blend: Weight = 1.0
    scratch: Weight = 1.0
    spots: Weight = 1.0
    dent: Weight = 0.7
    chip: Weight = 0.25
    bend: Weight = 0.7
    shade: Weight = 0.5
    texture: Weight = 0.6
    warp: Weight = 0.3
    missing: Weight = 0.0


DEFECT_KINDS = ("hard", "blend", "scratch", "spots", "dent", "chip", "bend", "shade", "texture", "warp", "missing")


class LossConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Weights of the losses; 0 switches a part off.

    l1: pixel-wise L1 (AnoSeg). bce: binary cross-entropy with graded labels. dice: soft overlap.
    image: binary cross-entropy of the largest map values with the image's label.
    adversarial: discriminator on (image, map) pairs. reconstruction: L1 to the image where it is normal.
    """

    l1: Weight = 1.0
    bce: Weight = 1.0
    dice: Weight = 0.2
    image: Weight = 0.0
    adversarial: Weight = 0.0
    reconstruction: Weight = 0.0


class TrainingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """steps, minutes: the end of training, whichever comes first (null: no such limit). The learning rate falls to 0 there.

    ema: decay of the averaged weights, which are what is exported. patience: validations that bring nothing better after
    which training ends early (null: never). validate_every, checkpoint_every: steps.
    crop: side of the windows that training sees of larger inputs, network pixels: more parts for the same arithmetic.
    precision: of the training arithmetic; auto takes bf16 where the processor has it. workers: 0 chooses.
    threads: 0 takes the number that is fastest, tried anew now and then; a fixed one makes trainings equal in every bit.
    """

    steps: Annotated[int, Meta(ge=1)] | None = None
    minutes: Annotated[float, Meta(gt=0.0)] | None = 30.0
    batch: Annotated[int, Meta(ge=2)] = 16
    crop: Annotated[int, Meta(ge=32)] = 256
    learning_rate: Annotated[float, Meta(gt=0.0)] = 1.5e-3
    weight_decay: Weight = 1e-4
    ema: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.998
    patience: Annotated[int, Meta(ge=1)] | None = 8
    validate_every: Annotated[int, Meta(ge=1)] = 800
    checkpoint_every: Annotated[int, Meta(ge=1)] = 400
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Meta(ge=0)] = 0
    workers: Annotated[int, Meta(ge=0)] = 0


class HoldoutConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Good images kept from training. validation: for choosing weights, detector and pixel threshold.
    calibration: for the score threshold alone; null: as many as `false_reject` needs, from a tenth to a fifth.
    group: regular expression; names with equal first group (or equal match)
    are the same part and stay on one side; empty: near-duplicates are found by looking at the images.
    """

    validation: Share = 0.08
    calibration: Share | None = None
    group: str = ""


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides a training but data and seed. input: the network's input, see DESIGN "Modes".

    coordinates: the two coordinate channels (AnoSeg part 5) are shown to the network. detector: the image score takes
    whichever of several pools of the map (AnoSeg part 6) is farthest from good parts; false: its 16 largest values alone.
    false_reject: share of good parts that may be rejected.
    """

    input: InputConfig = InputConfig()
    coordinates: bool = True
    detector: bool = True
    false_reject: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.01
    network: NetworkConfig = NetworkConfig()
    variation: VariationConfig = VariationConfig()
    defects: DefectConfig = DefectConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    holdout: HoldoutConfig = HoldoutConfig()

    def __post_init__(self) -> None:
        sides = {"input.height": self.input.height, "input.width": self.input.width, "training.crop": self.training.crop}
        for name, side in sides.items():
            if side is not None and side % NETWORK_STRIDE:
                raise ValueError(f"{name} must be a multiple of {NETWORK_STRIDE}")
        if not any(getattr(self.defects, kind) for kind in DEFECT_KINDS):
            raise ValueError("defects: every kind has weight 0, so there is nothing to learn to find")
        if not any((self.loss.l1, self.loss.bce, self.loss.dice)):
            raise ValueError("loss.l1, loss.bce and loss.dice are all 0, so nothing teaches the anomaly map")
        if self.training.steps is None and self.training.minutes is None:
            raise ValueError("training.steps or training.minutes must be given, else training would never end")
        if self.holdout.validation + (self.holdout.calibration or 0.0) > 0.8:
            raise ValueError("holdout.validation and holdout.calibration leave too little to train on")
        try:
            re.compile(self.holdout.group)
        except re.error as error:
            raise ValueError(f"holdout.group is no regular expression: {error}") from error


def load_config(path: Path | None) -> TrainConfig:
    """Read a YAML file; keys left out keep their defaults. None: all defaults.

    Raises:
        ConfigError: unreadable, no YAML, an unknown key (named with its path and the nearest known key), a wrong type.
    """
    if path is None:
        return TrainConfig()
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", hint="check --config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no valid YAML: {error}") from error
    return config_from_mapping({} if raw is None else raw, source=str(path))


def config_from_mapping(raw: Any, *, source: str) -> TrainConfig:
    """Check plain data against `TrainConfig`; `source` names it in errors.

    Raises:
        ConfigError: as `load_config`.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{source}: key: value pairs are needed, found {type(raw).__name__}")
    _refuse_unknown_keys(raw, TrainConfig, "", source)
    try:
        return msgspec.convert(raw, TrainConfig)
    except msgspec.ValidationError as error:
        text = str(error).replace("`$.", "`").replace(" - at `$`", "")
        raise ConfigError(f"{source}: {text}", hint="see configs/train.yaml for every key and its default") from error


def _refuse_unknown_keys(raw: dict[Any, Any], struct: type[msgspec.Struct], prefix: str, source: str) -> None:
    """Walk the mapping along the structs, so that the message can name the path and the nearest known key."""
    known = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in raw.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known here: {', '.join(known)}"
            raise ConfigError(f"{source}: unknown key '{prefix}{key}'", hint=hint)
        kinds = [known[key], *get_args(known[key])]
        nested = next((k for k in kinds if isinstance(k, type) and issubclass(k, msgspec.Struct)), None)
        if nested is not None and isinstance(value, dict):
            _refuse_unknown_keys(value, nested, f"{prefix}{key}.", source)
