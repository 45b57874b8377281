"""Vector-Jacobian products of several targets from one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

__all__ = ["SavedDerivative", "vector_jacobian_products"]


def vector_jacobian_products(
    outputs: Sequence[Tensor], gradients: Sequence[Tensor], tensor: Tensor, *, retain_graph: bool = True
) -> Tensor | None:
    """For T targets at once, the gradient at a tensor that follows from the gradients at some outputs of its graph.

    The T products are one backward pass of T times the work. Where the graph holds an `autograd.Function` of the user's
    (a module's full backward hook is one too), they are T passes one after another, because its ``backward`` may not
    take a batch more.

    Args:
        outputs: tensors whose graph leads to ``tensor``.
        gradients: for each output its T gradients, (T, *output.shape).
        tensor: where the gradients are asked for.
        retain_graph: False frees the graph.

    Returns:
        (T, *tensor.shape), or None where no output depends on the tensor.
    """
    rows = len(gradients[0])
    if rows > 1 and not _has_python_backward(outputs):
        (found,) = torch.autograd.grad(
            outputs, [tensor], gradients, retain_graph=retain_graph, allow_unused=True, is_grads_batched=True
        )
        return found
    each: list[Tensor] = []
    for row in range(rows):
        (found,) = torch.autograd.grad(
            outputs,
            [tensor],
            [gradient[row] for gradient in gradients],
            retain_graph=retain_graph or row + 1 < rows,
            allow_unused=True,
        )
        if found is None:
            return None
        each.append(found)
    return each[0][None] if rows == 1 else torch.stack(each)


def _has_python_backward(outputs: Sequence[Tensor]) -> bool:
    """Whether an `autograd.Function` written in Python is in the graph of the outputs."""
    seen, ahead = set(), [output.grad_fn for output in outputs]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, BackwardCFunction) and not isinstance(node, SavedDerivative._backward_cls):
            return True
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
    return False


class SavedDerivative(torch.autograd.Function):
    """An activation whose derivative is computed once for all gradients that are sent through it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """``function(inputs)``, for a function that treats each number by itself."""
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            output = function(leaf)
        ctx.save_for_backward(*torch.autograd.grad(output, leaf, torch.ones_like(output)))
        return output.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (derivative,) = ctx.saved_tensors
        return gradients[0] * derivative, None
