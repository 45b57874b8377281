"""Hidden layers of large images, which a backward pass computes again instead of keeping them."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MANY_TOKENS", "HiddenLayers"]

MANY_TOKENS = 2048
"""Tokens of an image from which a graph keeps no hidden layer: 1024×1024 pixels in patches of 16 are 4096 patches."""


class HiddenLayers:
    """Lets a graph keep the inputs of widening linear layers in place of what they return.

    That is four times narrower in an MLP, and nothing else changes: where the backward pass asks for what an activation
    was given, the layer runs once more, with the same result.

    Example:
        >>> hidden = HiddenLayers()
        >>> x, weight = torch.randn(5, 2, requires_grad=True), torch.randn(8, 2)
        >>> with hidden.forgotten():
        ...     output = F.gelu(hidden.linear(x, weight))
        >>> torch.autograd.grad(output.sum(), x)[0].equal(torch.autograd.grad(F.gelu(x @ weight.T).sum(), x)[0])
        True
    """

    def __init__(self) -> None:
        self._calls: list[_LinearCall] = []

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``F.linear``, noted where it widens a tensor with a graph."""
        output = F.linear(inputs, weight, bias)
        self._calls = [call for call in self._calls if call.output() is not None]
        if output.requires_grad and output.numel() > inputs.numel():
            given = (inputs.detach(), weight.detach(), None if bias is None else bias.detach())
            self._calls.append(_LinearCall(*given, inputs._version, weakref.ref(output), output.dtype, output._version))
        return output

    def forgotten(self) -> AbstractContextManager[None]:
        """Within this context, graphs keep the inputs of the calls that were noted.

        Raises:
            RuntimeError: in the backward pass, where the inputs were changed in place after the call.
        """
        return torch.autograd.graph.saved_tensors_hooks(self._kept, _restored)

    def _kept(self, saved: Tensor) -> _LinearCall | Tensor:
        return next((call for call in self._calls if call.returned(saved)), saved)


@dataclass(frozen=True, eq=False)
class _LinearCall:
    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    inputs_version: int
    output: weakref.ref[Tensor]
    output_dtype: torch.dtype
    output_version: int

    def returned(self, tensor: Tensor) -> bool:
        """Whether a tensor is what the call returned, as it was then."""
        output = self.output()
        if output is None or tensor.data_ptr() != output.data_ptr() or tensor._version != self.output_version:
            return False
        return (tensor.shape, tensor.stride(), tensor.dtype) == (output.shape, output.stride(), output.dtype)

    def again(self) -> Tensor:
        """What the call returned."""
        if self.inputs._version != self.inputs_version:
            raise RuntimeError("the model changes the inputs of a linear layer in place, and they are needed again.")
        dtype, bias = self.output_dtype, self.bias
        with torch.no_grad(), torch.autocast(self.inputs.device.type, enabled=False):
            return F.linear(self.inputs.to(dtype), self.weight.to(dtype), None if bias is None else bias.to(dtype))


def _restored(kept: _LinearCall | Tensor) -> Tensor:
    return kept if isinstance(kept, Tensor) else kept.again()
