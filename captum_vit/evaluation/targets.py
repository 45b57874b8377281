"""Which output of a model a region of a sample asks for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset

from captum_vit.adapters import PromptClassifier
from captum_vit.data import DamagedSampleError, Region, Sample
from captum_vit.data.imagenet_names import imagenet_names
from captum_vit.evaluation.subject import Subject

__all__ = ["TargetChoice", "Targets", "outputs_of_classes", "region_embeddings"]

TargetChoice = Literal["label", "predicted"]


class Targets:
    """From regions to outputs.

    Args:
        subject: the model.
        dataset: where the regions come from; its ``classes`` and ``wnids`` say what their labels mean.
        choice: "label" asks for the class or prompt of a region, and for the predicted class where it has none;
            "predicted" asks for the predicted class always.

    Attributes:
        choice: the same.

    Raises:
        ValueError: another choice; a class that the model has no output for.
    """

    def __init__(self, subject: Subject, dataset: object, choice: TargetChoice) -> None:
        if choice not in ("label", "predicted"):
            raise ValueError(f"target must be 'label' or 'predicted', got {choice!r}.")
        self.choice, self._subject, self._dataset = choice, subject, dataset
        self._prompts = subject.model.prompts if isinstance(subject.model, PromptClassifier) else ()
        if choice == "label" and not self._prompts:  # regions may ask for prompts in other ways than by their class
            _ = self._outputs  # refused now, not when the first sample comes

    @cached_property
    def _outputs(self) -> Sequence[int | None] | None:
        return outputs_of_classes(self._subject, self._dataset)

    def known(self, region: Region) -> int | None:
        """The output of the region's own class or prompt; None where the predicted class is asked for.

        Raises:
            ValueError: a label that the model has no output for.
        """
        return None if self.choice == "predicted" else self.right(region)

    def right(self, region: Region) -> int | None:
        """The output of the region's own class or prompt, whatever is asked for; None where it has neither.

        A region with an embedding of its own asks for the prompt of the model that is named like its prompt.

        Raises:
            ValueError: a label or an embedding that the model has no output for.
        """
        if region.embedding is not None and isinstance(self._subject.model, PromptClassifier):
            return self._subject.model.target_index(str(region.prompt))
        if region.label is None:
            return self._prompts.index(region.prompt) if region.prompt in self._prompts else None
        if self._outputs is not None:
            return self._outputs[region.label]
        if not 0 <= region.label < self._subject.outputs:
            raise ValueError(
                f"label must be one of the model's {self._subject.outputs} outputs, got {region.label}: the classes of "
                f"the dataset are not those of {self._subject.name}. Choose target='predicted'."
            )
        return region.label


def outputs_of_classes(subject: Subject, dataset: Any) -> Sequence[int | None] | None:
    """The model's output for each class of a dataset.

    A model that reads texts was given the classes as prompts, in their order. For a classifier, classes are found by
    their WordNet ids, where the dataset has them and the model has the 1000 outputs of ImageNet-1k, or by their names,
    where the model's are known. Where they are not, there must be as many classes as outputs. WordNet ids count also
    for a model that was given the 1000 names of ImageNet as prompts. Of a dataset with classes of ImageNet outside of
    these 1000, such as ImageNet-Segmentation, they have no output.

    Args:
        subject: the model.
        dataset: with ``classes``, and ``wnids`` where it has WordNet ids.

    Returns:
        None where the dataset names no classes, so that its labels are the model's outputs; otherwise one per class,
        None for a class of ImageNet outside of the 1000.

    Raises:
        ValueError: another class that the model has no output for.
    """
    classes, wnids = tuple(getattr(dataset, "classes", ())), tuple(getattr(dataset, "wnids", ()))
    if not classes:
        return None
    imagenet = {wnid: output for output, wnid in enumerate(imagenet_names() if wnids else ())}
    found = [imagenet.get(each) for each in wnids]
    known = len(found) - found.count(None)
    if known and subject.outputs == len(imagenet) and (known == len(found) or len(found) != subject.outputs):
        return found
    if subject.class_names is None or isinstance(subject.model, PromptClassifier):
        if len(classes) == subject.outputs:
            return range(subject.outputs)
        lacking = f"its {subject.outputs} outputs have no such names"
    else:
        missing = [each for each in classes if each not in subject.class_names]
        if not missing:
            return [subject.class_names.index(each) for each in classes]
        lacking = f"it has no {missing[0]!r}"
    raise ValueError(
        f"the {len(classes)} classes of the dataset must be among those of {subject.name}: {lacking}. "
        "Choose target='predicted'."
    )


def region_embeddings(dataset: Dataset[Sample], length: int) -> dict[str, Tensor]:
    """The embedding of every region of the first samples by its prompt, which names it.

    Raises:
        ValueError: a region without an embedding.
    """
    vectors: dict[str, Tensor] = {}
    for index in range(length):
        try:
            sample = dataset[index]
        except DamagedSampleError:
            continue  # evaluation lists it
        for region in sample.regions:
            if region.embedding is None:
                raise ValueError(
                    f"regions must have an embedding, got none in sample {sample.id}. Give them with the dataset: "
                    "embeddings=..."
                )
            vectors[str(region.prompt)] = region.embedding.float()
    return vectors
