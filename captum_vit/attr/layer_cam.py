"""LayerCAM on tokens (Jiang et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from captum_vit.attr.token_cam import TokenCAM

__all__ = ["LayerCAM", "layer_cam"]


def layer_cam(tokens: Tensor, gradient: Tensor, *, relu: bool = False) -> Tensor:
    """Each token times the positive part of its own gradient, summed over dimensions: ``r_i = Σ_k z_ik (∂s/∂z_ik)⁺``.

    Args:
        tokens: tokens z of one block, (B, N, D).
        gradient: gradient of the target's logit with respect to them, (B, N, D).
        relu: whether negative relevance is dropped.

    Returns:
        Relevance of each token, (B, N).

    Example:
        >>> import torch
        >>> tokens = torch.tensor([[[1.0, 0.0], [2.0, -1.0], [-4.0, 3.0]]])
        >>> gradient = torch.tensor([[[9.0, 0.0], [1.0, -1.0], [2.0, -2.0]]])
        >>> layer_cam(tokens, gradient)
        tensor([[ 9.,  2., -8.]])

    References:
        Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization (2021),
        doi:10.1109/TIP.2021.3089943.
    """
    relevance = (tokens * gradient.clamp(min=0)).sum(-1)
    return relevance.clamp(min=0) if relu else relevance


class LayerCAM(TokenCAM):
    """The tokens of a block, each times the positive part of its own gradient.

    Args:
        model: see `ViTAttribution`.
        block: index of the block, negative from the last, or "all" for the mean of the maps of all blocks.
        tokens: "norm" for the output of the block's first norm, "block" for the block's own output.
        relu: whether negative relevance of a block's map is dropped, as in the paper.

    Raises:
        TypeError: an option of another type.
        ValueError: no such block, or another place.
    """

    name = "LayerCAM"
    reference = "doi:10.1109/TIP.2021.3089943, on tokens"

    def _block_map(self, tokens: Tensor, gradient: Tensor) -> Tensor:
        return layer_cam(tokens, gradient, relu=self.relu)
