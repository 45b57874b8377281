"""Draws the pictures of docs/metrics/ and docs/layers.md from the shipped models: run ``python docs/pictures.py``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from captum_vit import AttentionRollout, CheferCAM, LeGrad, PromptClassifier
from captum_vit.adapters import Adapter, adapt
from captum_vit.attr import upsample
from captum_vit.data import CLASSES, Scene, SceneParts, Scenes, SceneSamples, with_article
from captum_vit.evaluation import layer_distribution, subject_of
from captum_vit.metrics import ModelRandomisation
from captum_vit.metrics import functional as metrics
from captum_vit.metrics.functional.thresholds import threshold_values
from captum_vit.viz.fingerprint import fingerprint
from captum_vit.viz.outlines import outline
from captum_vit.viz.overlays import overlay
from captum_vit.zoo import load_model
from captum_vit.zoo.scene_models import PATCH_SIZE, SCENE_MODELS

FOLDER = Path(__file__).parent / "images" / "metrics"
PATCH = (PATCH_SIZE, PATCH_SIZE)
SEED = 21
HIT, ALARM, MISS = (0.0, 0.62, 0.45), (0.9, 0.6, 0.0), (0.0, 0.45, 0.7)  # told apart without red-green vision


class Recorder:
    """A model's probabilities, and the images that it was asked about."""

    def __init__(self, classifier: Adapter) -> None:
        self._score = metrics.probabilities(classifier, "sigmoid")
        self.images: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.images += images
        return self._score(images)


class Case:
    """One object of one scene, on the shipped classifier.

    Attributes:
        scene: with two objects.
        image: (1, 3, 96, 96) preprocessed.
        target: (1,) the class of its first object.
        mask: (1, 96, 96) boolean.
        maps: (1, 96, 96) by name.
    """

    def __init__(self) -> None:
        self.scene: Scene = Scenes(10, seed=SEED, objects=(2, 2))[2]
        self.loaded = load_model("scenes:vit")
        self.classifier = adapt(self.loaded.model)
        self.image = self.loaded.preprocess(self.scene.picture)[None]
        first = self.scene.objects[0]
        self.target, self.mask = torch.tensor([first.label]), first.mask[None]
        noise = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(SEED))
        self.maps = {
            "CheferCAM": self.explained(CheferCAM(self.classifier)),
            "LeGrad": self.explained(LeGrad(self.classifier)),
            "AttentionRollout": self.explained(AttentionRollout(self.classifier)),
            "random": upsample(noise, (96, 96))[:, 0],
        }

    def explained(self, method: LeGrad | AttentionRollout | CheferCAM) -> Tensor:
        """(1, 96, 96) the method's map of the first object."""
        attribution: Tensor = method.attribute(self.image, target=self.target).sum(1)
        return attribution.detach()

    def show(self, axes: Axes, values: Tensor | None = None) -> None:
        """The image, or a map (96, 96) over it, with the object's outline."""
        colours = self.scene.image.permute(1, 2, 0).double().numpy() / 255
        axes.imshow(colours if values is None else overlay(colours, values.numpy()))
        outline(axes, self.mask[0].numpy())


def pictures_of(images: Sequence[Tensor]) -> list[Tensor]:
    """Preprocessed images (3, H, W) as colours (H, W, 3) in [0, 1]."""
    return [(each.permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) for each in images]


def panels(columns: int, rows: int = 1, *, curves: int = 0) -> tuple[Figure, list[Axes], list[Axes]]:
    """A figure with rows of pictures, and wider axes for curves to their right."""
    widths = [1.0] * columns + [1.5] * curves
    figure = plt.figure(figsize=(1.9 * sum(widths), 2.15 * rows + 0.4), layout="constrained")
    grid = figure.add_gridspec(rows, columns + curves, width_ratios=widths)
    pictures = [figure.add_subplot(grid[row, column]) for row in range(rows) for column in range(columns)]
    for each in pictures:
        each.set_axis_off()
    return figure, pictures, [figure.add_subplot(grid[:, columns + number]) for number in range(curves)]


def localisation(case: Case) -> Figure:
    """Where the highest point lies, and how much of the map is inside."""
    figure, pictures, _ = panels(len(case.maps))
    for axes, (name, values) in zip(pictures, case.maps.items(), strict=True):
        case.show(axes, values[0])
        row, column = divmod(int(values.argmax()), values.shape[2])
        axes.plot(column, row, "o", markersize=9, markerfacecolor="none", markeredgecolor="cyan", markeredgewidth=2)
        hit = bool(metrics.pointing_game(values, case.mask, tolerance=PATCH_SIZE / 2))
        inside, auc = metrics.energy_inside(values, case.mask), metrics.localisation_auc(values, case.mask)
        axes.set_title(f"{name}\n{'hit' if hit else 'miss'}, {inside.item():.2f} inside, AUC {auc.item():.2f}", size=9)
    return figure


def segmentation(case: Case) -> Figure:
    """One map at several thresholds."""
    values = case.maps["LeGrad"]
    scaled = (values - values.min()) / (values.max() - values.min())
    thresholds = {"mean": "mean", "fixed, 0.5": 0.5, "Otsu": "otsu", "fixed, 0.8": 0.8}
    figure, pictures, _ = panels(len(thresholds) + 1)
    case.show(pictures[0], values[0])
    pictures[0].set_title("LeGrad\n", size=9)
    for axes, (name, threshold) in zip(pictures[1:], thresholds.items(), strict=True):
        above = scaled > threshold_values(scaled, threshold).view(1, 1, 1)  # type: ignore[arg-type]
        painted = torch.ones(96, 96, 3)
        for where, colour in ((above & case.mask, HIT), (above & ~case.mask, ALARM), (~above & case.mask, MISS)):
            painted[where[0]] = torch.tensor(colour)
        axes.imshow(painted)
        axes.set_axis_on()
        axes.tick_params(bottom=False, left=False, labelbottom=False, labelleft=False)
        iou = metrics.foreground_iou(values, case.mask, threshold=threshold)  # type: ignore[arg-type]
        axes.set_title(f"{name}\nforeground IoU {iou.item():.2f}", size=9)
    return figure


def points(case: Case) -> Figure:
    """A thresholded map against labelled points."""
    figure, pictures, _ = panels(2)
    generator = torch.Generator().manual_seed(3)
    inside = case.mask[0].nonzero()
    drawn = torch.cat([torch.randint(96, (14, 2), generator=generator), inside[:: len(inside) // 6][:6]])
    labels = case.mask[0][drawn[:, 0], drawn[:, 1]].long()
    positions = (drawn.flip(1) + 0.5) / 96
    for axes, name in zip(pictures, ("LeGrad", "random"), strict=True):
        values = case.maps[name]
        case.show(axes, values[0])
        scaled = (values[0] - values.min()) / (values.max() - values.min())
        axes.contour(scaled, levels=[0.5], colors="cyan", linewidths=1.2)
        for label, face in ((1, "white"), (0, "black")):
            chosen = drawn[labels == label]
            axes.plot(chosen[:, 1], chosen[:, 0], "o", markersize=5, markerfacecolor=face, markeredgecolor="grey")
        iou = metrics.point_iou(values, positions[None], labels[None])
        axes.set_title(f"{name}\nIoU of points {iou.item():.2f}", size=9)
    return figure


def parts(case: Case) -> Figure:
    """An object without each of its parts, and what that costs against what maps say."""
    scenes = SceneParts(10, seed=SEED)
    masks, target = scenes.part_masks(0), torch.tensor([scenes.label(0)])
    shown = {"whole": scenes.image(0), **{name: scenes.keeping(0, masks.keys() - {name}) for name in masks}}
    images = torch.stack([case.loaded.preprocess(each) for each in shown.values()])
    with torch.no_grad():
        logits = case.classifier(images)[:, target].squeeze(1)
    losses = logits[:1] - logits[1:]
    figure, pictures, scatters = panels(3, 2, curves=2)
    for axes, name, image, logit in zip(pictures, shown, shown.values(), logits, strict=True):
        axes.imshow(image)
        axes.set_title(f"{name if name == 'whole' else f'without {name}'}\nlogit {logit:.1f}", size=9)
    for axes, method in zip(scatters, (CheferCAM(case.classifier), AttentionRollout(case.classifier)), strict=True):
        values = method.attribute(images[:1], target=target).sum(1).detach()
        worth = metrics.part_importances(values, torch.cat(list(masks.values()))[None])
        score = metrics.single_deletion(logits[:1], logits[None, 1:], worth).item()
        axes.plot(worth[0] / values.sum(), losses, "o")
        axes.set_xlim(left=0)
        axes.set_title(f"{method.name}, SD {score:.2f}", size=9)
        axes.set_xlabel("share of the map on the part", size=8)
        axes.set_ylabel("loss of the logit without it", size=8)
        axes.tick_params(labelsize=8)
    return figure


def perturbation(case: Case) -> Figure:
    """What is removed in the two orders, and the curves."""
    shown = (0.1, 0.3, 0.5, 0.7)
    figure, pictures, (curves,) = panels(len(shown), 2, curves=1)
    most, least = metrics.positive_perturbation, metrics.negative_perturbation
    orders = {"most relevant first": most, "least relevant first": least}
    for row, (name, measure) in enumerate(orders.items()):
        recorder = Recorder(case.classifier)
        arguments = (recorder, case.image, case.maps["LeGrad"], case.target)
        measure(*arguments, fractions=shown, measure="probability", patch=PATCH)
        for column, picture in enumerate(pictures_of(recorder.images)):
            axes = pictures[row * len(shown) + column]
            axes.imshow(picture)
            axes.set_title(f"{name}\n{shown[column]:.0%} removed" if column == 0 else f"\n{shown[column]:.0%}", size=9)
        curve = measure(*arguments, measure="probability", patch=PATCH)
        curves.plot(curve.fractions, curve.values[0], label=f"{name}: {curve.score.item():.0f}")
    _labelled(curves, "share removed")
    return figure


def faithfulness(case: Case) -> Figure:
    """Deletion and insertion of two maps."""
    steps, shown = 24, (2, 5, 10)
    figure, pictures, (deleted, inserted) = panels(len(shown), 2, curves=2)
    for row, (measure, axes) in enumerate(((metrics.deletion, deleted), (metrics.insertion, inserted))):
        for name in ("LeGrad", "random"):
            recorder = Recorder(case.classifier)
            curve = measure(recorder, case.image, case.maps[name], case.target, steps=steps, patch=PATCH)
            axes.plot(curve.fractions, curve.values[0], label=f"{name}: {curve.score.item():.2f}")
            if name == "LeGrad":
                for column, step in enumerate(shown):
                    picture = pictures[row * len(shown) + column]
                    picture.imshow(pictures_of(recorder.images)[step])
                    picture.set_title(f"{measure.__name__}, {step / steps:.0%}", size=9)
        _labelled(axes, "share of the patches")
        axes.set_title(measure.__name__, size=9)
    return figure


def road(case: Case) -> Figure:
    """Removed pixels in black, and as ROAD imputes them."""
    shown = (0.3, 0.6)
    figure, pictures, (curves,) = panels(2 * len(shown), curves=1)
    values = case.maps["LeGrad"]
    black, imputed = Recorder(case.classifier), Recorder(case.classifier)
    metrics.positive_perturbation(black, case.image, values, case.target, fractions=shown, fill=-1.0)
    metrics.road(imputed, case.image, values, case.target, fractions=shown)
    images = pictures_of(black.images) + pictures_of(imputed.images)
    names = [*(f"{each:.0%} black" for each in shown), *(f"{each:.0%} imputed" for each in shown)]
    for axes, image, name in zip(pictures, images, names, strict=True):
        axes.imshow(image)
        axes.set_title(name, size=9)
    for order, name in (("morf", "most relevant first"), ("lerf", "least relevant first")):
        curve = metrics.road(Recorder(case.classifier), case.image, values, case.target, order=order)  # type: ignore[arg-type]
        curves.plot(curve.fractions, curve.values[0], label=f"{name}: {curve.score.item():.2f}")
    _labelled(curves, "share imputed")
    return figure


def sanity(case: Case) -> Figure:
    """Maps while the weights are drawn anew, from the head down."""
    loaded = load_model("scenes:vit")
    classifier = adapt(loaded.model)
    seen: list[Tensor] = []

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        seen.append(LeGrad(classifier).attribute(images, target=targets).sum(1).detach())
        return seen[-1]

    metric = ModelRandomisation(loaded.model, explain)
    metric.update(case.image, case.target)
    similarities = dict(reversed(metric.mean_curve().items()))  # the head's first
    names = ["as trained", *similarities]
    figure, pictures, (curve,) = panels(4, 2, curves=1)
    for axes, name, values in zip(pictures, names, seen, strict=False):
        case.show(axes, values[0])
        axes.set_title(name if name == "as trained" else f"down to {name}", size=8)
    curve.plot([1.0, *similarities.values()], range(len(names)), "o-")
    curve.set_yticks(range(len(names)), names, size=7)
    curve.invert_yaxis()
    curve.set_xlabel("rank correlation with the first map", size=8)
    curve.tick_params(axis="x", labelsize=8)
    return figure


def complexity(case: Case) -> Figure:
    """How few pixels hold how much of a map."""
    figure, pictures, (curves,) = panels(3, curves=1)
    for axes, name in zip(pictures, ("CheferCAM", "LeGrad", "random"), strict=True):
        values = case.maps[name]
        case.show(axes, values[0])
        sparse, entropy = metrics.sparseness(values).item(), metrics.entropy(values).item()
        axes.set_title(f"{name}, entropy {entropy:.1f}\nsparseness {sparse:.2f}", size=9)
        ordered = values.abs().flatten().sort(descending=True).values.cumsum(0) / values.abs().sum()
        curves.plot(torch.linspace(0, 1, len(ordered)), ordered, label=name)
    _labelled(curves, "share of the pixels, highest first")
    curves.set_ylabel("share of the map", size=8)
    return figure


def prompts(case: Case) -> Figure:
    """Maps of two prompts that are true and of one that is not, on one scale."""
    loaded = load_model("scenes:clip")
    present = [each.name for each in case.scene.objects]
    absent = next(name for name in CLASSES if name.split()[0] == present[0].split()[0] and name not in present)
    assert loaded.load_tokenizer is not None
    model = PromptClassifier(loaded.model, loaded.load_tokenizer(), [*present, absent], template="a photo of a {}.")
    image = loaded.preprocess(case.scene.picture)[None]
    maps = upsample(LeGrad(model).attribute_targets(image, [*present, absent])[:, :, 0].detach(), (96, 96))[0]
    figure, pictures, _ = panels(4)
    case.show(pictures[0])
    pictures[0].set_title("the object outlined\n", size=9)
    for axes, name, values in zip(pictures[1:], [*present, absent], maps, strict=True):
        axes.imshow(values, cmap="inferno", vmin=maps.min(), vmax=maps.max())
        outline(axes, case.mask[0].numpy())
        share = metrics.wrong_prompt_energy(maps[:1], values[None], case.mask).item()
        axes.set_title(name if name != absent else f"{name} (absent)\nenergy on the object {share:.2f}", size=9)
    return figure


def captum(case: Case) -> Figure:
    """What patches are said to be worth against what their loss costs."""
    figure, pictures, scatters = panels(1, curves=2)
    score = case.classifier
    generator = torch.Generator().manual_seed(SEED)
    away = torch.rand(200, 1, 12, 12, generator=generator) < 0.1
    pixels = away.repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():
        changed = torch.cat([score(each) for each in case.image.masked_fill(pixels, 0.0).split(50)])
        loss = (score(case.image) - changed)[:, case.target.item()]
    pictures[0].imshow(pictures_of([case.image[0].masked_fill(pixels[0], 0.0)])[0])
    pictures[0].set_title("one change of 200\n", size=9)
    for axes, name in zip(scatters, ("CheferCAM", "random"), strict=True):
        values = case.maps[name]
        worth = (values * pixels[:, 0]).sum((1, 2)) / values.sum()
        with torch.no_grad():
            infidelity = metrics.infidelity(score, case.image, values, case.target, patch=PATCH).item()
        axes.plot(worth, loss, "o", markersize=3, alpha=0.6)
        axes.set_title(f"{name}, infidelity {infidelity:.2f}", size=9)
        axes.set_xlabel("share of the map that was changed", size=8)
        axes.set_ylabel("loss of the logit", size=8)
        axes.tick_params(labelsize=8)
    return figure


def layers(case: Case) -> Figure:
    """How the three models' maps are spread over their blocks, in all scenes and by class."""
    dataset = SceneSamples(Scenes(100, seed=SEED, shapes=("star", "ring")))
    prompts = tuple(with_article(each) for each in dataset.classes)
    curves = {}
    for name in SCENE_MODELS:
        subject = subject_of(load_model(f"scenes:{name}"), prompts=prompts)
        curves[subject.name] = layer_distribution(subject, dataset, progress=False).curves()
    lines = {name: found.pop("all") for name, found in curves.items()}
    return fingerprint(lines, classes=curves)


def save(figure: Figure, path: Path, *, dpi: int = 110, colours: int = 128) -> None:
    """Writes a picture in few colours, which do, in a third of the bytes."""
    file = BytesIO()
    figure.savefig(file, dpi=dpi, bbox_inches="tight")
    plt.close(figure)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(colours).save(path, optimize=True)


def _labelled(axes: Axes, what: str) -> None:
    axes.set_xlabel(what, size=8)
    axes.set_ylabel("probability of the object's class", size=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False)


PICTURES: dict[str, Callable[[Case], Figure]] = {
    each.__name__: each
    for each in (
        captum,
        complexity,
        faithfulness,
        layers,
        localisation,
        parts,
        perturbation,
        points,
        prompts,
        road,
        sanity,
        segmentation,
    )
}
"""By the name of the page that shows it."""


def main() -> None:
    """Draws all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], default=[])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    case = Case()
    for name in options.names or PICTURES:
        save(PICTURES[name](case), options.folder / f"{name}.png")


if __name__ == "__main__":
    main()
