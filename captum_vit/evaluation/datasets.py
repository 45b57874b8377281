"""Datasets by name, as the command line writes them: ``imagenet-s(classes=300):/data/imagenet-s``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from captum_vit import data
from captum_vit.data import Sample
from captum_vit.evaluation.specs import parse_spec, unknown

__all__ = ["DATASETS", "dataset_of", "parse_name"]

_NAMED = re.compile(r"\s*([^():\s]+)\s*(\(.*?\))?\s*(?::(.+))?", re.DOTALL)


def _scenes(length: int = 200, **options: Any) -> Dataset[Sample]:
    return data.SceneSamples(data.Scenes(length, **options))


def _masks(root: str, **options: Any) -> Dataset[Sample]:
    prompts = Path(root, "prompts.csv")
    return data.ImageMaskFolder(
        Path(root, "images"), Path(root, "masks"), **{"prompts": prompts if prompts.exists() else None, **options}
    )


def _open_images(root: str, **options: Any) -> Dataset[Sample]:
    points, names = (f"oidv7-{each}.csv" for each in ("val-annotations-point-labels", "class-descriptions"))
    return data.OpenImagesPoints(Path(root, "images"), Path(root, points), Path(root, names), **options)


DATASETS: Mapping[str, Callable[..., Dataset[Sample]]] = {
    "ade20k-sound": partial(data.ADE20KPrompted, name="ADE20KSoundPrompted"),
    "ade20k-speech": partial(data.ADE20KPrompted, name="ADE20KSpeechPrompted"),
    "funny-birds": data.FunnyBirds,
    "imagenet": data.ImageNet,
    "imagenet-s": data.ImageNetS,
    "imagenet-segmentation": data.ImageNetSegmentation,
    "masks": _masks,
    "openimages": _open_images,
    "scenes": _scenes,
    "tiny-imagenet": data.TinyImageNet,
    "voc": data.PascalVOC,
}
"""What makes a dataset of a path and options, by name; ``scenes`` is drawn and has no path."""

_BEHIND: Mapping[str, type] = {
    "masks": data.ImageMaskFolder,
    "openimages": data.OpenImagesPoints,
    "scenes": data.Scenes,
}
"""The class that further options are handed on to."""


def parse_name(text: str) -> str:
    """The name alone, ``imagenet-s`` of ``imagenet-s(classes=300):PATH``."""
    match = _NAMED.fullmatch(text)
    if match is None or match[1] not in DATASETS:
        raise unknown("dataset", text if match is None else match[1], DATASETS)
    return match[1]


def dataset_of(text: str) -> Dataset[Sample]:
    """A dataset by its name.

    Args:
        text: ``NAME:PATH``, or ``NAME(options):PATH`` with the options of the class in `captum_vit.data`. The folder of
            ``masks`` holds ``images``, ``masks`` and, for prompts or labels, ``prompts.csv``; that of ``openimages``
            holds ``images`` and the two csv files under their original names. ``scenes`` has no path:
            ``scenes(length=200, seed=0)``.

    Raises:
        ValueError: no such dataset, a path that is missing or too much, options that it does not have.
        FileNotFoundError: no such folder or file; the message says what it should hold and where it can be had.

    Example:
        >>> len(dataset_of("scenes(length=30, seed=1)"))
        30
    """
    name = parse_name(text)
    match = _NAMED.fullmatch(text)
    assert match is not None
    path, spec = match[3], parse_spec(name + (match[2] or ""))
    if (path is None) != (name == "scenes"):
        wanted = "scenes or scenes(length=200, seed=0)" if name == "scenes" else f"{name}:PATH"
        raise ValueError(f"dataset must be {wanted}, got {text!r}.")
    known = _options(name)
    for option in spec.options:
        if option not in known:
            raise ValueError(f"options of {name} must be among {', '.join(known) or 'none'}, got {option!r}.")
    try:
        return DATASETS[name](*([path] if path else []), **spec.options)
    except TypeError as error:
        raise ValueError(
            f"options of {name} must have values that its class in captum_vit.data takes, got {text!r}: {error}."
        ) from error


def _options(name: str) -> list[str]:
    """The options of a dataset: what has a default and is not decided by the name."""
    make = DATASETS[name]
    decided = make.keywords if isinstance(make, partial) else {}
    takers: list[Callable[..., Any]] = [make, *([_BEHIND[name]] if name in _BEHIND else [])]
    found = [each for taker in takers for each in signature(taker).parameters.values()]
    return [each.name for each in found if each.default is not each.empty and each.name not in decided]
