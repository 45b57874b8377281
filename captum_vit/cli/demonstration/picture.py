"""The demo's figure: a few objects, and where every method finds them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from PIL import Image

from captum_vit.adapters import PromptClassifier
from captum_vit.attr import METHODS
from captum_vit.cli.demonstration.scores import TEMPLATE, Cases, explained, shared_methods
from captum_vit.data import CLASSES, with_article
from captum_vit.viz import figure

__all__ = ["picture", "png"]

_CELL = 1.4
"""Inches, so that text is readable where the figure is shown 1000 pixels wide."""
_DPI = 137
"""Makes two pixels of one in a scene."""
_STEP = 4
"""Between two shades of a colour; finer ones can't be seen, and would make the file half as large again."""


def picture(groups: Sequence[Cases], methods: Sequence[str] | None = None) -> Figure:
    """One row per object and one column per method, the object outlined.

    Args:
        groups: what is shown, a few objects for each model.
        methods: names of methods that explain all models; by default those of one pass.
    """
    images, masks, rows = [], [], []
    if methods is None:
        methods = shared_methods(*(cases.classifier for cases in groups))
    maps: dict[str, list[torch.Tensor]] = {METHODS[name].get_name(): [] for name in methods}
    for cases in groups:
        images += [cases.loaded.denormalise(each) for each in cases.images]
        masks.append(cases.masks)
        rows += [f"{cases.loaded.name}\n{_asked(cases, target)}" for target in cases.targets.tolist()]
        for name in methods:
            maps[METHODS[name].get_name()].append(explained(cases, name))
    return figure(
        torch.stack(images).permute(0, 2, 3, 1).numpy(),
        {name: torch.cat(each).numpy() for name, each in maps.items()},
        rows=rows,
        masks=torch.cat(masks).numpy(),
        signed=[METHODS[name].get_name() for name in methods if METHODS[name].signed],
        cell=_CELL,
    )


def png(made: Figure) -> bytes:
    """The figure as a file that is small enough for a page."""
    drawn, reduced = io.BytesIO(), io.BytesIO()
    made.savefig(drawn, format="png", dpi=_DPI)
    shades = [min(255, round(value / _STEP) * _STEP) for value in range(256)]
    Image.open(drawn).convert("RGB").point(3 * shades).save(reduced, format="png", optimize=True)
    return reduced.getvalue()


def _asked(cases: Cases, target: int) -> str:
    """What a row explains: the class, or the prompt in quotation marks."""
    name = CLASSES[target]
    if isinstance(cases.classifier, PromptClassifier):
        return f"“{TEMPLATE.format(with_article(name))}”"
    return f"class: {name}"
