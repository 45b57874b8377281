"""The demo's figure: a few objects, and where every method finds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from captum_vit.adapters import PromptClassifier
from captum_vit.attr import METHODS
from captum_vit.cli.demonstration.scores import Cases, explained
from captum_vit.data import CLASSES
from captum_vit.viz import figure

__all__ = ["picture"]


def picture(groups: Sequence[Cases]) -> Figure:
    """One row per object and one column per method, the object outlined.

    Args:
        groups: what is shown, a few objects for each model.
    """
    images, masks, rows = [], [], []
    maps: dict[str, list[torch.Tensor]] = {METHODS[name].get_name(): [] for name in METHODS}
    for cases in groups:
        images += [cases.loaded.denormalise(each) for each in cases.images]
        masks.append(cases.masks)
        for target in cases.targets.tolist():
            asked = "prompt" if isinstance(cases.classifier, PromptClassifier) else "class"
            rows.append(f"{cases.loaded.name}\n{asked}:\n{CLASSES[target]}")
        for name in METHODS:
            maps[METHODS[name].get_name()].append(explained(cases, name))
    return figure(
        torch.stack(images).permute(0, 2, 3, 1).numpy(),
        {name: torch.cat(each).numpy() for name, each in maps.items()},
        rows=rows,
        masks=torch.cat(masks).numpy(),
        signed=[METHODS[name].get_name() for name in METHODS if METHODS[name].signed],
        cell=1.4,
    )
