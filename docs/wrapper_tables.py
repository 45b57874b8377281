"""What goes around which method: every wrapper is built around every method, so that no fact is written twice."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache

import torch

from captum_vit import METHODS, BackgroundSuppression, LibraGrad, MaskedSinks, TestTimeRegisters, ViTAttribution
from captum_vit.adapters import Adapter, PromptClassifier
from captum_vit.adapters.registry import find_adapter
from captum_vit.zoo import load_model

__all__ = ["wrapped_calls", "wrapped_methods"]

_AROUND: dict[str, Callable[[ViTAttribution], ViTAttribution]] = {
    "libragrad": LibraGrad,
    "masked-sinks": MaskedSinks,
    "test-time-registers": lambda method: TestTimeRegisters(method, [(0, 0)]),
    "background-suppression": lambda method: BackgroundSuppression(method, embedding=torch.ones(_model().num_outputs)),
}


@cache
def _model() -> Adapter:
    """A small model that every method explains."""
    tower = find_adapter(load_model("scenes:clip").model)
    return PromptClassifier(tower, embeddings=torch.eye(tower.num_outputs))


def wrapped_methods() -> tuple[list[str], list[list[str]]]:
    """A row for each method: which wrappers take it, and why others don't."""
    rows = [
        [_page(name), *(_taken(method(_model()), around) for around in _AROUND.values())]
        for name, method in METHODS.items()
    ]
    return ["around", *map(_page, _AROUND)], rows


def wrapped_calls() -> tuple[list[str], list[list[str]]]:
    """A row for each call that only some methods have."""
    rows = []
    for method in METHODS.values():
        for call in _own_calls(method):
            cells = [_passed_on(method(_model()), call, around) for around in _AROUND.values()]
            rows.append([f"`{method.__name__}.{call}`", *cells])
    return ["call", *map(_page, _AROUND)], rows


def _own_calls(method: type[ViTAttribution]) -> list[str]:
    return [
        name
        for name, value in vars(method).items()
        if inspect.isfunction(value) and not name.startswith("_") and not hasattr(ViTAttribution, name)
    ]


def _taken(method: ViTAttribution, around: Callable[[ViTAttribution], ViTAttribution]) -> str:
    try:
        around(method)
    except (TypeError, ValueError) as error:
        return "no: " + re.sub(r"^method must (.*?)( for \w+ to change it)?, got .*$", r"it must \1", str(error))
    return "yes"


def _passed_on(method: ViTAttribution, call: str, around: Callable[[ViTAttribution], ViTAttribution]) -> str:
    if _taken(method, around) != "yes":
        return "—"
    try:
        getattr(around(method), call)
    except AttributeError as error:
        return "no: " + re.sub(r"^.*?: (.*?)\. Call that .*$", r"\1", str(error))
    return "yes"


def _page(name: str) -> str:
    return f"[{name}](methods/{name}.md)"
