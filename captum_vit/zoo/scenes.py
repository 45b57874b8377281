"""``scenes:vit``, ``scenes:clip``, ``scenes:siglip``: the trained models that come with the package."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import transforms

from captum_vit.data import CLASSES
from captum_vit.zoo.models import LoadedModel, Request
from captum_vit.zoo.scene_models import (
    CONTEXT_LENGTH,
    IMAGE_SIZE,
    PATCH_SIZE,
    SCENE_MODELS,
    check_shipped,
    expand,
    resized,
    weight_file,
)
from captum_vit.zoo.weights import WeightsUnavailableError, load_strictly, random_weights, read_state_dict

__all__ = ["load"]

_MEAN = _STD = (0.5, 0.5, 0.5)


def load(identifier: str, request: Request) -> LoadedModel:
    """Loads a model of the package; see `captum_vit.zoo.load_model`."""
    name = f"scenes:{identifier}"
    if identifier not in SCENE_MODELS:
        raise ValueError(f"model must be one of scenes:{', scenes:'.join(SCENE_MODELS)}, got {name!r}.")
    size = request.image_size or (IMAGE_SIZE, IMAGE_SIZE)
    if size[0] % PATCH_SIZE or size[1] % PATCH_SIZE:
        raise ValueError(
            f"image_size must be a multiple of {PATCH_SIZE}×{PATCH_SIZE} for {name}, got {size[0]}×{size[1]}."
        )
    with random_weights(request.seed):
        model = SCENE_MODELS[identifier]()
    path = request.checkpoint or (_shipped(name, weight_file(identifier)) if request.pretrained else None)
    if path is not None:
        load_strictly(model, expand(read_state_dict(path), path), path)
    reads_texts = identifier != "vit"
    return LoadedModel(
        name=name,
        model=resized(model, size),
        preprocess=_preprocess(size),
        mean=_MEAN,
        std=_STD,
        image_size=size,
        outputs="embedding" if reads_texts else "classes",
        pretrained=request.pretrained,
        activation="softmax" if reads_texts else "sigmoid",
        class_names=CLASSES if request.pretrained and not reads_texts else None,
        load_tokenizer=_tokenizer if reads_texts else None,
        unknown_words=partial(_unknown_words, model) if reads_texts and request.pretrained else None,
    )


def _shipped(name: str, path: Path) -> Path:
    """The file of weights, which must be there with its card, and whole."""
    for each in (path, path.with_suffix(".json")):
        if not each.is_file():
            raise WeightsUnavailableError(
                name,
                f"{each.name} is missing from this installation of captum-vit",
                remedy="Install captum-vit again: pip install --force-reinstall --no-deps captum-vit.",
            )
    check_shipped(path)
    return path


def _preprocess(size: tuple[int, int]) -> transforms.Compose:
    """Scales an image until it covers the size, cuts the middle, and brings colours to [-1, 1]."""

    def covering(image: Any) -> Any:
        scale = max(size[0] / image.height, size[1] / image.width)
        fitted = (max(size[0], round(image.height * scale)), max(size[1], round(image.width * scale)))
        return transforms.functional.resize(image, fitted, transforms.InterpolationMode.BICUBIC)

    steps = [covering, transforms.CenterCrop(size), transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]
    return transforms.Compose(steps)


def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=CONTEXT_LENGTH)


def _unknown_words(model: nn.Module, text: str) -> list[str]:
    """Words with a token whose embedding is zero: it occurred in no text of the training."""
    tokenizer = _tokenizer()
    tower: Any = getattr(model, "text", model)
    known = tower.token_embedding.weight.detach().any(dim=1)
    return [word for word in text.split() if not known[tokenizer.encode(word)].all()]
