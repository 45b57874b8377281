"""English names of ImageNet's classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module

__all__ = ["imagenet_names"]


@cache
def imagenet_names() -> Mapping[str, str]:
    """The first name of each of the 1000 classes by WordNet id, in the order of the models' outputs, which is sorted.

    Two names stand for two classes each, "crane" (the bird and the machine) and "maillot".

    Source: the tables that timm ships.

    Example:
        >>> list(imagenet_names().items())[:2]
        [('n01440764', 'tench'), ('n01443537', 'goldfish')]
    """
    info = import_module("timm.data").ImageNetInfo()
    return {each: info.label_name_to_description(each).split(",")[0] for each in info.label_names()}
