"""Computes the losses of AnoSeg (arXiv 2110.03396, section 3) and a few more.

Each loss is a mean, so that their weights are comparable.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from anoseg_trainer.config import LossConfig
from anoseg_trainer.model.detector import FIRST_POOL, pooled
from anoseg_trainer.model.network import Discriminator, Outputs

EVEN_AREA = 1024
"""Pixels of smaller defects are weighted up by sqrt(EVEN_AREA / area). Without that, the network would learn next to nothing
from a pore of 20 pixels beside stains of thousands."""
EMPHASIS = 8.0
"""Largest such weight."""
DICE_SMOOTH = 8.0
"""Pixels that smooth the overlap, so that the loss of a good image falls to 0 together with its map."""


def pixel_losses(outputs: Outputs, labels: Tensor, valid: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """Compute the losses between map and labels that `config` switches on.

    Dice is computed for each image. So every defect counts regardless of its size, and good images count too.

    Args:
        outputs: The network's outputs.
        labels: float [N, H, W] in 0…1.
        valid: The part's pixels, float [N, H, W].
        config: The weights.

    Returns:
        Loss name to unweighted loss.
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


def image_loss(outputs: Outputs, labels: Tensor, valid: Tensor) -> Tensor:
    """Compute the cross-entropy of the pooled map logits of `FIRST_POOL` with the image's label, its largest pixel label.

    The image score comes from the few largest map values; this loss trains them directly.
    """
    first = pooled(outputs.logits, valid > 0)[:, FIRST_POOL]
    return functional.binary_cross_entropy_with_logits(first, labels.flatten(1).amax(dim=1))


def reconstruction_loss(outputs: Outputs, image: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Compute the masked reconstruction loss: L1 to the image [N, 3, H, W], over its normal pixels."""
    assert outputs.reconstruction is not None
    normal = ((1 - labels) * valid)[:, None]
    difference = (outputs.reconstruction.float() - image).abs() * normal
    return difference.sum() / (3 * normal.sum()).clamp(min=1)


def pairs_generated(outputs: Outputs, good: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs (reconstruction, map) of the good images of a batch (`good`: bool [N]), which should look real.

    Defective images are left out. An all-normal map would be wrong for them, so the network would learn to hide defects.
    """
    assert outputs.reconstruction is not None
    return outputs.reconstruction[good].float(), torch.sigmoid(outputs.logits[good].float())[:, None]


def discriminator_loss(discriminator: Discriminator, real: Tensor, generated: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the hinge loss: above 1 for real pairs (good image, all-normal map), below −1 for generated pairs."""
    image, anomaly_map = (t.detach() for t in generated)
    on_real = discriminator(real, torch.zeros_like(anomaly_map))
    on_generated = discriminator(image, anomaly_map)
    loss: Tensor = functional.relu(1 - on_real.float()).mean() + functional.relu(1 + on_generated.float()).mean()
    return loss


def adversarial_loss(discriminator: Discriminator, generated: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the network's adversarial loss: low if the discriminator takes the generated pairs for real."""
    loss: Tensor = -discriminator(*generated).float().mean()
    return loss
