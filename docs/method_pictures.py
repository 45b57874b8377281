"""Draws the pictures of docs/methods/ from the shipped models: run ``python docs/method_pictures.py``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from pictures import SEED, panels, save
from torch import Tensor

from captum_vit import (
    METHODS,
    BackgroundSuppression,
    CheferCAM,
    LeGrad,
    LibraGrad,
    PromptClassifier,
    ViTAttribution,
)
from captum_vit.adapters import Adapter, adapt
from captum_vit.data import Scene, Scenes, with_article
from captum_vit.viz.outlines import outline
from captum_vit.viz.overlays import overlay
from captum_vit.zoo import load_model

FOLDER = Path(__file__).parent / "images" / "methods"


class Asked:
    """A shipped model that is asked for each of a scene's two objects.

    Attributes:
        how: what stands below the object's name: class, or prompt.
        image: (1, 3, 96, 96) preprocessed.
        classifier: answers for the objects.
        targets: their outputs.
    """

    def __init__(self, scene: Scene, name: str) -> None:
        loaded = load_model(f"scenes:{name}")
        self.image = loaded.preprocess(scene.picture)[None]
        self.classifier: Adapter
        if loaded.load_tokenizer is None:
            self.how, self.classifier = "class", adapt(loaded.model)
            self.targets = [each.label for each in scene.objects]
        else:
            prompts = [with_article(each.name) for each in scene.objects]
            tokenizer = loaded.load_tokenizer()
            self.how, self.targets = f"prompt, {name}", [0, 1]
            self.classifier = PromptClassifier(loaded.model, tokenizer, prompts, template="a photo of {}.")

    def map(self, method: ViTAttribution, number: int) -> Tensor:
        """(96, 96) what a method says of one of the objects."""
        attribution: Tensor = method.attribute(self.image, target=self.targets[number])
        return attribution.sum((0, 1))


def strip(scene: Scene, shown: Sequence[tuple[str, int, Tensor, bool]]) -> Figure:
    """The scene, and maps over it: what stands below the object's name, which object, the map, whether it is signed."""
    colours = scene.image.permute(1, 2, 0).double().numpy() / 255
    figure, pictures, _ = panels(1 + len(shown))
    pictures[0].imshow(colours)
    pictures[0].set_title("the scene\n", size=9)
    for axes, (how, number, values, signed) in zip(pictures[1:], shown, strict=True):
        axes.imshow(overlay(colours, values.numpy(), signed=signed))
        outline(axes, scene.objects[number].mask.numpy())
        axes.set_title(f"{scene.objects[number].name}\n{how}", size=9)
    return figure


def of_method(scene: Scene, method: type[ViTAttribution]) -> Figure:
    """Both objects, asked for as classes and as prompts."""
    asked = [Asked(scene, name) for name in ("vit", "clip")]
    made = [(each, method(each.classifier)) for each in asked]
    return strip(
        scene, [(each.how, place, each.map(able, place), able.signed) for each, able in made for place in (0, 1)]
    )


def of_wrapper(scene: Scene, wrapper: type[LibraGrad | BackgroundSuppression]) -> Figure:
    """Both objects, explained by a method alone and inside the wrapper."""
    inner, name = (LeGrad, "siglip") if wrapper is BackgroundSuppression else (CheferCAM, "vit")
    asked = Asked(scene, name)
    alone = inner(asked.classifier)
    both = {f"{inner.name} alone": alone, f"in {wrapper.__name__}": wrapper(alone)}
    return strip(scene, [(how, place, asked.map(each, place), False) for place in (0, 1) for how, each in both.items()])


PICTURES: dict[str, Callable[[Scene], Figure]] = {
    **{name: partial(of_method, method=method) for name, method in METHODS.items()},
    "background-suppression": partial(of_wrapper, wrapper=BackgroundSuppression),
    "libragrad": partial(of_wrapper, wrapper=LibraGrad),
}
"""By the name of the page that shows it."""


def main() -> None:
    """Draws all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], default=[])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    scene = Scenes(10, seed=SEED, objects=(2, 2))[2]
    for name in options.names or PICTURES:
        save(PICTURES[name](scene), options.folder / f"{name}.png", dpi=80, colours=256)


if __name__ == "__main__":
    main()
