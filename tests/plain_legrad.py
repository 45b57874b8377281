"""LeGrad in plain loops over the equations of its paper (arXiv:2404.03214)."""

from __future__ import annotations

import torch
from oracle import gradients, plain_pass
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor


def equations_3_to_8(
    vit: VisionTransformer, images: Tensor, target: Tensor, *, relu: bool = True, per_block: bool = True
) -> Tensor:
    """LeGrad of each block, (B, L, gh·gw): s = C(norm(mean of all tokens)); mean over heads and rows of (∂s/∂A)⁺."""
    results = []
    for image, label in zip(images, target, strict=True):
        plain = plain_pass(vit, image[None])
        maps = []
        for block, attention in enumerate(plain.attentions):
            tokens = plain.tokens[block if per_block else -1]
            mean = sum(tokens[0, i] for i in range(tokens.shape[1])) / tokens.shape[1]
            score = vit.head(vit.norm(mean))[label]
            (gradient,) = gradients(score, [attention])
            total = torch.zeros(attention.shape[-1], dtype=torch.float64)
            for head in gradient[0]:
                for row in head:
                    total += row.clamp(min=0) if relu else row
            maps.append((total / (attention.shape[1] * attention.shape[2]))[1:])
        results.append(torch.stack(maps))
    return torch.stack(results)
