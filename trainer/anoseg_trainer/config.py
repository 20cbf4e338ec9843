"""Reads the trainer's configuration once from one YAML file, into strict typed structs that are passed down.

Every default works for a new product. `configs/train.yaml` lists them, and a test keeps the two equal.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from anoseg_engines.placement import InputSpec, Mode
from anoseg_engines.strict_yaml import read_yaml

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Weight = Annotated[float, Meta(ge=0.0, le=1e6)]
Channels = Annotated[int, Meta(ge=4, le=4096)]
Side = Annotated[int, Meta(ge=1, le=1 << 16)]
Count = Annotated[int, Meta(ge=1, le=1 << 40)]
NETWORK_STRIDE = 32
"""Input sides must be multiples of this: the network halves its input five times."""


class InputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The network's input, see DESIGN "Modes". Values left open are chosen from the images, see `data/input_choice.py`.

    Attributes:
        height: Network pixels, a multiple of 32.
        width: Network pixels, a multiple of 32.
        mode: The whole part in one input, or tiles of it.
        scale: Network pixels for each camera pixel (tile mode).
        overlap: Network pixels that neighbouring tiles share at least (tile mode).
    """

    height: Side | None = None
    width: Side | None = None
    mode: Literal["auto"] | Mode = "auto"
    scale: Annotated[float, Meta(gt=0.0, lt=100.0)] | None = None
    overlap: Annotated[int, Meta(ge=0, le=1 << 16)] | None = None

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if side is not None and self.overlap is not None and self.overlap >= side:
                raise ValueError("overlap must be smaller than a tile")

    @property
    def sides_given(self) -> bool:
        """Whether height and width are both set."""
        return self.height is not None and self.width is not None

    @property
    def spec(self) -> InputSpec:
        """The input as engines take it; valid once every value is set."""
        assert self.height is not None
        assert self.width is not None
        assert self.mode != "auto"
        assert self.scale is not None
        assert self.overlap is not None
        return InputSpec(self.height, self.width, mode=self.mode, scale=self.scale, overlap=self.overlap, shrink="blocks")


class NetworkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The network.

    Attributes:
        encoder: `efficientnet-lite0` starts from weights trained on ImageNet. `scratch` uses no weights from elsewhere.
        encoder_weights: File with other weights of EfficientNet-Lite0; null: those of the installed package.
        encoder_sha256: SHA-256 of that file.
        encoder_rate: Learning rate of the pretrained encoder, as a share of the network's; 0: the encoder stays as it is.
        fixed_filters: Whether a network from scratch sees the responses of fixed filters, which also compare parts on a plain
            background with good ones. Has no effect with a pretrained encoder.
        memory_input: Whether the network sees the memory's map of good parts. Refused with an encoder that is tuned, because
            its features change during the training.
        widths: Channels at strides 2, 4, 8, 16 and 32.
        blocks: Residual blocks of each level.
    """

    encoder: Literal["efficientnet-lite0", "scratch"] = "efficientnet-lite0"
    encoder_weights: str | None = None
    encoder_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="write 64 hexadecimal digits")] | None = None
    encoder_rate: Share = 0.0
    fixed_filters: bool = True
    memory_input: bool = False
    widths: tuple[Channels, Channels, Channels, Channels, Channels] = (16, 32, 64, 96, 96)
    blocks: Annotated[int, Meta(ge=1, le=4)] = 1


class MemoryOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The memory of good parts: features of good parts that each place is compared with.

    Values that are null are chosen from the images, see `detector_build.py`.

    Attributes:
        vectors: Number of feature vectors that are kept.
        dims: Dimensions of a vector.
        strides: Strides of the encoder's features that are compared.
        grid: Stride of the memory's map.
        softness: How much of the contrast is kept. 0 removes it, because it changes with the light; 100 keeps nearly all.
        whitening: 0 keeps the variances of the principal components, 1 makes them equal.
    """

    vectors: Annotated[int, Meta(ge=1, le=50_000)] = 6000
    dims: Annotated[int, Meta(ge=2, le=512)] = 64
    strides: Annotated[tuple[Literal[2, 4, 8, 16, 32], ...], Meta(min_length=1)] | None = None
    grid: Literal[2, 4, 8, 16, 32] | None = None
    softness: Weight | None = None
    whitening: Share | None = None

    def __post_init__(self) -> None:
        if self.strides is not None and len(set(self.strides)) < len(self.strides):
            raise ValueError("strides: names a stride twice")


class ViewsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Weights of the views in the image score and in the anomaly map; 0 leaves a view out.

    Attributes:
        network: The network's map, in the score.
        memory: The memory of good parts, in the score.
        whole_image: The model of the whole image, in the score.
        places: What is unusual at each place, in the score, where parts always lie the same way. Network and memory then count
            less, by an amount that does not depend on this weight; 0 leaves the places out. Needs another weight, besides the
            network's, that is above 0.
        memory_map: The map of the memory, and of the places if they count, beside the network's map.
    """

    network: Weight = 1.0
    memory: Weight = 0.75
    whole_image: Weight = 0.6
    places: Weight = 3.0
    memory_map: Weight = 0.5


class VariationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Differences between good parts. The network learns that these differences are normal.

    Poses and light that are null are chosen from the images, see `data/variation_choice.py`.

    Attributes:
        rotation_deg: Largest rotation, degrees.
        shift: Largest shift, as a share of the input's side.
        zoom: Largest change of size, as a share.
        brightness: Largest change, natural logarithm.
        contrast: Largest change, natural logarithm.
        shading: Strength of a smooth light field, natural logarithm.
        tint: Largest change of a colour channel, natural logarithm.
        noise: Largest standard deviation of sensor noise, grey values.
        flip_x: Share of images mirrored left to right; only for parts that may appear so.
        flip_y: Share of images mirrored upside down; only for parts that may appear so.
        litter: Share of images with dust and hairs beside the part, where parts are on a plain background.
        compression: Share of training images that are compressed, as the streams of network cameras are. Memory and whole image
            learn some compressed parts unless it is 0.
        features: How much mean and spread of a pretrained encoder's features are varied, as another lot or place would vary
            them, in standard deviations between the inputs of a batch (`model/feature_variation.py`). 1 helps where only few
            places or lots could be photographed, and costs escapes elsewhere.
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
    compression: Share = 0.3
    features: Weight = 0.0


class DefectConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Synthetic defects. The kinds are relative weights; 0 leaves a kind out.

    If parts are on a plain background, chips are at the outline of the part and four times as frequent. If they are not, no
    `bend` is made. See `synthesis/kinds.py` for all kinds.

    Attributes:
        share: Share of training images with defects.
        more: Probability of one more defect after each.
        at_rim: Share of defects at the rim of the image, for parts that fill it.
        visible: Difference in grey values at which a changed pixel is labelled half a defect.
        hard: AnoSeg's hard augmentation: a region of a rotated, permuted, colour-jittered image, pasted.
        blend: Patches of other good images, blended in.
    """

    share: Share = 0.7
    more: Annotated[float, Meta(ge=0.0, le=0.95)] = 0.7
    at_rim: Share = 0.0
    visible: Annotated[float, Meta(gt=0.0, le=255.0)] = 12.0
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
    """Weights of the losses; 0 switches a loss off.

    Attributes:
        l1: Pixel-wise L1 (AnoSeg).
        bce: Binary cross-entropy with graded labels.
        dice: Soft overlap.
        image: Binary cross-entropy between the largest map values and the image's label.
        adversarial: Discriminator on pairs of image and map (AnoSeg).
        reconstruction: L1 between reconstruction and image where the image is normal (AnoSeg).
    """

    l1: Weight = 1.0
    bce: Weight = 1.0
    dice: Weight = 0.2
    image: Weight = 0.0
    adversarial: Weight = 0.0
    reconstruction: Weight = 0.0


class TrainingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The training itself. It ends after `steps` or `minutes`, whichever comes first. The learning rate is 0 at the end.

    Attributes:
        steps: Limit in steps; null: none.
        minutes: Limit in time; null: none.
        batch: Images in a batch.
        crop: Side of the windows that training cuts from larger inputs, network pixels. Small windows make steps faster.
        optimizer: `muon` trains the convolutions between the first and the last layers with Muon, and all else with AdamW.
            null: `muon` for a network from scratch, `adamw` with a pretrained encoder.
        learning_rate: Largest learning rate.
        weight_decay: The optimizer's weight decay.
        ema: Decay of the averaged weights, which are the ones that are exported.
        patience: Training ends early when the best validation is at least this many validations and half of the steps so far
            ago; null: never.
        validate_every: Steps between validations.
        checkpoint_every: Steps between checkpoints.
        precision: Of the training arithmetic; auto takes bf16 where the processor computes with it.
        device: auto takes the GPU if there is one.
        threads: Number of threads. 0: training measures several numbers from time to time, and takes the fastest. Two
            trainings with the same seed are equal in every bit only if the number is fixed.
        workers: Processes that make training images; 0: chosen from the number of cores.
    """

    steps: Count | None = None
    minutes: Annotated[float, Meta(gt=0.0, le=525_600.0)] | None = 30.0
    batch: Annotated[int, Meta(ge=2, le=4096)] = 16
    crop: Annotated[int, Meta(ge=32, le=1 << 16)] = 256
    optimizer: Literal["muon", "adamw"] | None = None
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.5e-3
    weight_decay: Weight = 1e-4
    ema: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.998
    patience: Count | None = 3
    validate_every: Count = 400
    checkpoint_every: Count = 400
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    workers: Annotated[int, Meta(ge=0, le=256)] = 0


class HoldoutConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Good images that are kept from training.

    Attributes:
        validation: Share for choosing weights, detector and pixel threshold.
        calibration: Share for the score threshold alone; null: as many images as `false_reject` needs, between a tenth and a
            fifth.
        group: Regular expression over file names. Images with an equal first group (or an equal match) show the same part
            and stay together. Empty: near-duplicates are found by comparing the images.
    """

    validation: Share = 0.08
    calibration: Share | None = None
    group: str = ""


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that determines a training, except data and seed.

    Attributes:
        input: The network's input.
        background: Whether the parts are on a plain background. If false, the product fills the image, as a surface does. None:
            chosen from the images.
        coordinates: Whether the network sees where on the part each pixel is (AnoSeg's coordinate channels).
        detector: If true, the image score joins all views, and all pools of the network's map. If false, it comes from the 16
            largest values of the network's map alone, and `memory` and `views` have no effect.
        false_reject: Share of good parts that may be rejected.
        int8: Whether the bundle also gets a network that computes in INT8, if this network proves itself.
    """

    input: InputConfig = InputConfig()
    background: bool | None = None
    coordinates: bool = True
    detector: bool = True
    false_reject: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.01
    int8: bool = False
    network: NetworkConfig = NetworkConfig()
    memory: MemoryOptions = MemoryOptions()
    views: ViewsConfig = ViewsConfig()
    variation: VariationConfig = VariationConfig()
    defects: DefectConfig = DefectConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    holdout: HoldoutConfig = HoldoutConfig()

    def __post_init__(self) -> None:
        sides = {"input.height": self.input.height, "input.width": self.input.width, "training.crop": self.training.crop}
        for name, side in sides.items():
            if side is not None and side % NETWORK_STRIDE:
                raise ValueError(f"{name}: must be a multiple of {NETWORK_STRIDE}, found {side}")
        if not any(getattr(self.defects, kind) for kind in DEFECT_KINDS):
            raise ValueError("defects: every kind has weight 0, so the network would never see a defect")
        if not any((self.loss.l1, self.loss.bce, self.loss.dice)):
            raise ValueError("loss: loss.l1, loss.bce and loss.dice are all 0; one of them is needed to train the anomaly map")
        if (self.network.encoder_weights is None) != (self.network.encoder_sha256 is None):
            raise ValueError("network: encoder_weights and encoder_sha256 are given together, or neither")
        if self.network.encoder == "scratch" and self.network.encoder_weights is not None:
            raise ValueError(
                "network.encoder_weights: has no effect, because network.encoder is scratch; leave one of them out"
            )
        if self.network.memory_input and self.network.encoder_rate:
            raise ValueError(
                "network.memory_input: not possible with network.encoder_rate above 0, because the features that the memory "
                "compares would change during the training; set one of them to its default"
            )
        if self.network.memory_input and not self.detector:
            raise ValueError(
                "network.memory_input: not possible with detector: false, which leaves out the memory of good parts"
            )
        if self.detector and not any((self.views.network, self.views.memory, self.views.whole_image)):
            raise ValueError("views: network, memory and whole_image are all 0, so no image would have a score")
        if self.training.steps is None and self.training.minutes is None:
            raise ValueError("training: steps and minutes are both null, so training would never end")
        if self.holdout.validation + (self.holdout.calibration or 0.0) > 0.8:
            raise ValueError("holdout: validation and calibration together must not exceed 0.8")
        try:
            re.compile(self.holdout.group)
        except re.error as error:
            raise ValueError(f"holdout.group: not a regular expression: {error}") from error


def with_limits(config: TrainConfig, *, minutes: float | None, steps: int | None) -> TrainConfig:
    """Replace the limits of the training, if one of them is given."""
    if minutes is None and steps is None:
        return config
    return msgspec.structs.replace(config, training=msgspec.structs.replace(config.training, minutes=minutes, steps=steps))


def load_config(path: Path | None) -> TrainConfig:
    """Read a YAML file. Keys that the file leaves out keep their defaults. If `path` is None, all keys do.

    Raises:
        ConfigError: The file cannot be used; the message names file, line and key.
    """
    return TrainConfig() if path is None else read_yaml(path, TrainConfig)
