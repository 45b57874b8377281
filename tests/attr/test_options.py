"""Every option of every method: what is of another type than it says is refused at once, by its name and value."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterable, Sequence
from math import inf, nan
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_vit import METHODS, GradECLIP, LeGrad, PromptClassifier, TextSpan, ViTAttribution
from captum_vit.attr import WRAPPERS, options

WRONG = [None, True, 0, 1, 2.5, nan, inf, "nonsense", ["nonsense"], [1.5], [True], [], {}, torch.tensor([0.5, 1.5])]


def of_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, counting neither truth values nor NaN as numbers."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(of_type(value, each) for each in get_args(hint))
    if origin is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if origin is tuple:
        return (
            isinstance(value, tuple) and len(value) == len(get_args(hint)) and all(map(of_type, value, get_args(hint)))
        )
    if origin in (Sequence, Iterable):
        return isinstance(value, list) and value != [] and all(of_type(each, *get_args(hint)) for each in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def listed() -> list[tuple[str, str, Any]]:
    """Each method's name with each of its options and the option's type."""
    found = []
    for name, method in {**METHODS, **WRAPPERS}.items():
        hints = get_type_hints(method.__init__)
        parameters = list(inspect.signature(method).parameters)[1:]
        found += [(name, option, hints[option]) for option in parameters]
    return found


@pytest.fixture(scope="module")
def classifier(built) -> PromptClassifier:
    towers = built["OpenCLIP CLIP"]
    return PromptClassifier(towers.model, towers.tokenizer, ["a cat", "the dog"])


def made(name: str, classifier: PromptClassifier, **given: Any) -> ViTAttribution:
    if name == "test-time-registers":
        given = {"neurons": [(0, 1)], **given}
    return WRAPPERS[name](LeGrad(classifier), **given) if name in WRAPPERS else METHODS[name](classifier, **given)


@pytest.mark.parametrize(("name", "option", "hint"), listed(), ids=lambda each: each if isinstance(each, str) else "")
def test_another_type_is_refused_with_name_and_value(classifier, name, option, hint):
    wrong = [value for value in WRONG if not of_type(value, hint)]
    assert len(wrong) >= 5
    for value in wrong:
        with pytest.raises((TypeError, ValueError)) as caught:
            made(name, classifier, **{option: value})
        message = str(caught.value)
        assert message.startswith(f"{option} must "), (value, message)
        members = list(value) if isinstance(value, (list, Tensor)) and len(value) else [value]
        shown = {repr(value), str(value), *map(repr, members), *(type(each).__name__ for each in members)}
        assert any(each in message for each in shown) or "got none" in message, (value, message)


def test_all_options_are_tried():
    assert len(listed()) > 65
    assert {name for name, _, _ in listed()} >= set(METHODS) - {"raw-attention"}


@pytest.mark.parametrize(("name", "option", "hint"), listed(), ids=lambda each: each if isinstance(each, str) else "")
def test_numbers_of_numpy_count_as_numbers(classifier, name, option, hint):
    default = inspect.signature({**METHODS, **WRAPPERS}[name]).parameters[option].default
    if type(default) not in (bool, int, float):
        return
    given = {bool: np.bool_, int: np.int64, float: np.float64}[type(default)](default)
    method = made(name, classifier, **{option: given})
    assert repr(method) == repr(made(name, classifier))
    assert isinstance(getattr(method, option), (type(default), Tensor))


@pytest.mark.parametrize("size", [0, -1, 2.5, "all", True])
def test_batches_of_another_size_are_refused(classifier, size):
    images = torch.zeros(2, 3, 32, 32, dtype=torch.float64)
    for call, target in (
        (GradECLIP(classifier).attribute, {"target": 0}),
        (LeGrad(classifier).attribute_blocks, {"target": 0}),
        (TextSpan(classifier).contributions, {}),
    ):
        with pytest.raises((TypeError, ValueError), match=f"internal_batch_size must be .*, got {size!r}"):
            call(images, **target, internal_batch_size=size)


@pytest.mark.parametrize("resolution", [3, None, ["patch"], "pixel"])
def test_another_resolution_is_refused(classifier, resolution):
    with pytest.raises(ValueError, match=r"resolution must be 'input' or 'patch', got "):
        LeGrad(classifier).attribute(torch.zeros(1, 3, 32, 32), target=0, resolution=resolution)


def test_numbers_at_the_ends_of_intervals():
    assert options.checked_number("x", 0, 0, 1) == 0.0
    assert options.checked_number("x", 1, 0, 1) == 1.0
    assert options.checked_number("x", inf, 0, finite=False) == inf
    for keywords, value, wanted in (
        ({"low": 0, "high": 1, "below": True}, 1, "in [0, 1), got 1"),
        ({"low": 0, "high": 1, "above": True}, 0.0, "in (0, 1], got 0.0"),
        ({"low": 0, "above": True}, 0, "finite and above 0, got 0"),
        ({"low": 0}, -0.5, "finite and at least 0, got -0.5"),
        ({"low": 0, "finite": False}, nan, "at least 0, got nan"),
        ({}, -inf, "finite, got -inf"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"x must be {wanted}.")):
            options.checked_number("x", value, **keywords)


def test_integers_and_words():
    assert options.checked_integer("x", torch.tensor(3), 1, 3) == 3
    assert options.checked_block("x", -1, 4) == 3
    assert options.checked_blocks("x", range(-1, 2), 4) == [0, 1, 3]
    for call, message in (
        (lambda: options.checked_integer("x", 4, 1, 3), "x must be in [1, 3], got 4."),
        (lambda: options.checked_integer("x", 0, 1), "x must be at least 1, got 0."),
        (lambda: options.checked_block("x", 4, 4, " or 'all'"), "x must be in [-4, 3] or 'all', got 4."),
        (lambda: options.checked_choice("x", "c", ("a", "b")), "x must be 'a' or 'b', got 'c'."),
        (lambda: options.checked_choice("x", "d", ("a", "b", "c")), "x must be 'a', 'b' or 'c', got 'd'."),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    for value in (torch.tensor(True), np.bool_(True), torch.tensor([1, 2]), "1", 1.0):
        with pytest.raises(TypeError, match="x must be an integer, got"):
            options.checked_integer("x", value, 0)
