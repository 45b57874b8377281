"""One image explained: read, attributed by every method, drawn and saved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captum_vit.adapters import Adapter, PromptClassifier
from captum_vit.attr import BlankMapError, ViTAttribution, upsample
from captum_vit.data import with_article
from captum_vit.viz import figure
from captum_vit.zoo import LoadedModel, load_image, load_scene

__all__ = ["Job", "Outcome", "SavingError", "explain_image", "result_stems"]

_PACKAGES = ("captum-vit", "torch", "torchvision", "timm", "transformers", "open_clip_torch")


@dataclass(frozen=True)
class Job:
    """What is done with every image.

    Attributes:
        loaded: the model with its preprocessing.
        adapter: the classifier that is explained, on ``device``.
        methods: by command-line name.
        targets: output indices; None for the objects of a scene, and the predicted class of another image.
        device: where the model is.
        output: folder of the results.
        seed: of random weights.
    """

    loaded: LoadedModel
    adapter: Adapter
    methods: dict[str, ViTAttribution]
    targets: list[int] | None
    device: str
    output: Path
    seed: int


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
    outcome = Outcome()
    try:
        pixels = job.loaded.preprocess(load_image(spec))[None].to(job.device)
        job.adapter.check_images(pixels)
    except (ValueError, OSError, ImportError) as error:
        outcome.problems.append(str(error))
        return outcome
    with torch.no_grad():
        logits = job.adapter(pixels)[0]  # (K,)
    masks = _object_masks(job, spec)
    targets = job.targets if job.targets is not None else list(masks) or [int(logits.argmax())]
    maps: dict[str, Tensor] = {}  # (T, 1, gh, gw) each
    for name, method in job.methods.items():
        try:
            maps[name] = method.attribute_targets(pixels, targets)[0].cpu()
        except BlankMapError as error:
            outcome.problems.append(str(error))
    labels = [_label(job, target) for target in targets]
    scores = logits[targets].float().cpu()
    if maps:
        _save(job, spec, stem, pixels[0], maps, targets, labels, scores, masks)
    predicted = "predicted " if job.targets is None and not masks else ""
    what = "; ".join(f"{predicted}{label} (logit {score:.2f})" for label, score in zip(labels, scores, strict=True))
    where = f" -> {job.output / stem}.png, .npz" if maps else ""
    outcome.lines.append(f"{spec}: {what}{where}")
    return outcome


def _label(job: Job, target: int) -> str:
    if isinstance(job.adapter, PromptClassifier):
        return job.adapter.prompts[target]
    names = job.loaded.class_names
    return str(target) if names is None else f"{target} {names[target]}"


def _object_masks(job: Job, spec: str) -> dict[int, NDArray[np.bool_]]:
    """The masks (H, W) of a scene's objects by the output that names them, as the model's preprocessing places them."""
    if not spec.startswith("scene:"):
        return {}
    if isinstance(job.adapter, PromptClassifier):
        outputs = {prompt: index for index, prompt in enumerate(job.adapter.prompts)}
    else:
        outputs = {with_article(name): index for index, name in enumerate(job.loaded.class_names or ())}
    masks = {}
    for each in load_scene(spec).objects:
        if each.phrase in outputs:
            picture = Image.fromarray(255 * each.mask.byte().numpy()).convert("RGB")
            masks[outputs[each.phrase]] = (job.loaded.denormalise(job.loaded.preprocess(picture))[0] > 0.5).numpy()
    return masks


def _save(
    job: Job,
    spec: str,
    stem: str,
    pixels: Tensor,
    maps: dict[str, Tensor],
    targets: list[int],
    labels: list[str],
    scores: Tensor,
    masks: dict[int, NDArray[np.bool_]],
) -> None:
    image = job.loaded.denormalise(pixels.float()).permute(1, 2, 0).numpy()  # (H, W, 3)
    nothing = np.zeros(image.shape[:2], dtype=bool)
    outlined = np.stack([masks.get(target, nothing) for target in targets])  # (T, H, W)
    with _saving(job.output / f"{stem}.npz") as path:
        np.savez_compressed(
            path,
            maps=torch.stack(list(maps.values()))[:, :, 0].numpy(),  # (methods, T, gh, gw), raw
            methods=np.array(list(maps)),
            targets=np.array(targets),
            labels=np.array(labels),
            logits=scores.numpy(),
            grid=np.array(job.adapter.grid(*job.loaded.image_size)),
            image=(image * 255).round().astype(np.uint8),
            masks=outlined,
            source=np.array(spec),
            model=np.array(job.loaded.name),
            pretrained=np.array(job.loaded.pretrained),
            seed=np.array(job.seed),
            versions=np.array(json.dumps({each: version(each) for each in _PACKAGES})),
        )
    size = (image.shape[0], image.shape[1])
    covered = job.adapter.covered(*size)
    made = figure(
        image,
        {job.methods[name].get_name(): upsample(each, size, covered)[:, 0].numpy() for name, each in maps.items()},
        rows=[f"{label}\nlogit {score:.2f}" for label, score in zip(labels, scores, strict=True)],
        masks=outlined,
        signed=[method.get_name() for method in job.methods.values() if method.signed],
        title=f"{job.loaded.name} on {Path(spec).name}",
        notice=None if job.loaded.pretrained else "UNTRAINED WEIGHTS: these maps mean nothing",
    )
    with _saving(job.output / f"{stem}.png") as path:
        made.savefig(path)
