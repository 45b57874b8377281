"""From a model to its adapter, without importing a model library that is not in use."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TypeVar, get_args

import torch
from torch import nn

from captum_vit.adapters.base import Adapter, Pooling

__all__ = ["adapt", "find_adapter", "known_families", "register_adapter"]

AdapterClass = TypeVar("AdapterClass", bound=type[Adapter])

_TIMM, _HF = "captum_vit.adapters.timm", "captum_vit.adapters.huggingface"
_OPEN_CLIP, _TORCHVISION = "captum_vit.adapters.open_clip", "captum_vit.adapters.torchvision"
_DINOV2_REG = "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers"

_BUILT_IN = {
    "timm.models.vision_transformer.VisionTransformer": (_TIMM, "TimmAdapter"),
    "timm.models.eva.Eva": (_TIMM, "TimmAdapter"),
    "timm.models.beit.Beit": (_TIMM, "TimmAdapter"),
    "timm.models.naflexvit.NaFlexVit": (_TIMM, "NaFlexVitAdapter"),
    "transformers.models.vit.modeling_vit.ViTForImageClassification": (_HF, "ViTAdapter"),
    "transformers.models.deit.modeling_deit.DeiTForImageClassification": (_HF, "DeiTAdapter"),
    "transformers.models.deit.modeling_deit.DeiTForImageClassificationWithTeacher": (_HF, "DistilledDeiTAdapter"),
    "transformers.models.dinov2.modeling_dinov2.Dinov2ForImageClassification": (_HF, "Dinov2Adapter"),
    f"{_DINOV2_REG}.Dinov2WithRegistersForImageClassification": (_HF, "Dinov2WithRegistersAdapter"),
    "transformers.models.beit.modeling_beit.BeitForImageClassification": (_HF, "BeitAdapter"),
    "transformers.models.clip.modeling_clip.CLIPForImageClassification": (_HF, "CLIPClassifierAdapter"),
    "transformers.models.siglip.modeling_siglip.SiglipForImageClassification": (_HF, "SiglipClassifierAdapter"),
    "transformers.models.clip.modeling_clip.CLIPModel": (_HF, "CLIPTower"),
    "transformers.models.siglip.modeling_siglip.SiglipModel": (_HF, "SiglipTower"),
    "open_clip.model.CLIP": (_OPEN_CLIP, "open_clip_tower"),
    "open_clip.model.CustomTextCLIP": (_OPEN_CLIP, "open_clip_tower"),
    "open_clip.coca_model.CoCa": (_OPEN_CLIP, "open_clip_tower"),
    "torchvision.models.vision_transformer.VisionTransformer": (_TORCHVISION, "TorchvisionAdapter"),
}

_registered: dict[type, Callable[[nn.Module], Adapter]] = {}

_WINDOWS = "it attends inside windows, so no attention map covers the image"
_CONVOLUTIONS = "it is a convolutional network without attention; Captum's LayerGradCam explains it"
_REASONS = {
    "SwinTransformer": _WINDOWS,
    "SwinTransformerV2": _WINDOWS,
    "SwinPreTrainedModel": _WINDOWS,
    "Swinv2PreTrainedModel": _WINDOWS,
    "MaxxVit": _WINDOWS,
    "MaxVit": _WINDOWS,
    "VisionTransformerSAM": _WINDOWS,
    "Cait": "its patch blocks mix heads before and after the softmax and a class token joins only the last blocks",
    "Xcit": "it attends between channels, not between patches",
    "VOLO": "its outlook attention covers neighbourhoods, not the image",
    "Levit": "its attention shrinks the patch grid between stages",
    "LevitDistilled": "its attention shrinks the patch grid between stages",
    "ResNet": _CONVOLUTIONS,
    "ResNetPreTrainedModel": _CONVOLUTIONS,
    "ConvNeXt": _CONVOLUTIONS,
}


def register_adapter(model_class: type[nn.Module]) -> Callable[[AdapterClass], AdapterClass]:
    """Class decorator: `adapt` takes the decorated `Adapter` for instances of ``model_class`` and of its subclasses.

    Args:
        model_class: the class of the model. Registering it again replaces the earlier adapter.
    """

    def register(adapter_class: AdapterClass) -> AdapterClass:
        _registered[model_class] = adapter_class
        return adapter_class

    return register


def known_families() -> list[str]:
    """Library and name of the model classes that `adapt` takes, sorted."""
    paths = [*_BUILT_IN, *(f"{each.__module__}.{each.__qualname__}" for each in _registered)]
    return sorted({f"{path.partition('.')[0]} {path.rpartition('.')[2]}" for path in paths})


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a model whose outputs can be explained: classes, or the prompts of a `PromptClassifier`.

    Args:
        model: a supported model, the same inside ``DistributedDataParallel`` or ``DataParallel``, or an adapter.

    Raises:
        TypeError: no adapter knows the model, it is compiled, scripted or quantised, or it has two towers and no
            prompts.
        ValueError: an adapter whose ``pooling`` is none of `Pooling`.
    """
    adapter = find_adapter(model)
    if adapter.pooling not in get_args(Pooling):
        raise ValueError(f"pooling of {adapter.family} must be one of {get_args(Pooling)}, got {adapter.pooling!r}.")
    if hasattr(adapter, "encode_prompts"):
        raise TypeError(
            f"{type(adapter.model).__name__} compares images with texts and has no classes of its own. Wrap it: "
            "PromptClassifier(model, tokenizer, ['a cat', 'a dog'])."
        )
    return adapter


def find_adapter(model: nn.Module) -> Adapter:
    """As `adapt`, but two-tower models give the adapter of their image tower.

    Raises:
        TypeError: no adapter knows the model, or it is compiled, scripted or quantised.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    if isinstance(model, Adapter):
        return model
    _refuse_transformed(model)
    known = _known_class(model)
    if known is None:
        raise TypeError(_why_unknown(model))
    if known in _registered:
        return _registered[known](model)
    if type(model).forward is not known.forward:
        raise TypeError(
            f"{type(model).__name__} replaces the forward of {known.__name__}, so how its tokens become outputs is not "
            "known. Write an adapter for it and register it with @register_adapter: docs/how-to/write-an-adapter.md."
        )
    module, name = _BUILT_IN[_path(known)]
    adapter: Adapter = getattr(import_module(module), name)(model)
    return adapter


def _path(model_class: type) -> str:
    return f"{model_class.__module__}.{model_class.__qualname__}"


def _known_class(model: nn.Module) -> type[nn.Module] | None:
    """The first class of a model, from its own to its bases, that has an adapter."""
    return next((each for each in type(model).__mro__ if each in _registered or _path(each) in _BUILT_IN), None)


def _why_unknown(model: nn.Module) -> str:
    """Names the reason where there is one, else what could be meant."""
    unknown = f"no adapter knows {_path(type(model))}"
    for each in type(model).__mro__:
        if each.__name__ in _REASONS:
            return f"{unknown}: {_REASONS[each.__name__]}."
    inside = next((name for name, module in model.named_modules() if name and _known_class(module)), None)
    if inside is not None:
        return (
            f"{unknown}, but its module {inside!r} ({type(model.get_submodule(inside)).__name__}) has one. Explain "
            "that module, and do what comes before it (a normalisation, for example) to the images first; or write an "
            "adapter for the whole: docs/how-to/write-an-adapter.md."
        )
    return f"{unknown}. Known families: {', '.join(known_families())}. To add one see docs/how-to/write-an-adapter.md."


_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torchao", "bitsandbytes", "optimum.quanto")
"""Packages whose modules stand for quantised layers."""


def _refuse_transformed(model: nn.Module) -> None:
    """Refuses models whose modules no longer run as written, so that nothing could be watched."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"{type(model).__name__} is scripted or traced; explain the eager model it was made from.")
    for name, module in model.named_modules():
        where = f"module {name!r}" if name else "the model"
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise TypeError(
                f"{where} is compiled; explain the eager model: what torch.compile was given (model._orig_mod), or a "
                "copy on which .compile() was never called."
            )
        if type(module).__module__.startswith(_QUANTISED):
            raise TypeError(f"{where} ({type(module).__name__}) is quantised; explain the floating-point model.")
    for name, parameter in model.named_parameters():
        if type(parameter.data).__module__.startswith("torchao"):
            raise TypeError(f"parameter {name!r} ({type(parameter.data).__name__}) is quantised; explain the original.")


def check_state(adapter: Adapter) -> None:
    """Refuses a model that is not in the state in which it predicts.

    Raises:
        TypeError: the model was compiled or quantised since its adapter was made.
        RuntimeError: training mode, gradient checkpointing, or parameters that were made in inference mode.
    """
    _refuse_transformed(adapter.model)
    for name, parameter in adapter.model.named_parameters():
        if parameter.is_inference():
            raise RuntimeError(
                f"parameter {name!r} was made in inference mode and can't take part in a gradient. Create or load the "
                "model outside torch.inference_mode()."
            )
    for name, module in adapter.model.named_modules():
        if module.training:
            raise RuntimeError(
                f"the model is in training mode (module {name or type(module).__name__!r}): dropout and drop path "
                "would make every map random, and they are not switched off behind your back. Call model.eval() first."
            )
        if getattr(module, "grad_checkpointing", False):
            raise RuntimeError(
                f"module {name or type(module).__name__!r} has gradient checkpointing on, which runs blocks twice. "
                "Call model.set_grad_checkpointing(False) first."
            )
