"""One image explained: read, attributed by every method, drawn and saved."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captum_vit.adapters import Adapter, PromptClassifier
from captum_vit.attr import BlankMapError, ViTAttribution, upsample
from captum_vit.data import with_article
from captum_vit.viz import figure
from captum_vit.zoo import LoadedModel, load_image, load_scene

__all__ = [
    "Explanation",
    "Job",
    "Outcome",
    "Question",
    "SavingError",
    "drawn",
    "explain_image",
    "explained",
    "prepared",
    "result_stems",
]

_PACKAGES = ("captum-vit", "torch", "torchvision", "timm", "transformers", "open_clip_torch")


@dataclass(frozen=True)
class Question:
    """What every image is asked.

    Attributes:
        loaded: the model with its preprocessing.
        adapter: the classifier that is explained, on ``device``.
        methods: by the text that asks for each, ``legrad`` or ``grad-cam(block=-2)``.
        targets: output indices; None for the objects of a scene, and the predicted class of another image.
        device: where the model is.
    """

    loaded: LoadedModel
    adapter: Adapter
    methods: dict[str, ViTAttribution]
    targets: list[int] | None
    device: str


@dataclass(frozen=True)
class Job(Question):
    """What is done with every image.

    Attributes:
        output: folder of the results.
        seed: of random weights.
    """

    output: Path
    seed: int


@dataclass(frozen=True)
class Explanation:
    """The maps of one image.

    Attributes:
        pixels: the preprocessed image, (1, C, H, W).
        maps: raw, (T, 1, gh, gw), as ``methods`` of the question; a method whose map is blank is missing.
        targets: T output indices.
        labels: what they stand for.
        scores: their logits, (T,).
        masks: (T, H, W), the object of each target in a scene; empty otherwise.
        predicted: whether the target is the predicted class, because none was asked for.
        problems: why methods are missing.
    """

    pixels: Tensor
    maps: dict[str, Tensor]
    targets: list[int]
    labels: list[str]
    scores: Tensor
    masks: NDArray[np.bool_]
    predicted: bool
    problems: list[str]


@dataclass
class Outcome:
    """What became of one image: lines to print, and problems to report at the end."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class SavingError(Exception):
    """A result that can't be written: a folder stands in its place, or the disk is full."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path} can't be written: {error.strerror or error}.")


@contextmanager
def _saving(path: Path) -> Iterator[Path]:
    try:
        yield path
    except OSError as error:
        raise SavingError(path, error) from error


def result_stems(images: Sequence[str], output: Path) -> list[str]:
    """File names without ending, one per image, none twice and none that would overwrite an image that is explained.

    A second ``cat`` becomes ``cat-2``. Names that differ only in case count as equal, as some file systems do.
    """
    inputs = {Path(image).resolve() for image in images}
    stems: list[str] = []
    for image in images:
        base = image.replace(":", "-") if image.startswith("scene:") else Path(image.removeprefix("skimage:")).stem
        stem, number = base, 1
        while stem.casefold() in {each.casefold() for each in stems} or _paths(output, stem) & inputs:
            number += 1
            stem = f"{base}-{number}"
        stems.append(stem)
    return stems


def _paths(output: Path, stem: str) -> set[Path]:
    return {(output / f"{stem}{ending}").resolve() for ending in (".png", ".npz")}


def explain_image(job: Job, spec: str, stem: str) -> Outcome:
    """Explains one image by every method and writes its figure and its maps.

    A method whose map is blank is left out of both and reported; with no map at all nothing is written.

    Raises:
        SavingError: one of them can't be written.
    """
    try:
        pixels = prepared(job, load_image(spec))
    except (ValueError, OSError, ImportError) as error:
        return Outcome(problems=[str(error)])
    explanation = explained(job, pixels, spec)
    if explanation.maps:
        _save(job, spec, stem, explanation)
    predicted = "predicted " if explanation.predicted else ""
    scored = zip(explanation.labels, explanation.scores, strict=True)
    what = "; ".join(f"{predicted}{label} (logit {score:.2f})" for label, score in scored)
    where = f" -> {job.output / stem}.png, .npz" if explanation.maps else ""
    return Outcome([f"{spec}: {what}{where}"], explanation.problems)


def prepared(question: Question, image: Image.Image) -> Tensor:
    """An image as the model takes it, (1, C, H, W).

    Raises:
        ValueError: a size that the model can't take.
    """
    pixels = question.loaded.preprocess(image)[None].to(question.device)
    question.adapter.check_images(pixels)
    return pixels


def explained(question: Question, pixels: Tensor, spec: str) -> Explanation:
    """The maps of an image by every method; ``spec`` says whether it is a scene, whose objects are known.

    Raises:
        RuntimeError: attention that can't be captured.
    """
    with torch.no_grad():
        logits = question.adapter(pixels)[0]  # (K,)
    masks = _object_masks(question, spec)
    targets = question.targets if question.targets is not None else list(masks) or [int(logits.argmax())]
    maps: dict[str, Tensor] = {}
    problems = []
    for name, method in question.methods.items():
        try:
            maps[name] = method.attribute_targets(pixels, targets)[0].cpu()
        except BlankMapError as error:
            problems.append(str(error))
    nothing = np.zeros(tuple(pixels.shape[-2:]), dtype=bool)
    return Explanation(
        pixels=pixels,
        maps=maps,
        targets=targets,
        labels=[_label(question, target) for target in targets],
        scores=logits[targets].float().cpu(),
        masks=np.stack([masks.get(target, nothing) for target in targets]),
        predicted=question.targets is None and not masks,
        problems=problems,
    )


def drawn(
    question: Question,
    explanation: Explanation,
    maps: Mapping[str, Tensor],
    *,
    title: str,
    signed: Collection[str] = (),
    **options: float,
) -> Figure:
    """A row per target, a column for each name in ``maps``, (T, 1, gh, gw); ``options`` are those of `figure`."""
    image = _shown(question, explanation)
    size = (image.shape[0], image.shape[1])
    covered = question.adapter.covered(*size)
    scored = zip(explanation.labels, explanation.scores, strict=True)
    return figure(
        image,
        {name: upsample(each, size, covered)[:, 0].numpy() for name, each in maps.items()},
        rows=[f"{label}\nlogit {score:.2f}" for label, score in scored],
        masks=explanation.masks,
        signed=signed,
        title=title,
        notice=None if question.loaded.pretrained else "UNTRAINED WEIGHTS: these maps mean nothing",
        **options,
    )


def _shown(question: Question, explanation: Explanation) -> NDArray[np.float32]:
    """The image as the model saw it, (H, W, 3) in [0, 1]."""
    image: NDArray[np.float32] = question.loaded.denormalise(explanation.pixels[0].float()).permute(1, 2, 0).numpy()
    return image


def _label(question: Question, target: int) -> str:
    if isinstance(question.adapter, PromptClassifier):
        return question.adapter.prompts[target]
    names = question.loaded.class_names
    return str(target) if names is None else f"{target} {names[target]}"


def _object_masks(question: Question, spec: str) -> dict[int, NDArray[np.bool_]]:
    """The masks (H, W) of a scene's objects by the output that names them, as the model's preprocessing places them."""
    if not spec.startswith("scene:"):
        return {}
    if isinstance(question.adapter, PromptClassifier):
        outputs = {prompt: index for index, prompt in enumerate(question.adapter.prompts)}
    else:
        outputs = {with_article(name): index for index, name in enumerate(question.loaded.class_names or ())}
    masks = {}
    for each in load_scene(spec).objects:
        if each.phrase in outputs:
            picture = Image.fromarray(255 * each.mask.byte().numpy()).convert("RGB")
            masks[outputs[each.phrase]] = (
                question.loaded.denormalise(question.loaded.preprocess(picture))[0] > 0.5
            ).numpy()
    return masks


def _titles(methods: Mapping[str, ViTAttribution]) -> dict[str, str]:
    """The papers' names with the options that were asked for; where two were the same, what was asked."""
    titles = {asked: "".join([method.get_name(), *asked.partition("(")[1:]]) for asked, method in methods.items()}
    return titles if len(set(titles.values())) == len(titles) else {asked: asked for asked in methods}


def _save(job: Job, spec: str, stem: str, explanation: Explanation) -> None:
    maps = explanation.maps
    with _saving(job.output / f"{stem}.npz") as path:
        np.savez_compressed(
            path,
            maps=torch.stack(list(maps.values()))[:, :, 0].numpy(),  # (methods, T, gh, gw), raw
            methods=np.array(list(maps)),
            targets=np.array(explanation.targets),
            labels=np.array(explanation.labels),
            logits=explanation.scores.numpy(),
            grid=np.array(job.adapter.grid(*job.loaded.image_size)),
            image=(_shown(job, explanation) * 255).round().astype(np.uint8),
            masks=explanation.masks,
            source=np.array(spec),
            model=np.array(job.loaded.name),
            pretrained=np.array(job.loaded.pretrained),
            seed=np.array(job.seed),
            versions=np.array(json.dumps({each: version(each) for each in _PACKAGES})),
        )
    titles = _titles(job.methods)
    made = drawn(
        job,
        explanation,
        {titles[name]: each for name, each in maps.items()},
        title=f"{job.loaded.name} on {Path(spec).name}",
        signed=[titles[name] for name, method in job.methods.items() if method.signed],
    )
    with _saving(job.output / f"{stem}.png") as path:
        made.savefig(path)
