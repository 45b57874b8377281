"""HiResCAM on tokens (Draelos & Carin 2020)."""

from __future__ import annotations

from torch import Tensor

from captum_vit.attr.token_cam import TokenCAM

__all__ = ["HiResCAM", "hires_cam"]


def hires_cam(tokens: Tensor, gradient: Tensor, *, relu: bool = False) -> Tensor:
    """Each token times its own gradient, summed over dimensions: ``r_i = Σ_k z_ik ∂s/∂z_ik``.

    Args:
        tokens: tokens z of one block, (B, N, D).
        gradient: gradient of the target's logit with respect to them, (B, N, D).
        relu: whether negative relevance is dropped.

    Returns:
        Relevance of each token, (B, N).

    Example:
        >>> import torch
        >>> tokens = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]]])
        >>> gradient = torch.tensor([[[9.0, 0.0], [1.0, 0.0], [2.0, -2.0]]])
        >>> hires_cam(tokens, gradient)
        tensor([[ 9.,  2., -6.]])

    References:
        arXiv:2011.08891, which multiplies feature map and gradient element by element.
    """
    relevance = (tokens * gradient).sum(-1)
    return relevance.clamp(min=0) if relu else relevance


class HiResCAM(TokenCAM):
    """The tokens of a block, each times its own gradient.

    Args:
        model: see `ViTAttribution`.
        block: index of the block, negative from the last, or "all" for the mean of the maps of all blocks.
        tokens: "norm" for the output of the block's first norm, "block" for the block's own output.
        relu: whether negative relevance of a block's map is dropped.

    Raises:
        TypeError: an option of another type.
        ValueError: no such block, or another place.
    """

    name = "HiResCAM"
    reference = "arXiv:2011.08891, on tokens"

    def _block_map(self, tokens: Tensor, gradient: Tensor) -> Tensor:
        return hires_cam(tokens, gradient, relu=self.relu)
