"""The losses of AnoSeg (arXiv 2110.03396, section 3) and the few added to them. Each is a mean, so weights are comparable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from anoseg_trainer.config import LossConfig
from anoseg_trainer.model.network import FIRST_POOL, AnoSegNetwork, Discriminator, Outputs

EVEN_AREA = 1024
"""Defective pixels of one image from which each counts as one; of fewer each counts more, with the root of how few they are: a
pore of 20 pixels would teach next to nothing beside stains of thousands."""
EMPHASIS = 8.0
"""At most so much more."""
DICE_SMOOTH = 8.0
"""Pixels by which the overlap is smoothed: a good image's loss then falls to 0 with its map, instead of being 1 or nothing."""


def pixel_losses(outputs: Outputs, labels: Tensor, valid: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """Losses between the map and the labels (float [N, H, W] in 0…1), over the part's pixels (`valid`, float [N, H, W]).

    Dice is taken image by image, so that every defect counts whatever its size, and good images count too.
    """
    logits = outputs.logits.float()
    predicted = torch.sigmoid(logits)
    n = valid.sum().clamp(min=1)
    area = (labels * valid).flatten(1).sum(dim=1)
    emphasis = (EVEN_AREA / area.clamp(min=1)).sqrt().clamp(1.0, EMPHASIS)[:, None, None]
    weights = valid * (1 + (emphasis - 1) * labels)
    losses = {}
    if config.l1:
        losses["l1"] = ((predicted - labels).abs() * weights).sum() / n
    if config.bce:
        losses["bce"] = (functional.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weights).sum() / n
    if config.dice:
        overlap = (predicted * labels * valid).flatten(1).sum(dim=1)
        total = ((predicted.square() + labels.square()) * valid).flatten(1).sum(dim=1)
        losses["dice"] = (1 - (2 * overlap + DICE_SMOOTH) / (total + DICE_SMOOTH)).mean()
    return losses


def image_loss(network: AnoSegNetwork, outputs: Outputs, labels: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of the pooled map logits of `FIRST_POOL` with the image's own label, its largest pixel label.

    The image score is read from the few largest map values, so these are asked for directly: nothing that stands out on good
    parts, something on defective ones.
    """
    pooled = network.pooled(outputs.logits, valid > 0)[:, FIRST_POOL]
    return functional.binary_cross_entropy_with_logits(pooled, labels.flatten(1).amax(dim=1))


def reconstruction_loss(outputs: Outputs, image: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Masked reconstruction: L1 to the image [N, 3, H, W] where it is normal; nothing is asked of defective pixels."""
    assert outputs.reconstruction is not None
    normal = ((1 - labels) * valid)[:, None]
    difference = (outputs.reconstruction.float() - image).abs() * normal
    return difference.sum() / (3 * normal.sum()).clamp(min=1)


def pairs_generated(outputs: Outputs, good: Tensor) -> tuple[Tensor, Tensor]:
    """The generated pairs (reconstruction, map) of the good images of a batch (`good`: bool [N]), which must look real.

    Only good images: for them an all-normal map is right. Asking it of defective ones would teach to hide defects.
    """
    assert outputs.reconstruction is not None
    return outputs.reconstruction[good].float(), torch.sigmoid(outputs.logits[good].float())[:, None]


def discriminator_loss(discriminator: Discriminator, real: Tensor, generated: tuple[Tensor, Tensor]) -> Tensor:
    """Hinge loss: real pairs (good image, all-normal map) above 1, generated pairs below −1."""
    image, anomaly_map = (t.detach() for t in generated)
    on_real = discriminator(real, torch.zeros_like(anomaly_map))
    on_generated = discriminator(image, anomaly_map)
    loss: Tensor = functional.relu(1 - on_real.float()).mean() + functional.relu(1 + on_generated.float()).mean()
    return loss


def adversarial_loss(discriminator: Discriminator, generated: tuple[Tensor, Tensor]) -> Tensor:
    """What the network is asked for: generated pairs that the discriminator takes for real."""
    loss: Tensor = -discriminator(*generated).float().mean()
    return loss
