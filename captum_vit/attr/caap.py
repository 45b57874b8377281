"""CAAP: causal attribution via activation patching (Izadi et al. 2026)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from captum_vit.adapters.capture import checked_logits
from captum_vit.adapters.entries import BlockEntries, watch_entries
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.needs import Need
from captum_vit.attr.options import checked_blocks, checked_choice, checked_integer, checked_number
from captum_vit.attr.perturbed import perturbed_scores

__all__ = ["CAAP", "neighbourhoods"]

Direction = Literal["insert", "remove"]


def neighbourhoods(grid: tuple[int, int], radius: int = 0) -> Tensor:
    """The region of each patch: the square of ``2 radius + 1`` patches a side around it, cut at the border.

    Args:
        grid: (gh, gw).
        radius: in patches, at least 0.

    Returns:
        (gh·gw, gh·gw), boolean: a row for each region, a column for each patch.

    Example:
        >>> neighbourhoods((1, 4), radius=1).int()
        tensor([[1, 1, 0, 0],
                [1, 1, 1, 0],
                [0, 1, 1, 1],
                [0, 0, 1, 1]], dtype=torch.int32)
    """
    rows, columns = (torch.arange(side) for side in grid)
    near = [(each[:, None] - each).abs() <= radius for each in (rows, columns)]
    return torch.kron(near[0].int(), near[1].int()).bool()


class CAAP(ViTAttribution):
    """How the target's logit moves when a patch's inner tokens are patched into the run of a neutral image.

    In some middle blocks, the patch tokens of a region that enter each block are replaced by those of the image, while
    everything else goes on from the neutral image (``direction="insert"``), or the other way round ("remove").
    Blocks before the first of them run once for all regions.

    Args:
        model: see `ViTAttribution`.
        blocks: indices of the blocks at whose entry tokens are replaced, negative from the last; the middle third by
            default, ``range(4, 8)`` of 12.
        baseline: the neutral image: a number for all of it, or a tensor (C, H, W), in the units of preprocessed images.
        direction: "insert" puts the image's tokens into the neutral run and takes the gain; "remove" puts neutral
            tokens into the image's run and takes the loss.
        radius: see `neighbourhoods`; 0 patches one token at a time.
        masks_per_batch: how many regions, of all images together, run at a time.

    Raises:
        TypeError: blocks that are no list of integers, or an option of another type.
        ValueError: an option outside its range.
    """

    name = "CAAP"
    class_specific = True
    signed = True
    passes = "1 forward of the image and of the baseline + the blocks from the middle on once a patch"
    memory = "no graph; 64 copies in one block"
    needs = (Need.CHAIN,)
    reference = "arXiv:2603.13652, abstract"

    def __init__(
        self,
        model: nn.Module,
        *,
        blocks: Sequence[int] | None = None,
        baseline: float | Tensor = 0.0,
        direction: Direction = "insert",
        radius: int = 0,
        masks_per_batch: int = 64,
    ) -> None:
        super().__init__(model)
        depth = len(self.forward_func.blocks)
        self.blocks = checked_blocks("blocks", _middle_third(depth) if blocks is None else blocks, depth)
        self.baseline = _checked_baseline(baseline)
        self.direction: Direction = checked_choice("direction", direction, get_args(Direction))
        self.radius = checked_integer("radius", radius, 0)
        self.masks_per_batch = checked_integer("masks_per_batch", masks_per_batch, 1)

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        adapter = self.forward_func
        clean, clean_logits = self._run(images)
        clean.check(self.blocks[0], clean_logits)
        neutral, neutral_logits = self._run(self._neutral(images))
        regions = neighbourhoods(adapter.grid(*images.shape[-2:]), self.radius).to(images.device)
        regions = torch.cat([regions.new_zeros(len(regions), adapter.num_prefix_tokens), regions], 1)  # (gh·gw, N)
        inserts = self.direction == "insert"
        source, host = (clean, neutral) if inserts else (neutral, clean)
        start = self.blocks[0]

        def run(image: Tensor, region: Tensor) -> Tensor:
            def patched(index: int, tokens: Tensor) -> Tensor:
                if index not in self.blocks:
                    return tokens
                return torch.where(regions[region, :, None], source.tokens[index][image], tokens)

            return host.resume(host.tokens[start][image], start, patched)

        scores = perturbed_scores(targets, len(regions), self.masks_per_batch, run)  # (B, T, gh·gw)
        unpatched = (neutral_logits if inserts else clean_logits).to(scores.dtype).gather(1, targets)[..., None]
        return scores - unpatched if inserts else unpatched - scores

    def _resolved_defaults(self) -> dict[str, Any]:
        return {"blocks": list(_middle_third(len(self.forward_func.blocks)))}

    def _run(self, images: Tensor) -> tuple[BlockEntries, Tensor]:
        adapter = self.forward_func
        with watch_entries(adapter, self.blocks[0]) as entries:
            return entries, checked_logits(adapter, adapter(images))

    def _neutral(self, images: Tensor) -> Tensor:
        """The baseline for each image, (B, C, H, W)."""
        shape = self.baseline.shape
        if shape not in (torch.Size(), images.shape[1:]):
            raise ValueError(f"baseline must be a number or {tuple(images.shape[1:])}, got shape {tuple(shape)}.")
        return self.baseline.to(images.device, images.dtype).expand_as(images)

    def _why_blank(self) -> str:
        return (
            "no patched token moves the target's logit. A head whose weights are zero does that, an output that no "
            "token changes, and an image that is the baseline itself"
        )


def _middle_third(depth: int) -> range:
    """The blocks of the middle third, one at least."""
    return range(depth // 3, max(depth // 3 + 1, 2 * depth // 3))


def _checked_baseline(baseline: float | Tensor) -> Tensor:
    """The neutral image, or a tensor without dimensions."""
    if not isinstance(baseline, Tensor):
        return torch.as_tensor(checked_number("baseline", baseline))
    if not baseline.isfinite().all():
        raise ValueError("baseline must be finite, got NaN or infinity in it.")
    return baseline.detach()
