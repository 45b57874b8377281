"""The γ of AttnLRP, chosen by how faithful its maps are on a few images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from captum_vit.adapters import adapt
from captum_vit.attr import AttnLRP
from captum_vit.attr.attnlrp import Variant
from captum_vit.attr.targets import Target, single_targets
from captum_vit.metrics.functional import abpc, probabilities

__all__ = ["GammaChoice", "choose_gamma"]


@dataclass(frozen=True, eq=False)
class GammaChoice:
    """What `choose_gamma` found.

    Attributes:
        method: `AttnLRP` with the best pair.
        scores: (γ, γ of the patch embedding) → mean area between the curves, higher is better.
    """

    method: AttnLRP
    scores: Mapping[tuple[float, float], float]


def choose_gamma(
    model: nn.Module,
    images: Tensor,
    targets: Target,
    *,
    gammas: Sequence[float] = (0.0, 0.05, 0.25),
    patch_gammas: Sequence[float] = (0.0, 0.25, 100.0),
    variant: Variant = "attnlrp",
    epsilon: float = 0.0,
    steps: int = 8,
    fill: float = 0.0,
    batch_size: int = 64,
) -> GammaChoice:
    """Tries every pair of gammas and keeps the one whose maps are the most faithful on these images.

    Faithful is the area between the curves of least and most relevant patches first (`abpc`), on the softmax
    probability of the target: the idea of ΔA in arXiv:2402.05602, on the patch grid. A pair costs one map and about
    2 · ``steps`` forward passes an image. Images that are evaluated later should not be among these.

    Args:
        model: see `AttnLRP`.
        images: a few preprocessed images (B, C, H, W).
        targets: the output to explain of each, in all forms that `attribute` takes: an index or a prompt for all
            images, a list or a tensor (B,) with one for each.
        gammas: values of `AttnLRP`'s ``gamma``.
        patch_gammas: values of its ``patch_gamma``.
        variant: see `AttnLRP`.
        epsilon: see `AttnLRP`.
        steps: points of the curves.
        fill: what replaces a pixel; 0 is the mean colour of normalised images.
        batch_size: images that the model sees at once.

    Raises:
        TypeError: gammas that are no list, images or a target of the wrong kind.
        ValueError: no gamma, an option that `AttnLRP` or `abpc` refuses, images or a target that the model can't take,
            a map that ranks nothing.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> _ = torch.manual_seed(0)
        >>> model = VisionTransformer(img_size=32, patch_size=16, embed_dim=12, depth=2, num_heads=2).eval()
        >>> images = torch.rand(2, 3, 32, 32)
        >>> choice = choose_gamma(model, images, 281, gammas=[0.0], patch_gammas=[0.0, 100.0], steps=2)
        >>> len(choice.scores)
        2
    """
    for name, values in (("gammas", gammas), ("patch_gammas", patch_gammas)):
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise TypeError(f"{name} must be a list of numbers, got {values!r}.")
        if not len(values):
            raise ValueError(f"{name} must hold at least one value, got none.")
    adapter = adapt(model)
    adapter.check_images(images)
    chosen = single_targets(targets, adapter, len(images), optional=False)[:, 0].to(images.device)  # (B,)
    height, width = images.shape[-2:]
    gh, gw = adapter.grid(height, width)
    found: dict[tuple[float, float], float] = {}
    methods: dict[tuple[float, float], AttnLRP] = {}
    for gamma, patch_gamma in product(gammas, patch_gammas):
        method = AttnLRP(adapter, variant=variant, gamma=gamma, patch_gamma=patch_gamma, epsilon=epsilon)
        pixels = method.attribute(images, target=chosen, internal_batch_size=batch_size)
        with torch.no_grad():
            contrast = abpc(
                probabilities(adapter),
                images,
                pixels.sum(1),
                chosen,
                steps=steps,
                fill=fill,
                patch=(height // gh, width // gw),
                batch_size=batch_size,
            )
        if contrast.score.isnan().any():
            raise ValueError(f"gamma {gamma} and patch_gamma {patch_gamma} give a map that ranks no patch.")
        methods[gamma, patch_gamma] = method
        found[gamma, patch_gamma] = float(contrast.score.mean())
    return GammaChoice(methods[max(found, key=found.__getitem__)], found)
