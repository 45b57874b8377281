"""What a shipped model can do, and how well attributions of it find the object: the numbers of its model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from captum_vit.adapters import Adapter, PromptClassifier, adapt
from captum_vit.attr import METHODS, upsample
from captum_vit.data import CLASSES, Scene, Scenes
from captum_vit.metrics.functional import energy_inside, foreground_iou, pointing_game
from captum_vit.zoo.scene_models import PATCH_SIZE

METHODS_IN_CARDS = ("legrad", "chefer-cam", "gmar", "attention-cam", "attention-rollout", "raw-attention")
HELD_OUT = 1
"""Seed of the scenes that scores are measured on, and the first of three."""

DEFINITIONS = {
    "mean average precision": f"of presence, mean over the 64 classes; 1000 scenes of seed {HELD_OUT}",
    "first of 64, one object": f"how often the class has the highest logit; 500 scenes of seed {HELD_OUT + 1}",
    "pointing game": f"highest point on the object or within {PATCH_SIZE / 2:g} pixels; 120 scenes of seed {HELD_OUT}",
    "foreground IoU": "of the object and the map above 0.5 after scaling to [0, 1]; the same scenes",
    "energy inside": "share of the positive relevance on the object, maps without any left out; the same scenes",
    "more on its own object than on the other": f"of the map's mass; 60 scenes of two objects, seed {HELD_OUT + 2}",
}


def classifier_of(model: nn.Module, tokenizer: object | None) -> Adapter:
    """Logits of the 64 classes: the model's own, or those of the prompts "a photo of a red circle." and so on."""
    if tokenizer is None:
        return adapt(model)
    names = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in CLASSES]
    return PromptClassifier(model, tokenizer, names, template="a photo of {}.")


def scores(classifier: Adapter, *, scenes: int = 1000, explained: int = 120) -> dict[str, float]:
    """Every number of the card by name; `DEFINITIONS` says what each means."""
    anything = Scenes(scenes, seed=HELD_OUT)
    single = Scenes(scenes // 2, seed=HELD_OUT + 1, objects=(1, 1))
    pairs = Scenes(explained // 2, seed=HELD_OUT + 2, objects=(2, 2))
    result = {"mean average precision": _average_precision(classifier, anything)}
    result["first of 64, one object"] = _first(classifier, single)
    for name in METHODS_IN_CARDS:
        found: dict[str, list[Tensor]] = {"pointing game": [], "foreground IoU": [], "energy inside": []}
        for maps, masks in _explained(classifier, name, (anything[k] for k in range(explained))):
            found["pointing game"].append(pointing_game(maps, masks, tolerance=PATCH_SIZE / 2))
            found["foreground IoU"].append(foreground_iou(maps, masks, threshold=0.5))
            found["energy inside"].append(energy_inside(maps, masks))
        result |= {f"{name}: {what}": float(torch.cat(values).nanmean()) for what, values in found.items()}
        own = []
        for maps, masks in _explained(classifier, name, (pairs[k] for k in range(len(pairs)))):
            mass = (maps[:, None] * masks[None]).sum((2, 3))  # (2, 2): map of each object, mass on each object
            own.append(mass.diagonal() > mass.flip(1).diagonal())
        result[f"{name}: more on its own object than on the other"] = float(torch.cat(own).float().mean())
    return result


def _logits(classifier: Adapter, dataset: Scenes, batch: int = 100) -> tuple[Tensor, Tensor]:
    """(S, 64) logits, and what is there."""
    logits, labels = [], []
    for first in range(0, len(dataset), batch):
        scenes = [dataset[k] for k in range(first, min(first + batch, len(dataset)))]
        with torch.inference_mode():
            logits.append(classifier(_pixels(scenes)))
        labels.append(torch.stack([each.labels for each in scenes]))
    return torch.cat(logits), torch.cat(labels)


def _average_precision(classifier: Adapter, dataset: Scenes) -> float:
    logits, labels = _logits(classifier, dataset)
    return float(average_precision_score(labels.numpy(), logits.numpy(), average="macro"))


def _first(classifier: Adapter, dataset: Scenes) -> float:
    logits, labels = _logits(classifier, dataset)
    return float((logits.argmax(1) == labels.argmax(1)).float().mean())


def _explained(classifier: Adapter, method: str, scenes: Iterable[Scene]) -> Iterable[tuple[Tensor, Tensor]]:
    """Per scene, the maps (T, H, W) of all its objects and their masks (T, H, W)."""
    explainer = METHODS[method](classifier)
    for scene in scenes:
        pixels = _pixels([scene])
        targets = [each.label for each in scene.objects]
        maps = explainer.attribute_targets(pixels, targets)[0]  # (T, 1, gh, gw)
        size = (pixels.shape[2], pixels.shape[3])
        yield upsample(maps, size, classifier.covered(*size))[:, 0], torch.stack([each.mask for each in scene.objects])


def _pixels(scenes: Sequence[Scene]) -> Tensor:
    return torch.stack([each.image for each in scenes]).float() / 127.5 - 1
