"""Masking of patches whose tokens have outlying norms: attention sinks that act as registers (Darcet et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from captum_vit.adapters.tokens import trace_tokens
from captum_vit.attr.base import ViTAttribution, only_tensor
from captum_vit.attr.options import checked_block, checked_choice, checked_number
from captum_vit.attr.wrapper import MethodWrapper

__all__ = ["MaskedSinks", "find_sinks", "replace_sinks"]

Replacement = Literal["zero", "mean", "minimum"]
_REPLACEMENTS: tuple[Replacement, ...] = get_args(Replacement)


def find_sinks(tokens: Tensor, *, factor: float = 3.0, threshold: float | None = None) -> Tensor:
    """The patch tokens that are longer than a threshold, or than a multiple of their image's median length.

    Args:
        tokens: patch tokens of one block, (B, n, D).
        factor: of the median over the n tokens of an image.
        threshold: a length, the same for all images; takes the place of ``factor``.

    Returns:
        (B, n), True for a sink.

    Example:
        >>> find_sinks(torch.tensor([[[3.0, 4.0], [0.0, 6.0], [30.0, 40.0]]]))  # lengths 5, 6, 50
        tensor([[False, False,  True]])
        >>> find_sinks(torch.tensor([[[3.0, 4.0], [0.0, 6.0], [30.0, 40.0]]]), threshold=5.5)
        tensor([[False,  True,  True]])

    References:
        arXiv:2309.16588, section 2.1, which takes a fixed length.
    """
    length = vector_norm(tokens, dim=-1)
    limit = factor * length.median(-1, keepdim=True).values if threshold is None else threshold
    sinks: Tensor = length > limit
    return sinks


def replace_sinks(relevance: Tensor, sinks: Tensor, replacement: Replacement = "zero") -> Tensor:
    """The relevance of sinks, replaced by zero, by their neighbours' mean or by the smallest value of the others.

    Args:
        relevance: maps (B, T, gh, gw).
        sinks: (B, gh, gw), True where relevance is replaced.
        replacement: "zero"; "mean" for the mean of those of the eight neighbours that are no sinks, and where all are,
            of the nearest ring that has another; or "minimum" over the patches of the map that are no sinks.

    Returns:
        (B, T, gh, gw).

    Raises:
        ValueError: another replacement; an image in which every patch is a sink, except for "zero".

    Example:
        >>> relevance, sinks = torch.tensor([[[[1.0, 9.0, 3.0]]]]), torch.tensor([[[False, True, False]]])
        >>> [replace_sinks(relevance, sinks, how)[0, 0, 0, 1].item() for how in ("zero", "mean", "minimum")]
        [0.0, 2.0, 1.0]
    """
    checked_choice("replacement", replacement, _REPLACEMENTS)
    masked = sinks[:, None]
    if replacement == "zero":
        return relevance.masked_fill(masked, 0.0)
    full = sinks.flatten(1).all(1)
    if full.any():
        images = ", ".join(map(str, full.nonzero().squeeze(1).tolist()))
        raise ValueError(f"sinks must leave a patch in each image, got none in image {images}. Raise the threshold.")
    if replacement == "minimum":
        lowest = relevance.masked_fill(masked, torch.inf).amin((2, 3), keepdim=True)
        return torch.where(masked, lowest, relevance)
    return _neighbour_means(relevance, masked)


def _neighbour_means(relevance: Tensor, masked: Tensor) -> Tensor:
    """Each masked value as the mean of the others in the smallest square around it that holds any."""
    others = (~masked).to(relevance.dtype)
    values, open_ = relevance * others, masked
    result = relevance
    for radius in range(1, max(relevance.shape[2:])):
        size = 2 * radius + 1
        count = F.avg_pool2d(others, size, 1, radius, divisor_override=1)
        total = F.avg_pool2d(values, size, 1, radius, divisor_override=1)
        found = open_ & (count > 0.5)
        result = torch.where(found, total / count.clamp(min=1), result)
        open_ = open_ & ~found
        if not open_.any():
            break
    return result


class MaskedSinks(MethodWrapper):
    """A wrapper around any method: patches whose tokens have outlying norms lose their relevance.

    Such tokens, on patches that hold little, serve the model as registers: it keeps global information there. Methods
    that follow attention to them show a bright spot where nothing is to be seen. `sinks` says which patches are masked.
    Of a method that explains pixels the map of patches is masked. Of other calls `LeGrad.attribute_blocks` alone gives
    such maps, and is passed on.

    Args:
        method: a method of this package.
        block: index of the block at whose output norms are read, negative from the last.
        factor: a sink is longer than this multiple of the median over its image's patches.
        threshold: a length instead, as the paper takes it for each model; then ``factor`` does not count.
        replacement: what takes the place of a sink's relevance: "zero", "mean" of its neighbours or "minimum" of the
            map (see `replace_sinks`).

    Raises:
        TypeError: no method of this package, or an option of another type.
        ValueError: no such block, a factor or threshold that is not positive, another replacement.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from captum_vit import RawAttention
        >>> model = VisionTransformer(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2).eval()
        >>> method = MaskedSinks(RawAttention(model), factor=1.2)
        >>> images = torch.rand(1, 3, 32, 32)
        >>> maps, sinks = method.attribute(images, resolution="patch"), method.sinks(images)
        >>> bool((maps[sinks] == 0).all())
        True
    """

    name = "Masked Sinks"
    passes = "those of the method, and 1 forward"
    needs = ()
    reference = "arXiv:2309.16588, section 2.1"

    def __init__(
        self,
        method: ViTAttribution,
        *,
        block: int = -1,
        factor: float = 3.0,
        threshold: float | None = None,
        replacement: Replacement = "zero",
    ) -> None:
        super().__init__(method)
        self.block = checked_block("block", block, len(self.forward_func.blocks))
        self.factor = checked_number("factor", factor, 0, above=True)
        self.threshold = None if threshold is None else checked_number("threshold", threshold, 0, above=True)
        self.replacement = checked_choice("replacement", replacement, _REPLACEMENTS)

    def sinks(self, inputs: Tensor | tuple[Tensor, ...], *, internal_batch_size: int | None = None) -> Tensor:
        """The patches whose relevance `attribute` replaces.

        Args:
            inputs: see `attribute`.
            internal_batch_size: see `attribute`.

        Returns:
            (B, 1, gh, gw), True for a sink.
        """
        images = only_tensor(inputs)
        found, _ = self._batched(
            images, lambda: torch.zeros(len(images), 1, dtype=torch.long), internal_batch_size, self._found
        )
        folded: Tensor = found.unflatten(-1, self.forward_func.grid(*images.shape[-2:]))
        return folded

    def _found(self, images: Tensor, targets: Tensor) -> Tensor:
        """Sinks among the patch tokens, (B, 1, gh·gw)."""
        _, (record,) = trace_tokens(self.forward_func, images, [self.block], place="block")
        tokens = record.tokens[:, self.forward_func.num_prefix_tokens :]
        return find_sinks(tokens, factor=self.factor, threshold=self.threshold)[:, None]

    def _maps(
        self,
        images: Tensor,
        resolve: Callable[[], Tensor],
        internal_batch_size: int | None,
        relevance_of: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        folded: bool = True,
    ) -> Tensor:
        """The method's own maps (B, T, 1, gh, gw) without sinks."""
        return self._masked(
            self._inside()._maps(images, resolve, internal_batch_size, relevance_of), images, internal_batch_size
        )

    def _passed_on(self, name: str) -> Callable[..., Any]:
        if name != "attribute_blocks":
            raise self._refused(name, "it masks maps on the patch grid, and that call gives none")
        call = super()._passed_on(name)

        @wraps(call)
        def masked(
            inputs: Tensor | tuple[Tensor, ...], *args: Any, internal_batch_size: int | None = None, **kwargs: Any
        ) -> Tensor:
            maps = call(inputs, *args, internal_batch_size=internal_batch_size, **kwargs)
            return self._masked(maps, only_tensor(inputs), internal_batch_size)

        return masked

    def _masked(self, maps: Tensor, images: Tensor, internal_batch_size: int | None) -> Tensor:
        """Maps (B, T, 1, gh, gw) without the relevance of sinks."""
        sinks = self.sinks(images, internal_batch_size=internal_batch_size)[:, 0]
        replaced: Tensor = replace_sinks(maps[:, :, 0], sinks, self.replacement)[:, :, None]
        self._refuse_blank(replaced)
        return replaced

    def _why_blank(self) -> str:
        return f"every patch with relevance in the map of {self.method.get_name()} is a sink. Raise factor or threshold"
