"""Model-parameter randomisation: a map that does not change when the model's weights do explains nothing of them."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from captum_vit.metrics.functional.explain import Explain, check_images, explained
from captum_vit.metrics.functional.parameter_groups import (
    Groups,
    NamedGroups,
    block_groups,
    kept,
    named_groups,
    put_back,
    redraw,
)
from captum_vit.metrics.functional.similarity import Similarity, spearman

__all__ = ["Order", "model_randomisation", "randomised_groups"]

Order: TypeAlias = Literal["top_down", "bottom_up", "independent"]
"""Cascading from the head, cascading from the input, or each group alone while the others keep their weights."""


def model_randomisation(
    model: nn.Module,
    explain: Explain,
    images: Tensor,
    targets: Tensor,
    *,
    order: Order = "top_down",
    groups: NamedGroups | None = None,
    similarity: Similarity = spearman,
    absolute: bool = True,
    seed: int = 0,
    std: float = 0.02,
    batch_size: int = 64,
) -> dict[str, Tensor]:
    """How alike the maps of a model and of the same model with random weights are, group by group: lower is better.

    The weights of one group of parameters after the other are drawn anew (`redraw`: all of them, class token,
    position embeddings and attention's input projection included), and after each the images are explained again for
    the *same* targets. The model is changed in place, because ``explain`` holds it, and put back bit for bit, also
    when ``explain`` raises. A group gets the same random weights in every order; two groups never get the same.

    Args:
        model: what ``explain`` explains; in eval mode, or dropout shows as a difference.
        explain: images and targets → maps of any grid.
        images: (B, C, H, W).
        targets: (B,) fixed for all groups: such as what the model predicts before its weights change.
        order: "top_down" and "bottom_up" keep what was randomised and go on; "independent" restores it first.
        groups: names with their modules or parameters, the input's first; parameters in none of them stay as they
            are. None for the embedding, each block, and the head, found by `block_groups`.
        similarity: of the original map and the new one.
        absolute: maps are compared by magnitude; False also sees a map whose signs are turned round.
        seed: of the random weights.
        std: of the random weights; norms become 1 and 0 whatever it is.
        batch_size: images that are explained at once.

    Returns:
        (B,) similarities by group, in the order in which the groups were randomised; NaN where one of the two maps
        is constant or holds NaN.

    Raises:
        ValueError: an order that is none, groups that do not fit the model, a model without a list of blocks, or
            shapes that do not fit.

    Source: arXiv 1810.03292, section 3.
    """
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {', '.join(get_args(Order))}, got {order!r}.")
    check_images(images, targets, batch_size)
    chosen = randomised_groups(model, groups)
    seeds = torch.randint(2**62, (len(chosen),), generator=torch.Generator().manual_seed(seed)).tolist()
    steps = list(zip(chosen, seeds, strict=True))
    if order == "top_down":
        steps.reverse()

    original = _compared(explained(explain, images, targets, batch_size), absolute)
    similarities = {}
    with kept(chosen) as copies:
        for name, own_seed in steps:
            redraw(model, chosen[name], seed=own_seed, std=std)
            maps = _compared(explained(explain, images, targets, batch_size), absolute)
            similarities[name] = similarity(original, maps)
            if order == "independent":
                put_back(chosen[name], copies[name])
    return similarities


def randomised_groups(model: nn.Module, groups: NamedGroups | None) -> Groups:
    """The caller's groups, or those that `block_groups` finds."""
    return block_groups(model) if groups is None else named_groups(model, groups)


def _compared(maps: Tensor, absolute: bool) -> Tensor:
    return maps.abs() if absolute else maps
