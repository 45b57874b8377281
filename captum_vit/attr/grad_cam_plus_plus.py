"""Grad-CAM++ on tokens (Chattopadhay et al. 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from captum_vit.adapters.tokens import TokenPlace
from captum_vit.attr.options import checked_number, checked_switch
from captum_vit.attr.token_cam import Block, TokenCAM

__all__ = ["GradCAMPlusPlus", "grad_cam_plus_plus"]


def grad_cam_plus_plus(
    tokens: Tensor, gradient: Tensor, *, num_prefix_tokens: int = 0, stabiliser: float = 0.0, relu: bool = False
) -> Tensor:
    """Weights each dimension of the tokens by a weighted sum of its positive gradients.

    With g the gradient and ``S_k = Σ_i z_ik``, ``α_ik = g_ik² / (2 g_ik² + S_k g_ik³)``, ``w_k = Σ_i α_ik g_ik⁺`` and
    ``r_i = Σ_k w_k z_ik``.

    Args:
        tokens: tokens z of one block, (B, N, D).
        gradient: gradient of the target's logit with respect to them, (B, N, D).
        num_prefix_tokens: first tokens that take no part in both sums over tokens; 1 leaves a class token out.
        stabiliser: a number at least 0 that is added to the denominator of α; pytorch-grad-cam adds 1e-6.
        relu: whether negative relevance is dropped.

    Returns:
        Relevance of each token, (B, N).

    Raises:
        ValueError: a stabiliser that is negative or not finite.

    Example:
        >>> import torch
        >>> tokens = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]]])
        >>> gradient = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [-1.0, 1.0]]])
        >>> grad_cam_plus_plus(tokens, gradient)  # S = (3, 4), w = (⅕ · 1 + ⅛ · 2, ⅙ · 1)
        tensor([[0.4500, 1.0667, 0.5000]])

    References:
        arXiv:1710.11063, eq. 18-19, for the derivatives of the exponential of the logit, whose positive factor changes
        the scale of the map only.
    """
    checked_number("stabiliser", stabiliser, 0)
    counted = gradient[:, num_prefix_tokens:]
    total = tokens[:, num_prefix_tokens:].sum(1, keepdim=True)  # (B, 1, D)
    square, positive = counted**2, counted.clamp(min=0)
    denominator = 2 * square + total * counted**3 + stabiliser
    share = square / denominator.where(positive > 0, 1.0)  # elsewhere the weight is zero, whatever the share
    weights = (share * positive).sum(1, keepdim=True)  # (B, 1, D)
    relevance = (weights * tokens).sum(-1)
    return relevance.clamp(min=0) if relu else relevance


class GradCAMPlusPlus(TokenCAM):
    """The tokens of a block, each of their dimensions weighted by its positive gradients, small regions counting more.

    Args:
        model: see `ViTAttribution`.
        block: index of the block, negative from the last, or "all" for the mean of the maps of all blocks.
        tokens: "norm" for the output of the block's first norm, "block" for the block's own output.
        count_prefix: whether the prefix tokens (class, distillation and register tokens) take part in the sums over
            tokens.
        stabiliser: see `grad_cam_plus_plus`.
        relu: whether negative relevance of a block's map is dropped, as in the paper.

    Raises:
        TypeError: an option of another type.
        ValueError: no such block, another place, or a stabiliser out of range.
    """

    name = "Grad-CAM++"
    reference = "arXiv:1710.11063, eq. 18-19, on tokens"

    def __init__(
        self,
        model: nn.Module,
        *,
        block: Block = -1,
        tokens: TokenPlace = "norm",
        count_prefix: bool = False,
        stabiliser: float = 0.0,
        relu: bool = False,
    ) -> None:
        super().__init__(model, block=block, tokens=tokens, relu=relu)
        self.count_prefix = checked_switch("count_prefix", count_prefix)
        self.stabiliser = checked_number("stabiliser", stabiliser, 0)

    def _block_map(self, tokens: Tensor, gradient: Tensor) -> Tensor:
        left_out = 0 if self.count_prefix else self.forward_func.num_prefix_tokens
        return grad_cam_plus_plus(
            tokens, gradient, num_prefix_tokens=left_out, stabiliser=self.stabiliser, relu=self.relu
        )
