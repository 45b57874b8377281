"""A device without float64, played by the CPU: tensors say that they lie on it, and may not meet the host's.

What runs here has no float64 tensor on its device, makes new tensors where its inputs are, and brings to the host what
it computes there. That is what Apple's MPS asks for, which no test machine needs to have.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE, HOST = torch.device("mps"), torch.device("cpu")
TAKES_BOTH = {torch.ops.aten.copy_, torch.ops.aten.index, torch.ops.aten.index_put_}
"""Operations that take tensors of the host beside those of the device."""


class OnDevice(Tensor):
    """A tensor that says it lies on the device; what is computed of it lies there too."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        if inner.dtype == torch.float64:
            raise TypeError("the device has no float64")
        outer = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        outer.inner = inner
        return outer

    @property
    def device(self) -> torch.device:
        return DEVICE

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, Tensor) and each.ndim and not isinstance(each, cls):
                assert func.overloadpacket in TAKES_BOTH, f"{func} got tensors of the host and of the device"
        on_host = tree_map_only(cls, lambda tensor: tensor.inner, (args, kwargs))
        result = tree_map_only(Tensor, cls, func(*on_host[0], **on_host[1]))
        return return_and_correct_aliasing(func, args, kwargs, result)


class Device(TorchFunctionMode):
    """Functions that are told the device make tensors there; ``cpu`` brings a tensor to the host."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        args, kwargs = tree_map_only(str, lambda text: HOST if text == "cpu" else text, (args, kwargs))
        devices = {each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.device)}
        ours = isinstance(args[0], OnDevice) if args else False
        if ours and func in (Tensor.numpy, Tensor.__array__):
            raise TypeError("a tensor of the device must be copied to the host first")
        if ours and (func in (Tensor.cpu, Tensor.tolist) or (func is Tensor.to and HOST in devices)):
            assert not args[0].requires_grad
            return func(args[0].inner, *args[1:], **kwargs)
        args, kwargs = tree_map_only(torch.device, lambda device: HOST if device == DEVICE else device, (args, kwargs))
        result = func(*args, **kwargs)
        if func is Tensor.to and any(isinstance(each, OnDevice) for each in args[1:]):
            devices.add(DEVICE)
        if DEVICE in devices and isinstance(result, Tensor) and not isinstance(result, OnDevice):
            return OnDevice(result)
        return result


def on_device(model: nn.Module) -> nn.Module:
    """A copy of a model on the device."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, each in module._parameters.items():
            if each is not None:
                module._parameters[name] = nn.Parameter(OnDevice(each.detach()), requires_grad=each.requires_grad)
        for name, each in module._buffers.items():
            if each is not None:
                module._buffers[name] = OnDevice(each)
    return model
