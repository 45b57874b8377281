"""Grad-CAM on tokens (Selvaraju et al. 2017, adapted to vision transformers by Bousselham et al. 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from captum_vit.adapters.tokens import TokenPlace
from captum_vit.attr.options import checked_switch
from captum_vit.attr.token_cam import Block, TokenCAM

__all__ = ["GradCAM", "grad_cam"]


def grad_cam(tokens: Tensor, gradient: Tensor, *, num_prefix_tokens: int = 0, relu: bool = False) -> Tensor:
    """Weights each dimension of the tokens by its mean gradient: ``r_i = Σ_k w_k z_ik``, ``w_k = mean_i ∂s/∂z_ik``.

    Args:
        tokens: tokens z of one block, (B, N, D).
        gradient: gradient of the target's logit with respect to them, (B, N, D).
        num_prefix_tokens: first tokens that take no part in the mean; 1 leaves a class token out.
        relu: whether negative relevance is dropped.

    Returns:
        Relevance of each token, (B, N).

    Example:
        >>> import torch
        >>> tokens = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]]])
        >>> gradient = torch.tensor([[[9.0, 0.0], [1.0, 0.0], [2.0, -2.0]]])
        >>> grad_cam(tokens, gradient)  # w = (4, -⅔)
        tensor([[ 4.0000,  7.3333, -2.0000]])
        >>> grad_cam(tokens, gradient, num_prefix_tokens=1, relu=True)  # w = (1½, -1)
        tensor([[1.5000, 2.0000, 0.0000]])

    References:
        arXiv:1610.02391, eq. 1-2; arXiv:2404.03214, eq. 10, which divides by the number of patches and by D: that
        rescales the map only.
    """
    weights = gradient[:, num_prefix_tokens:].mean(1, keepdim=True)  # (B, 1, D)
    relevance = (weights * tokens).sum(-1)
    return relevance.clamp(min=0) if relu else relevance


class GradCAM(TokenCAM):
    """The tokens of a block, each of their dimensions weighted by the mean gradient of the target.

    Args:
        model: see `ViTAttribution`.
        block: index of the block, negative from the last, or "all" for the mean of the maps of all blocks.
        tokens: "norm" for the output of the block's first norm, "block" for the block's own output.
        count_prefix: whether the prefix tokens (class, distillation and register tokens) take part in the mean of the
            gradient.
        relu: whether negative relevance of a block's map is dropped, as in the paper.

    Raises:
        TypeError: an option of another type.
        ValueError: no such block, or another place.
    """

    name = "Grad-CAM"
    reference = "arXiv:1610.02391, eq. 1-2, on tokens as in arXiv:2404.03214, eq. 10"

    def __init__(
        self,
        model: nn.Module,
        *,
        block: Block = -1,
        tokens: TokenPlace = "norm",
        count_prefix: bool = False,
        relu: bool = False,
    ) -> None:
        super().__init__(model, block=block, tokens=tokens, relu=relu)
        self.count_prefix = checked_switch("count_prefix", count_prefix)

    def _block_map(self, tokens: Tensor, gradient: Tensor) -> Tensor:
        left_out = 0 if self.count_prefix else self.forward_func.num_prefix_tokens
        return grad_cam(tokens, gradient, num_prefix_tokens=left_out, relu=self.relu)
