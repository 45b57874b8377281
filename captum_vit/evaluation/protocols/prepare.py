"""The model and the dataset of a run, brought to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from captum_vit.data import DamagedSampleError, Geometry, Sample
from captum_vit.data.imagenet_names import imagenet_names
from captum_vit.evaluation.protocols.foreground import DetectedMasks
from captum_vit.evaluation.protocols.task import Task
from captum_vit.evaluation.subject import Subject, subject_of
from captum_vit.evaluation.targets import region_embeddings

__all__ = ["prepared"]


def prepared(task: Task) -> tuple[Subject, Dataset[Sample], list[str]]:
    """The subject, the dataset, and notes.

    Raises:
        ValueError: regions without an embedding; no image with the confidence that is asked for.
    """
    run, dataset, notes = task.run, task.dataset, []
    subject = _subject(task)
    if run.detected:
        dataset = DetectedMasks(dataset, task.chosen["score_threshold"], task.device)
    if run.confidence:
        seen = _length(dataset, task.limit)
        dataset = Selected(dataset, _confident(dataset, subject, run.confidence, seen))
        kept = len(dataset)
        notes.append(f"{kept} of {seen} images have a predicted class with a probability above {run.confidence}")
    return subject, dataset, notes


def _subject(task: Task) -> Subject:
    loaded = task.loaded
    options: dict[str, Any] = {"geometry": Geometry(loaded.image_size, **task.run.geometry), "device": task.device}
    if task.run.prompts == "embeddings":
        vectors = region_embeddings(task.dataset, _length(task.dataset, task.limit))
        return subject_of(loaded, prompts=tuple(vectors), embeddings=torch.stack(list(vectors.values())), **options)
    if loaded.load_tokenizer is None:
        return subject_of(loaded, **options)
    names = _class_names(task.dataset)
    unique = tuple(dict.fromkeys(names))
    embeddings = task.encode(unique)[[unique.index(each) for each in names]]
    return subject_of(loaded, prompts=names, embeddings=embeddings, **options)


def _class_names(dataset: Any) -> tuple[str, ...]:
    """What the prompts are: the dataset's classes, or all of ImageNet's; those of ImageNet by OpenCLIP's names."""
    import open_clip

    named = dict(zip(imagenet_names(), open_clip.IMAGENET_CLASSNAMES, strict=True))
    classes, wnids = tuple(getattr(dataset, "classes", ())), tuple(getattr(dataset, "wnids", ()))
    if not classes or (wnids and set(wnids) <= set(named)):
        return tuple(named.values())
    return tuple(named.get(wnid, name) for wnid, name in zip(wnids, classes, strict=True)) if wnids else classes


def _length(dataset: Any, limit: int | None) -> int:
    return len(dataset) if limit is None else min(limit, len(dataset))


class Selected(Dataset[Sample]):
    """Some samples of a dataset.

    Args:
        dataset: all samples.
        indices: which.
    """

    def __init__(self, dataset: Dataset[Sample], indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, tuple(indices)
        self.classes = tuple(getattr(dataset, "classes", ()))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]


def _confident(dataset: Dataset[Sample], subject: Subject, confidence: float, length: int) -> list[int]:
    """The samples whose predicted class is more probable than that, and those that can't be read."""
    chosen, highest = [], 0.0
    for index in range(length):
        try:
            pixels = subject.pixels(subject.geometry(dataset[index]))
        except DamagedSampleError:
            chosen.append(index)  # evaluation lists it
            continue
        with torch.inference_mode():
            probability = float(subject.score(pixels[None].to(subject.device)).max())
        highest = max(highest, probability)
        if probability > confidence:
            chosen.append(index)
    if not chosen:
        raise ValueError(
            f"the dataset must have an image whose predicted class has a probability above {confidence}, got "
            f"{highest:.3f} at most with {subject.name}."
        )
    return chosen
