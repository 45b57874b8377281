"""``open_clip:ViT-B-16/laion2b_s34b_b88k``: models that compare images with texts."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import open_clip

from captum_vit.zoo.models import LoadedModel, Request
from captum_vit.zoo.weights import WeightsUnavailableError, cause_of, hub, random_weights, read_state_dict

__all__ = ["load"]

_SCHEMES = ("hf-hub:", "local-dir:")


def load(identifier: str, request: Request) -> LoadedModel:
    """Loads an OpenCLIP model; see `captum_vit.zoo.load_model`.

    Preprocessing is that of the tag, or of the first tag that OpenCLIP lists for the architecture.
    """
    name = f"open_clip:{identifier}"
    architecture, tag = _split(identifier)
    checkpoint = request.checkpoint
    if tag and Path(tag).is_file():
        checkpoint, tag = checkpoint or Path(tag), ""
    published = request.pretrained and checkpoint is None
    own_configuration = architecture.startswith(_SCHEMES)
    options = {} if own_configuration else _preprocessing(_checked(architecture, tag, published=published), tag)
    with hub(needed=published or _reads_hub(architecture)) as reachable, random_weights(request.seed):
        try:
            model, _, preprocess = open_clip.create_model_and_transforms(
                architecture,
                pretrained=tag if published and not own_configuration else None,
                load_weights=published,
                pretrained_text=False,
                force_image_size=request.image_size,
                require_pretrained=published,
                **options,
            )
        except (OSError, RuntimeError) as error:  # OpenCLIP turns a failed download into a RuntimeError
            if not published and isinstance(error, RuntimeError):
                raise
            what = "pretrained weights" if published else "configuration"
            raise WeightsUnavailableError(name, cause_of(error, reachable=reachable), what) from error
    if request.pretrained and request.image_size is not None:
        _check_positions(architecture, request.image_size)
    if checkpoint is not None:
        _load_checkpoint(model, checkpoint)
    config = model.visual.preprocess_cfg
    return LoadedModel(
        name=name,
        model=model,
        preprocess=preprocess,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        image_size=_checked_size(model, _pair(config["size"])),
        outputs="embedding",
        pretrained=request.pretrained,
        load_tokenizer=partial(_tokenizer, architecture, name),
    )


def _split(identifier: str) -> tuple[str, str]:
    """The architecture and what follows it: a tag, a file, or nothing. A folder is an architecture of its own."""
    if identifier.startswith(_SCHEMES):
        return identifier, ""
    if (Path(identifier) / "open_clip_config.json").is_file():
        return f"local-dir:{identifier}", ""
    architecture, _, tag = identifier.partition("/")
    return architecture, tag


def _reads_hub(architecture: str) -> bool:
    """Whether even an untrained model takes its configuration, or that of its text tower, from the hub."""
    if architecture.startswith(_SCHEMES):
        return architecture.startswith("hf-hub:")
    return "hf_model_name" in open_clip.get_model_config(architecture)["text_cfg"]


def _checked(architecture: str, tag: str, *, published: bool) -> str:
    if open_clip.get_model_config(architecture) is None:
        near = ", ".join(difflib.get_close_matches(architecture, open_clip.list_models(), n=3)) or "none"
        raise ValueError(f"OpenCLIP knows no architecture {architecture!r}. The nearest names: {near}.")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and not open_clip.is_pretrained_cfg(architecture, tag):
        raise ValueError(
            f"OpenCLIP has no tag {tag!r} for {architecture}, and it is no file. Its tags: {', '.join(tags) or 'none'}."
        )
    if published and not tag:
        raise ValueError(
            f"the name must say which weights of {architecture}: open_clip:{architecture}/TAG, with one of "
            f"{', '.join(tags) or 'no tags'}."
        )
    return architecture


def _preprocessing(architecture: str, tag: str) -> dict[str, Any]:
    """Arguments of ``create_model_and_transforms`` for the mean, the scale and the resizing of a tag."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    config = open_clip.get_pretrained_cfg(architecture, tag or next(iter(tags), ""))
    if config.get("quick_gelu") and tag and not open_clip.get_model_config(architecture).get("quick_gelu"):
        raise ValueError(
            f"the weights {tag!r} need QuickGELU, which {architecture} does not have; use "
            f"open_clip:{architecture}-quickgelu/{tag}."
        )
    names = {"mean": "image_mean", "std": "image_std", "interpolation": "image_interpolation"}
    names |= {"resize_mode": "image_resize_mode"}
    return {argument: config[key] for key, argument in names.items() if key in config}


def _load_checkpoint(model: Any, path: Path) -> None:
    read_state_dict(path)  # says what is wrong with a file that holds no weights
    try:
        open_clip.load_checkpoint(model, str(path))
    except RuntimeError as error:
        raise ValueError(
            f"checkpoint {path} does not fit {type(model).__name__}: {textwrap.shorten(str(error), 400)}"
        ) from error


def _checked_size(model: Any, size: tuple[int, int]) -> tuple[int, int]:
    patch = getattr(model.visual, "patch_size", None)
    if patch is not None and (size[0] % patch[0] or size[1] % patch[1]):
        raise ValueError(f"image_size must be a multiple of {patch[0]}×{patch[1]}, got {size[0]}×{size[1]}.")
    return size


def _check_positions(architecture: str, size: tuple[int, int]) -> None:
    """Refuses sizes at which OpenCLIP would use position embeddings in the wrong places.

    It interpolates them only when their number changes: 2×8 patches would get those of a 4×4 grid, line after line.
    """
    vision = open_clip.get_model_config(architecture)["vision_cfg"]
    own = _pair(vision.get("image_size", 224))
    if "timm_model_name" not in vision and size != own and size[0] * size[1] == own[0] * own[1]:
        raise ValueError(
            f"image_size must not have as many patches as {own[0]}×{own[1]} in another arrangement, for which OpenCLIP "
            f"does not interpolate position embeddings, got {size[0]}×{size[1]}."
        )


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _tokenizer(architecture: str, name: str) -> Any:
    comes_with_open_clip = not architecture.startswith(_SCHEMES) and (
        "hf_tokenizer_name" not in open_clip.get_model_config(architecture)["text_cfg"]
    )
    with hub(needed=not comes_with_open_clip) as reachable:
        try:
            return open_clip.get_tokenizer(architecture)
        except OSError as error:
            raise WeightsUnavailableError(name, cause_of(error, reachable=reachable), "tokenizer") from error
