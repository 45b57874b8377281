"""``hf:org/name`` or ``hf:FOLDER``: Hugging Face image classifiers, and CLIP and SigLIP with both towers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from captum_vit.adapters.registry import find_adapter
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

_TWO_TOWERS = {"clip": "CLIPModel", "siglip": "SiglipModel"}
"""The class that compares images with texts, by the configuration's model type."""


def load(identifier: str, request: Request) -> LoadedModel:
    """Loads a Hugging Face model; see `captum_vit.zoo.load_model`."""
    name = f"hf:{identifier}"
    if identifier.startswith((".", "/", "~")) and not Path(identifier).is_dir():
        raise FileNotFoundError(f"model must be a folder or a name on the hub, got {identifier!r}, which is no folder.")
    published = request.pretrained and request.checkpoint is None
    with hub(needed=not Path(identifier).is_dir()) as reachable, random_weights(request.seed):

        def loaded(what: str, load: Callable[[], Any]) -> Any:
            try:
                return load()
            except OSError as error:
                raise WeightsUnavailableError(name, cause_of(error, reachable=reachable), what) from error

        config = loaded("configuration", lambda: transformers.AutoConfig.from_pretrained(identifier))
        processor = loaded(
            "preprocessor configuration", lambda: transformers.AutoImageProcessor.from_pretrained(identifier)
        )
        model_class = _model_class(config)
        options = {"config": config, "dtype": torch.float32, "output_loading_info": True}
        model, report = (
            loaded("pretrained weights", lambda: model_class.from_pretrained(identifier, **options))
            if published
            else (_from_config(model_class, config), {})
        )
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise ValueError(
            f"{name} has no weights for {len(missing)} parameters of {type(model).__name__}, {missing[0]} among them: "
            f"it was published as {', '.join(config.architectures or ['a model without a head'])}."
        )
    if request.checkpoint is not None:
        load_strictly(model, read_state_dict(request.checkpoint), request.checkpoint)
    two_towers = type(model).__name__ in _TWO_TOWERS.values()
    preprocess, size = _preprocessing(processor, request.image_size)
    return LoadedModel(
        name=name,
        model=model if request.image_size is None else _any_size(model),
        preprocess=preprocess,
        mean=_per_channel(processor, "image_mean", 0.0),
        std=_per_channel(processor, "image_std", 1.0),
        image_size=size,
        outputs="embedding" if two_towers else "classes",
        pretrained=request.pretrained,
        class_names=_class_names(config) if request.pretrained and not two_towers else None,
        load_tokenizer=partial(_tokenizer, identifier) if two_towers else None,
    )


def _model_class(config: Any) -> Any:
    """The class that the configuration was saved from, when it explains images; else by the type of the model."""
    towers = _TWO_TOWERS.get(config.model_type)
    if towers is not None and towers in (config.architectures or [towers]):
        return getattr(transformers, towers)
    return transformers.AutoModelForImageClassification


def _from_config(model_class: Any, config: Any) -> Any:
    make = model_class.from_config if hasattr(model_class, "from_config") else model_class._from_config
    return make(config, dtype=torch.float32)


def _any_size(model: nn.Module) -> nn.Module:
    """The model's adapter with interpolated position embeddings; transformers wants them asked for at every call."""
    adapter: Any = type(find_adapter(model))
    if "interpolate_pos_encoding" not in signature(adapter).parameters:
        return model  # it interpolates by itself
    interpolating: nn.Module = adapter(model, interpolate_pos_encoding=True)
    return interpolating


def _preprocessing(
    processor: Any, image_size: tuple[int, int] | None
) -> tuple[Callable[[Image.Image], Tensor], tuple[int, int]]:
    """The processor as a function of one image, and the size (H, W) that it makes."""

    def preprocess(image: Image.Image) -> Tensor:
        options = {} if image_size is None else _sizes(processor, image_size, image)
        pixels: Tensor = processor(images=image, return_tensors="pt", **options)["pixel_values"][0]
        return pixels

    own = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    return preprocess, image_size or (own.height, own.width)


def _sizes(processor: Any, image_size: tuple[int, int], image: Image.Image) -> dict[str, dict[str, int]]:
    """Arguments that make the processor resize and crop to another size in its own way."""
    height, width = image_size
    wanted = {"height": height, "width": width}
    if not getattr(processor, "do_center_crop", False):
        return {"size": wanted}
    crop, size = processor.crop_size, processor.size
    if size.shortest_edge is None:
        resized = {
            "height": round(height * size.height / crop.height),
            "width": round(width * size.width / crop.width),
        }
    else:
        margin = size.shortest_edge / min(crop.height, crop.width)
        cover = max(height / image.height, width / image.width)
        resized = {"shortest_edge": math.ceil(min(image.size) * cover * margin)}
    return {"size": resized, "crop_size": wanted}


def _per_channel(processor: Any, name: str, unchanged: float) -> tuple[float, ...]:
    """The processor's mean or standard deviation; that of no normalisation where it does none."""
    if not getattr(processor, "do_normalize", False):
        return (unchanged,) * 3
    values = getattr(processor, name)
    return (float(values),) * 3 if isinstance(values, (int, float)) else tuple(map(float, values))


def _class_names(config: Any) -> tuple[str, ...] | None:
    names = tuple(config.id2label[index] for index in range(config.num_labels))
    return None if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else names


def _tokenizer(identifier: str) -> Any:
    with hub(needed=not Path(identifier).is_dir()) as reachable:
        try:
            return transformers.AutoTokenizer.from_pretrained(identifier)
        except OSError as error:
            raise WeightsUnavailableError(
                f"hf:{identifier}", cause_of(error, reachable=reachable), "tokenizer"
            ) from error
