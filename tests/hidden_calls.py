"""Activations whose calls PyTorch shows to no function mode, and what each is in plain sight."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Hidden(torch.autograd.Function):
    """GELU, with its own gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            (derivative,) = torch.autograd.grad(F.gelu(x).sum(), x)
        return gradient * derivative


class HiddenInPlace(Hidden):
    """The same, written over its input."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.clone())
        ctx.mark_dirty(x)
        return x.copy_(F.gelu(x.clone()))


class HiddenWriter(Hidden):
    """The same, written over its input without a word of it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.clone())
        return x.copy_(F.gelu(x.clone())).clone()


class Applied(nn.Module):
    """Applies a function, and something seen behind it."""

    def __init__(self, function: Callable[[Tensor], Tensor], behind: bool = False) -> None:
        super().__init__()
        self.function, self.behind = function, behind

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) * 1.0 if self.behind else self.function(x)


class HiddenGELU(nn.Module):
    """GELU times a parameter, as an ``autograd.Function``."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        return Hidden.apply(x) * self.slope


class PlainGELU(HiddenGELU):
    """The same, in plain sight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) * self.slope


class HiddenLayer(nn.Module):
    """A linear layer and GELU, out of sight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return Hidden.apply(self.layer(x))


class Beside(nn.Module):
    """Adds what another module makes to what it was given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x


class InPlaceGELU(nn.Module):
    """Writes over its input, out of sight."""

    def __init__(self, function: type[Hidden] = HiddenInPlace) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


class Named(nn.Module):
    """Calls another module with its argument's name."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x=x)


class Before(Named):
    """Calls what is not seen, and then another module."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(unwatched(x))


def scripted() -> Callable[[Tensor], Tensor]:
    """GELU as a scripted function."""

    def gelu(x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(x)

    return torch.jit.script(gelu)


def scripted_module() -> nn.Module:
    """GELU as a scripted module."""
    return torch.jit.script(nn.GELU()).eval()


def unwatched(x: Tensor) -> Tensor:
    """GELU in a block that function modes don't see, as a function of C++ would call it."""
    with torch._C.DisableTorchFunction():
        return F.gelu(x)


HIDDEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "autograd.Function": (lambda: Applied(Hidden.apply), r"the autograd\.Function \S*hidden_calls\.Hidden"),
    "autograd.Function before a call": (lambda: Applied(Hidden.apply, True), r"the autograd\.Function .*Hidden"),
    "scripted function": (lambda: Applied(scripted()), "scripted or C"),
    "unwatched": (lambda: Applied(unwatched), r"scripted or C\+\+ code \(its gradient: GeluBackward0\)"),
    "unwatched before views": (lambda: Applied(lambda x: unwatched(x).mT.mT), r"its gradient: GeluBackward0"),
    "unwatched before a call": (lambda: Applied(unwatched, True), r"its gradient: GeluBackward0"),
    "scripted module": (scripted_module, "scripted code"),
}
"""Name → an activation, and what a message says of it."""
