"""``timm:vit_base_patch16_224``: any model that timm creates."""

from __future__ import annotations

import difflib
import sys
from typing import Any

import timm
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_model_data_config
from torch import Tensor

from captum_vit.zoo.models import LoadedModel, Request
from captum_vit.zoo.weights import (
    WeightsUnavailableError,
    cause_of,
    hub,
    load_strictly,
    random_weights,
    read_state_dict,
)

__all__ = ["load"]


def load(identifier: str, request: Request) -> LoadedModel:
    """Loads a timm model; see `captum_vit.zoo.load_model`."""
    name = f"timm:{identifier}"
    config: Any = None
    if ":" not in identifier:  # hf-hub: and local-dir: bring their own configuration
        _check_name(identifier)
        config = timm.get_pretrained_cfg(identifier)
    published = request.pretrained and request.checkpoint is None
    if published and ":" not in identifier and (config is None or not config.has_weights):
        raise WeightsUnavailableError(name, "timm has published none")
    state = None if request.checkpoint is None else read_state_dict(request.checkpoint)
    with hub(needed=published or identifier.startswith("hf-hub:")) as reachable, random_weights(request.seed):
        try:
            model = timm.create_model(identifier, pretrained=published, **_classes(state, config))
        except OSError as error:
            raise WeightsUnavailableError(name, cause_of(error, reachable=reachable)) from error
    if state is not None:
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        load_strictly(model, state if convert is None else convert(state, model), str(request.checkpoint))
    data = resolve_model_data_config(model)
    if request.image_size is not None:
        _resize(model, name, request.image_size)
        data["input_size"] = (data["input_size"][0], *request.image_size)
    return LoadedModel(
        name=name,
        model=model,
        preprocess=create_transform(**data, is_training=False),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        image_size=tuple(data["input_size"][1:]),
        outputs="classes" if model.num_classes else "features",
        pretrained=request.pretrained,
        class_names=_class_names(model) if request.pretrained else None,
    )


def _check_name(identifier: str) -> None:
    architecture, _, tag = identifier.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise ValueError(f"timm knows no model {architecture!r}. The nearest names: {', '.join(near) or 'none'}.")
    tags = [each.partition(".")[2] for each in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ValueError(f"timm has no tag {tag!r} for {architecture}. Its tags: {', '.join(tags) or 'none'}.")


def _classes(state: dict[str, Tensor] | None, config: Any) -> dict[str, int]:
    """The number of classes of a checkpoint, by its head."""
    head = getattr(config, "classifier", None) or "head"
    first = head if isinstance(head, str) else head[0]
    weight = None if state is None else state.get(f"{first}.weight")
    return {} if weight is None else {"num_classes": len(weight)}


def _resize(model: Any, name: str, size: tuple[int, int]) -> None:
    """Interpolates position embeddings; models without fixed ones (NaFlexViT) take any size as they are."""
    embed = getattr(model, "patch_embed", None)
    if embed is not None and hasattr(embed, "feat_ratio"):
        patch = embed.feat_ratio(as_scalar=False)
        if size[0] % patch[0] or size[1] % patch[1]:
            raise ValueError(
                f"image_size must be a multiple of {patch[0]}×{patch[1]} for {name}, got {size[0]}×{size[1]}."
            )
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=size)


def _class_names(model: Any) -> tuple[str, ...] | None:
    subset = infer_imagenet_subset(model)
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))
