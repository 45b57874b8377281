"""The end of one block, from its attention output to its tokens, for gradients of the mean of all tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_vit.adapters.attention import AttentionRecord
from captum_vit.adapters.vjp import vector_jacobian_products

__all__ = ["BlockTail", "LinearCall", "LinearCut"]

TARGETS_BYTES = 64 * 2**20
CPU_TARGETS_BYTES = 24 * 2**20
"""Most memory in bytes of the widest gradient of targets that go through a block together."""


@dataclass(frozen=True, eq=False)
class LinearCall:
    """One call of ``F.linear`` whose output starts a graph of its own.

    Attributes:
        inputs: (…, H), with the graph that led to them.
        weight: (D, H).
        output: (…, D), the leaf that the model went on with a copy of.
    """

    inputs: Tensor
    weight: Tensor
    output: Tensor

    def pulled_back(self, gradients: Tensor) -> Tensor:
        """The gradients at the inputs, (T, …, H), for T gradients at the output, (T, …, D).

        Along dimensions in which the gradients repeat themselves, one product serves all: the tokens' when their mean
        is differentiated and only sums and factors of each dimension lie between.
        """
        distinct = gradients
        for dim in range(1, gradients.ndim - 1):
            if _repeats(distinct, dim):
                distinct = distinct.narrow(dim, 0, 1)
        weight = self.weight.to(distinct.dtype)
        with torch.autocast(weight.device.type, enabled=False):
            product = distinct.reshape(-1, len(weight)) @ weight
        return product.to(self.inputs.dtype).view(*distinct.shape[:-1], -1).expand(*gradients.shape[:-1], -1)


def _repeats(tensor: Tensor, dim: int) -> bool:
    """Whether all slices of a dimension are equal."""
    first = tensor.narrow(dim, 0, 1)
    if tensor.stride(dim) == 0 or tensor.shape[dim] == 1:
        return True
    return torch.equal(first, tensor.narrow(dim, -1, 1)) and torch.equal(first.expand_as(tensor), tensor)


class LinearCut:
    """Cuts the graph at the calls of one linear layer.

    Args:
        weight: the layer's parameter; the calls of ``F.linear`` with this very tensor are cut. None cuts nothing.

    Attributes:
        calls: in their order.
    """

    def __init__(self, weight: Tensor | None) -> None:
        self.calls: list[LinearCall] = []
        self._weight = weight

    def takes(self, args: tuple[Any, ...]) -> bool:
        """Whether a call with these arguments is to be cut: that of the layer, on inputs that carry a graph."""
        return self._weight is not None and len(args) > 1 and args[1] is self._weight and args[0].requires_grad

    def __call__(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What the layer returns, (…, D), with a graph that begins there."""
        weight = weight.detach()
        output = F.linear(inputs.detach(), weight, None if bias is None else bias.detach()).requires_grad_()
        self.calls.append(LinearCall(inputs, weight, output))
        return output.clone()  # the model may change it in place, a leaf may not be


@dataclass(frozen=True, eq=False)
class BlockTail:
    """What one block does to its attention output.

    Attributes:
        record: the block's attention call; its output begins the graph.
        tokens: the block's output, (B, N, D), with the graph from ``record.output`` and from the output of each call.
        calls: the linear calls at which that graph is cut, in their order.
    """

    record: AttentionRecord
    tokens: Tensor
    calls: Sequence[LinearCall] = ()

    def attention_gradients(self, at_mean: Tensor, *, targets_per_batch: int | None = None) -> Iterator[Tensor]:
        """For each of T targets in turn, the gradient at the attention output, (B, h, N, d).

        Targets go through the block together. The graph is freed with the last of them.

        Args:
            at_mean: the gradient of each target's score at the mean of all tokens, (T, B, D).
            targets_per_batch: how many; by default as many as keep their widest gradient under `TARGETS_BYTES` (on a
                CPU under `CPU_TARGETS_BYTES`), at least one.

        Raises:
            RuntimeError: the tokens carry no graph, or none from the attention output.
        """
        if not self.tokens.requires_grad:
            raise RuntimeError("gradients do not reach the attention maps: the model detaches its tokens (.detach()).")
        per_token = (at_mean / self.tokens.shape[1])[:, :, None]  # (T, B, 1, D)
        chunks = per_token.split(targets_per_batch or self._targets_at_once(len(per_token)))
        for number, chunk in enumerate(chunks):
            yield from self._pulled_back(chunk.expand(-1, *self.tokens.shape), last=number + 1 == len(chunks))

    def _targets_at_once(self, count: int) -> int:
        """How many of ``count`` targets make one pass, so that passes are about equally large."""
        widest = max([self.tokens, *(call.inputs for call in self.calls)], key=lambda each: each.numel())
        limit = CPU_TARGETS_BYTES if widest.device.type == "cpu" else TARGETS_BYTES
        passes = math.ceil(count / max(1, limit // (widest.numel() * widest.dtype.itemsize)))
        return math.ceil(count / passes)

    def _pulled_back(self, at_tokens: Tensor, *, last: bool) -> Tensor:
        """The gradients at the attention output, (T, B, h, N, d), for those at the tokens, (T, B, N, D)."""
        outputs, gradients = [self.tokens], [at_tokens]
        for call in reversed(self.calls):
            at_output = vector_jacobian_products(outputs, gradients, call.output)
            if at_output is not None:
                outputs.append(call.inputs)
                gradients.append(call.pulled_back(at_output))
        found = vector_jacobian_products(outputs, gradients, self.record.output, retain_graph=not last)
        if found is None:
            raise RuntimeError("gradients do not reach the attention maps: the model detaches its tokens (.detach()).")
        return found
