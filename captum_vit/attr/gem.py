"""GEM: patches grouped by self-self attention, beside the model's own path (Bousselham et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from captum_vit.adapters.attention import AttentionRecord
from captum_vit.adapters.branch import InDtype
from captum_vit.adapters.capture import stream_blocks
from captum_vit.adapters.prompts import PromptClassifier
from captum_vit.attr.base import ViTAttribution
from captum_vit.attr.needs import Need
from captum_vit.attr.options import checked_integer, checked_number

__all__ = ["GEM", "Projection", "self_self_attention"]

Projection = Literal["query", "key", "value"]

_NUM_BLOCKS = 6


def self_self_attention(
    projections: Sequence[Tensor], value: Tensor, temperature: Tensor | float, *, iterations: int = 1
) -> Tensor:
    """Lets tokens attend to those that resemble them: the mean over p of ``softmax(p pᵀ / τ) V``.

    Before the values are read, each p is itself replaced by ``softmax(p pᵀ / τ) p``, ``iterations`` times; p has unit
    length in each step.

    Args:
        projections: p, each (B, h, N, d): queries, keys and values in the paper.
        value: V, (B, h, N, d).
        temperature: τ above 0, one number or one per image (B,).
        iterations: at least 0.

    Returns:
        (B, h, N, d).

    Raises:
        ValueError: no projection, or a number of iterations below 0.

    Example:
        >>> tokens = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
        >>> self_self_attention([tokens], torch.tensor([[[[0.0], [1.0]]]]), 0.1, iterations=0)  # p pᵀ = I
        tensor([[[[4.5398e-05],
                  [9.9995e-01]]]])

    References:
        arXiv:2312.00878, section 4.
    """
    checked_integer("iterations", iterations, 0)
    if not projections:
        raise ValueError("projections must hold at least one tensor, got none.")
    tau = torch.as_tensor(temperature, dtype=value.dtype, device=value.device).reshape(-1, 1, 1, 1)
    outputs = []
    for each in projections:
        unit = F.normalize(each, dim=-1)
        for _ in range(iterations):
            unit = F.normalize(F.scaled_dot_product_attention(unit / tau, unit, unit, scale=1.0), dim=-1)
        outputs.append(F.scaled_dot_product_attention(unit / tau, unit, value, scale=1.0))
    return torch.stack(outputs).mean(0)


def _checked_projections(projections: Sequence[Projection]) -> tuple[Projection, ...]:
    known: tuple[Projection, ...] = get_args(Projection)
    if not isinstance(projections, (list, tuple)) or not projections or any(each not in known for each in projections):
        raise ValueError(f"projections must be a list of some of {', '.join(map(repr, known))}, got {projections!r}.")
    return tuple(projections)


class GEM(ViTAttribution):
    """The target's logit at each patch token of a second path, in which alike tokens attend to each other.

    The path leaves the model's tokens before the last ``num_blocks`` blocks. In each of them the self-self attention of
    the model's own queries, keys and values, through the block's own projection, is added to it; the MLPs are left out.
    The model's tail reads each of its tokens alone. Nothing is differentiated, and the model's own pass is not changed.

    Args:
        model: one whose blocks add projected attention to their tokens (pre-norm); two-tower models in the paper.
        num_blocks: the last blocks that take part; 6, as the authors' package, or all of fewer by default.
        iterations: how often the projections attend to themselves before they read the values.
        temperature: τ of the softmax; None adapts it to each image and block: √d over the mean length of the tokens
            that queries, keys and values are projected from.
        projections: which of "query", "key" and "value" attend to themselves; the mean is taken.

    Raises:
        TypeError: blocks of another kind, or an option of another type.
        ValueError: an option outside its range.
    """

    name = "GEM"
    class_specific = True
    signed = True
    passes = "1 forward"
    memory = "one attention, no graph"
    needs = (Need.FUSED_ATTENTION, Need.PRE_NORM)
    reference = "arXiv:2312.00878, section 4"

    def __init__(
        self,
        model: nn.Module,
        *,
        num_blocks: int | None = None,
        iterations: int = 1,
        temperature: float | None = None,
        projections: Sequence[Projection] = ("query", "key", "value"),
    ) -> None:
        super().__init__(model)
        depth = len(self.forward_func.blocks)
        taken = min(_NUM_BLOCKS, depth) if num_blocks is None else checked_integer("num_blocks", num_blocks, 1, depth)
        self.blocks = range(depth - taken, depth)
        self.iterations = checked_integer("iterations", iterations, 0)
        self.temperature = None if temperature is None else checked_number("temperature", temperature, 0, above=True)
        self.projections = _checked_projections(projections)
        for index in self.blocks:
            self.forward_func.attention_branch(index)

    @property
    def num_blocks(self) -> int:
        """The last blocks that take part."""
        return len(self.blocks)

    def _resolved_defaults(self) -> dict[str, Any]:
        return {"num_blocks": min(_NUM_BLOCKS, len(self.forward_func.blocks))}

    def _relevance(self, images: Tensor, targets: Tensor) -> Tensor:
        logits = self._logits(self._path(images))  # (B, N, K)
        index = targets[:, None].expand(-1, logits.shape[1], -1)
        return logits.gather(2, index).transpose(1, 2)  # (B, T, N)

    def _path(self, images: Tensor) -> Tensor:
        """The tokens at the end of the second path, (B, N, D)."""
        adapter = self.forward_func
        path: list[Tensor] = []
        entered: list[Tensor] = []

        def begin(index: int, tokens: Tensor) -> None:
            entered[:] = [tokens]

        def visit(index: int, record: AttentionRecord, _: Tensor) -> None:
            record = record.detached()
            dtype = record.query.dtype
            branch = adapter.attention_branch(index)
            with torch.autocast(images.device.type, enabled=False):
                tokens = entered[0].to(dtype)
                temperature = self.temperature or self._adapted(branch.norm, tokens, record)
                heads = self_self_attention(
                    [getattr(record, each) for each in self.projections],
                    record.value,
                    temperature,
                    iterations=self.iterations,
                )
                path[:] = [(path[0] if path else tokens) + branch(heads)]

        stream_blocks(adapter, images, visit, self.blocks, gradients=False, begin=begin)
        return path[0]

    def _adapted(self, norm: nn.Module, tokens: Tensor, record: AttentionRecord) -> Tensor:
        """τ of each image, (B,)."""
        with InDtype(tokens.dtype):
            lengths: Tensor = vector_norm(norm(tokens), dim=-1)  # (B, N)
        temperature: Tensor = record.query.shape[-1] ** 0.5 / lengths.mean(1)
        return temperature

    def _logits(self, tokens: Tensor) -> Tensor:
        """The answers of the model's tail to each token, (B, N, K), without what it answers to every token."""
        adapter = self.forward_func.own
        with torch.autocast(tokens.device.type, enabled=False), InDtype(tokens.dtype):
            if isinstance(adapter, PromptClassifier):
                return adapter.similarity(adapter.tower.readout_of_each(tokens))  # without the bias
            nothing = torch.zeros_like(tokens[:1, :1])
            logits: Tensor = adapter.readout_of_each(tokens) - adapter.readout_of_each(nothing, final_norm=False)
        return logits

    def _why_blank(self) -> str:
        return "the target's row of the head, or the prompt's embedding, is zero"
