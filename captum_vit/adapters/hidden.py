"""Hidden layers of large images, which a backward pass computes again instead of keeping them."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MANY_TOKENS", "HiddenLayers"]

MANY_TOKENS = 2048
"""Most tokens of an image whose hidden layers a graph keeps: 1024×1024 pixels in patches of 16 are 4096 patches."""

_AT_ONCE = 2
"""Linear layers that come before an activation: a gated MLP has two."""


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
        self._calls: deque[_LinearCall] = deque(maxlen=_AT_ONCE)

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``F.linear``, noted where it widens a tensor with a graph."""
        output = F.linear(inputs, weight, bias)
        with torch._C.DisableTorchFunction():  # other function modes watch the model, not this
            if output.requires_grad and output.numel() > inputs.numel():
                self._calls.append(_LinearCall(inputs, weight, bias, output))
        return output

    @contextmanager
    def forgotten(self) -> Iterator[None]:
        """Within this context, graphs keep the inputs of the calls that were noted.

        Raises:
            RuntimeError: in the backward pass, where a tensor that it needs was changed in place since.
        """
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._kept, _restored):
                yield
        finally:
            self._calls.clear()  # the graph holds the hooks, and with them this object

    def _kept(self, saved: Tensor) -> _LinearCall | _Kept:
        with torch._C.DisableTorchFunction():
            return next((call for call in self._calls if call.returned(saved)), None) or _Kept(saved)


class _Kept:
    """A tensor without its graph, which would hold itself, and the check that PyTorch leaves to saved-tensor hooks."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._version = tensor.detach(), tensor._version

    def restored(self) -> Tensor:
        """The tensor."""
        if self._tensor._version != self._version:
            raise RuntimeError(
                f"a tensor {tuple(self._tensor.shape)} that the gradient needs was modified by an in-place operation. "
                f"Of images with more than {MANY_TOKENS} tokens the inputs of the MLPs' first layers are needed, too."
            )
        return self._tensor


class _LinearCall:
    """A call of a linear layer, without what it returned."""

    def __init__(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor) -> None:
        self._given = _Kept(inputs), _Kept(weight)
        self._bias = None if bias is None else _Kept(bias)
        self._output, self._dtype = weakref.ref(output), output.dtype
        self._place = output.data_ptr(), output._version

    def returned(self, tensor: Tensor) -> bool:
        """Whether a tensor is what the call returned, as it was then."""
        output = self._output()
        if output is None or (tensor.data_ptr(), tensor._version) != self._place:
            return False
        return (tensor.shape, tensor.stride(), tensor.dtype) == (output.shape, output.stride(), self._dtype)

    def restored(self) -> Tensor:
        """What the call returned."""
        inputs, weight = (each.restored().to(self._dtype) for each in self._given)
        bias = None if self._bias is None else self._bias.restored().to(self._dtype)
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            return F.linear(inputs, weight, bias)


def _restored(kept: _LinearCall | _Kept) -> Tensor:
    return kept.restored()
