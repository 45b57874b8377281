"""ViT-ReciproCAM: what the model still sees when one patch token is left (Byun & Lee 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captum_vit.adapters.entries import replaced_output, watch_entries
from captum_vit.adapters.tokens import trace_tokens
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.needs import Need
from captum_vit.attr.options import checked_block, checked_integer, checked_switch
from captum_vit.attr.perturbed import perturbed_scores

__all__ = ["ReciproCAM", "reciprocal_masks"]


def reciprocal_masks(grid: tuple[int, int], *, gaussian: bool = True) -> Tensor:
    """One mask for each patch: what of every patch token is left.

    Args:
        grid: (gh, gw).
        gaussian: whether the eight neighbours are left in part: ¼ of the patch itself, ⅛ of those beside, above and
            below it, 1/16 of those at its corners. Beyond the border there is nothing. False leaves the patch alone.

    Returns:
        (gh·gw, gh·gw): a row for each mask, a column for each patch token.

    Example:
        >>> reciprocal_masks((1, 3))
        tensor([[0.2500, 0.1250, 0.0000],
                [0.1250, 0.2500, 0.1250],
                [0.0000, 0.1250, 0.2500]])
        >>> reciprocal_masks((1, 2), gaussian=False)
        tensor([[1., 0.],
                [0., 1.]])

    References:
        arXiv:2310.02588; the weights are those of Intel's implementation (OpenVINO XAI).
    """
    if not gaussian:
        return torch.eye(grid[0] * grid[1])
    rows, columns = (_binomial(side) for side in grid)
    return torch.kron(rows, columns)


def _binomial(side: int) -> Tensor:
    """Weights ¼, ½, ¼ around each place of a line, (side, side)."""
    near = torch.ones(side - 1) / 4
    return torch.eye(side) / 2 + torch.diag(near, 1) + torch.diag(near, -1)


class ReciproCAM(ViTAttribution):
    """The target's logit when a late block is left with the tokens around one patch only, without gradients.

    The masks act on the tokens that enter the block, in its skip connection, and on the output of its first norm. The
    same with every patch token masked is subtracted, so that a patch that changes nothing has no relevance.

    Args:
        model: see `ViTAttribution`.
        block: index of the block, negative from the last.
        gaussian: see `reciprocal_masks`.
        keep_prefix: whether the prefix tokens (class, distillation and register tokens) are kept; False masks them.
        masks_per_batch: how many masks, of all images together, run at a time.

    Raises:
        TypeError: an option of another type, or a model whose block has no first norm.
        ValueError: no such block, or no mask at a time.
    """

    name = "ViT-ReciproCAM"
    class_specific = True
    signed = True
    passes = "1 forward + the last block once a patch"
    memory = "no graph; 64 copies in one block"
    needs = (Need.FIRST_NORM, Need.CHAIN)
    reference = "arXiv:2310.02588"

    def __init__(
        self,
        model: nn.Module,
        *,
        block: int = -1,
        gaussian: bool = True,
        keep_prefix: bool = True,
        masks_per_batch: int = 64,
    ) -> None:
        super().__init__(model)
        self.block = checked_block("block", block, len(self.forward_func.blocks))
        try:
            self.forward_func.block_norm(self.block)
        except ValueError as error:
            raise TypeError(
                f"{self.name} masks the output of a block's first norm, but block {self.block} "
                f"({self.forward_func.block_name(self.block)}) of {self.forward_func.family} has no module "
                f"{self.forward_func.first_norm!r}. Set first_norm in the adapter."
            ) from error
        self.gaussian = checked_switch("gaussian", gaussian)
        self.keep_prefix = checked_switch("keep_prefix", keep_prefix)
        self.masks_per_batch = checked_integer("masks_per_batch", masks_per_batch, 1)

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        adapter = self.forward_func
        with watch_entries(adapter, self.block) as entries:
            logits, (record,) = trace_tokens(adapter, images, [self.block])
        entries.check(self.block, logits.detach())
        entering, normed = entries.tokens[self.block], record.arrange(record.output).detach()  # (B, N, D)
        masks = self._masks(adapter.grid(*images.shape[-2:])).to(entering.device)

        def run(image: Tensor, mask: Tensor) -> Tensor:
            left = masks[mask, :, None]  # (R, N, 1)
            masked = record.arrange(normed[image] * left.to(normed.dtype))
            with replaced_output(adapter.block_norm(self.block), masked):
                return entries.resume(entering[image] * left.to(entering.dtype), self.block)

        scores = perturbed_scores(targets, len(masks), self.masks_per_batch, run)  # (B, T, gh·gw + 1)
        return scores[..., :-1] - scores[..., -1:]

    def _masks(self, grid: tuple[int, int]) -> Tensor:
        """What is left of every token, (gh·gw + 1, N); the last mask leaves no patch token."""
        patches = reciprocal_masks(grid, gaussian=self.gaussian)
        patches = torch.cat([patches, torch.zeros_like(patches[:1])])
        prefix = torch.full((len(patches), self.forward_func.num_prefix_tokens), float(self.keep_prefix))
        return torch.cat([prefix, patches], 1)

    def _why_blank(self) -> str:
        return (
            f"no patch token that is left in block {self.block} moves the target's logit. A head whose weights are "
            "zero does that, and so does an output that no token changes"
        )
