"""What the command line's texts mean; every error names the option and exits with code 2."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from captum_vit.evaluation.specs import Spec
    from captum_vit.zoo import LoadedModel
    from captum_vit.zoo.models import Weights

__all__ = [
    "checked_device",
    "class_index",
    "device_of_this_process",
    "image_size",
    "is_first_process",
    "load",
    "memory_size",
    "method_specs",
    "refuse",
    "scene_specs",
    "writable_folder",
]

_BYTES = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def refuse(message: str, option: str | None = None) -> NoReturn:
    """Ends with a usage error: the message on stderr and exit code 2.

    Raises:
        typer.BadParameter: always.
    """
    raise typer.BadParameter(message, param_hint=option)


def writable_folder(path: Path) -> Path:
    """A folder for results, made if need be; a file is written and taken away, so that this fails before the work."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        refuse(f"{path} can't be written: {error.strerror}.", "--output")
    return path


def scene_specs(numbers: Sequence[str]) -> list[str]:
    """The names of scenes, ``scene:7`` for ``7``."""
    from captum_vit.zoo.images import scene_number

    try:
        return [f"scene:{scene_number(f'scene:{text}')}" for text in numbers]
    except ValueError as error:
        refuse(str(error), "--scene")


def image_size(text: str | None) -> tuple[int, int] | None:
    """``224`` or ``HxW`` as (H, W)."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:[xX×]([1-9]\d*))?", text)
    if match is None:
        refuse(f"must be a side or HEIGHTxWIDTH, for example 224 or 224x448, got {text!r}.", "--image-size")
    height = int(match[1])
    return height, int(match[2] or height)


def memory_size(text: str | None) -> int | None:
    """``4GB`` or ``512MiB`` in bytes."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        refuse(f"must be a number with KB, MB, GB, KiB, MiB or GiB, for example 4GB, got {text!r}.", "--memory-limit")
    return int(float(match[1]) * _BYTES[match[2].upper()])


def method_specs(text: str) -> list[Spec]:
    """Methods with options, separated by commas: ``legrad, libragrad(method='gmar')``."""
    from captum_vit.attr import METHODS
    from captum_vit.evaluation.explainers import check_name
    from captum_vit.evaluation.specs import parse_spec, split_specs

    try:
        specs = {str(spec): spec for spec in map(parse_spec, split_specs(text))}
        for spec in specs.values():
            check_name(spec.name)
    except ValueError as error:
        refuse(str(error), "--method")
    if not specs:
        refuse(f"must name at least one method, got {text!r}. Known: {', '.join(METHODS)}.", "--method")
    return list(specs.values())


def checked_device(name: str) -> str:
    """A device that this machine has."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        refuse(f"{name!r} can't be used here: {str(error).partition(chr(10))[0]}", "--device")
    return name


def device_of_this_process(name: str) -> str:
    """``cuda`` as the GPU that ``torchrun`` means for this process."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if name == "cuda" and local is not None else name


def is_first_process() -> bool:
    """Whether this process speaks for all that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def load(name: str, weights: Weights, checkpoint: Path | None, side: tuple[int, int] | None, seed: int) -> LoadedModel:
    """The model of ``--model``; says so where its weights are random."""
    from captum_vit.zoo import WeightsUnavailableError, load_model

    try:
        loaded = load_model(name, weights=weights, checkpoint=checkpoint, image_size=side, seed=seed)
    except (ValueError, FileNotFoundError, WeightsUnavailableError) as error:
        refuse(str(error), "--image-size" if str(error).startswith("image_size") else "--model")
    if not loaded.pretrained and is_first_process():
        typer.echo(f"UNTRAINED WEIGHTS for {name}: the maps show nothing that was learned.", err=True)
    return loaded


def class_index(text: str, loaded: LoadedModel, num_outputs: int) -> int:
    """A class by its index, its whole name, or one of the names in it (``tabby`` of ``tabby, tabby cat``)."""
    if re.fullmatch(r"-?\d+", text):
        index = int(text)
        if not 0 <= index < num_outputs:
            refuse(f"must be in [0, {num_outputs - 1}], got {index}.", "--target")
        return index
    if loaded.class_names is None:
        refuse(f"{text!r} is a name, but the classes of {loaded.name} have none here; give an index.", "--target")
    wanted = text.casefold().strip()
    names = [each.casefold() for each in loaded.class_names]
    found = [index for index, name in enumerate(names) if wanted == name]
    found = found or [index for index, name in enumerate(names) if wanted in re.split(r",\s*", name)]
    if not found:
        near = _nearest(wanted, loaded.class_names)
        refuse(f"no class of {loaded.name} is called {text!r}. The nearest: {', '.join(near) or 'none'}.", "--target")
    if len(found) > 1:
        refuse(f"{text!r} names the classes {', '.join(map(str, found))}; give the index.", "--target")
    return found[0]


def _nearest(wanted: str, class_names: Sequence[str]) -> list[str]:
    single = {part.casefold(): part for name in class_names for part in re.split(r",\s*", name)}
    return [single[name] for name in difflib.get_close_matches(wanted, single, n=3)]
