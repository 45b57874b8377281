"""English names of ImageNet's classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

__all__ = ["first_name", "imagenet_names"]


@cache
def imagenet_names() -> Mapping[str, str]:
    """The first name of each of the 1000 classes by WordNet id, in the order of the models' outputs, which is sorted.

    Two names stand for two classes each, "crane" (the bird and the machine) and "maillot".

    Source: the tables that timm ships.

    Example:
        >>> list(imagenet_names().items())[:2]
        [('n01440764', 'tench'), ('n01443537', 'goldfish')]
    """
    return {each: str(first_name(each)) for each in _info().label_names()}


def first_name(wnid: str) -> str | None:
    """The first name of a class by its WordNet id, of the 21 841 classes of all of ImageNet; None for another.

    Example:
        >>> first_name("n00007846"), first_name("n99999999")
        ('person', None)
    """
    try:
        return str(_info().label_name_to_description(wnid)).split(",")[0]
    except KeyError:
        return None


@cache
def _info() -> Any:
    return import_module("timm.data").ImageNetInfo()
