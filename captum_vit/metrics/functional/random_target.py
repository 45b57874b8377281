"""Random-target similarity: a map that is the same for another class does not explain the class."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_vit.metrics.functional.explain import Explain, check_images, explained
from captum_vit.metrics.functional.similarity import Similarity, ssim

__all__ = ["other_targets", "random_target_similarity"]


def random_target_similarity(
    explain: Explain,
    images: Tensor,
    targets: Tensor,
    *,
    outputs: int,
    similarity: Similarity = ssim,
    absolute: bool = False,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """How alike the maps of each image's target and of another, random target are: lower is better.

    A class-agnostic method scores 1: it fails by design, not by accident.

    Args:
        explain: images and targets → maps of any grid (at least 11×11 for the default similarity).
        images: (B, C, H, W).
        targets: (B,).
        outputs: number K of the model's outputs; the other target is one of them.
        similarity: of the two maps.
        absolute: maps are compared by magnitude.
        seed: of the choice of the other targets (`other_targets`).
        batch_size: images that are explained at once.

    Returns:
        (B,); NaN where one of the two maps is constant or holds NaN.

    Raises:
        ValueError: a target that is no output, or shapes that do not fit.

    Source: arXiv 1912.09818 (random logit test).

    Example:
        >>> from captum_vit.metrics.functional import spearman
        >>> explain = lambda images, targets: images[range(len(targets)), targets]  # channel 1 explains class 1
        >>> image = torch.tensor([[[[0.0, 1.0], [4.0, 8.0]], [[0.0, 4.0], [1.0, 8.0]]]])
        >>> random_target_similarity(explain, image, torch.tensor([0]), outputs=2, similarity=spearman)
        tensor([0.8000])
    """
    check_images(images, targets, batch_size)
    others = other_targets(targets, outputs, seed=seed)
    pair = [explained(explain, images, each, batch_size) for each in (targets, others)]
    return similarity(*(each.abs() if absolute else each for each in pair))


def other_targets(targets: Tensor, outputs: int, *, seed: int = 0) -> Tensor:
    """For every target another one, drawn once per class.

    The classes are put in a random circle and each is given its successor, so that what an image is compared with
    depends on its class and the seed, and not on the batch that it comes in.

    Args:
        targets: (B,) in [0, outputs).
        outputs: number of classes, at least 2.
        seed: of the circle.

    Raises:
        ValueError: fewer than two outputs, or a target that is none of them.

    Example:
        >>> other_targets(torch.tensor([0, 1, 2, 0]), 3)
        tensor([1, 2, 0, 1])
    """
    if outputs < 2:
        raise ValueError(f"outputs must be at least 2, or there is no other target, got {outputs}.")
    wrong = targets[(targets < 0) | (targets >= outputs)]
    if len(wrong):
        raise ValueError(f"targets must be in [0, {outputs}), got {int(wrong[0])}.")
    circle = torch.randperm(outputs, generator=torch.Generator().manual_seed(seed)).to(targets.device)
    successor = torch.empty_like(circle).scatter_(0, circle, circle.roll(-1))
    return successor[targets]
