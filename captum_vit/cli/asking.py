"""What a model is asked: classes, or prompts with which it becomes a classifier, by which methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from captum_vit.cli.arguments import class_index, refuse

if TYPE_CHECKING:
    from captum_vit.adapters import Adapter
    from captum_vit.attr import ViTAttribution
    from captum_vit.cli.job import Question
    from captum_vit.evaluation.specs import Spec
    from captum_vit.zoo import LoadedModel

__all__ = ["classifier_of", "names_in", "question_of", "unknown_words"]


def names_in(specs: Sequence[str], loaded: LoadedModel) -> list[str]:
    """What a model that reads texts is asked when there is no prompt: the objects of the scenes, if all are scenes."""
    from captum_vit.zoo import load_scene

    if loaded.load_tokenizer is None or not all(each.startswith("scene:") for each in specs):
        return []
    try:
        return list(dict.fromkeys(each.phrase for spec in specs for each in load_scene(spec).objects))
    except ValueError as error:
        refuse(str(error), "--scene")


def unknown_words(loaded: LoadedModel, prompts: Sequence[str]) -> str | None:
    """Says which words of the prompts the model can't have learned anything about."""
    if loaded.unknown_words is None:
        return None
    unknown = list(dict.fromkeys(word for prompt in prompts for word in loaded.unknown_words(prompt)))
    if not unknown:
        return None
    return (
        f"{loaded.name} never saw the words {', '.join(map(repr, unknown))}: they mean nothing to it. It knows "
        "prompts such as 'a photo of a red star'."
    )


def classifier_of(
    loaded: LoadedModel,
    prompts: Sequence[str] | None,
    template: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
) -> Adapter:
    """The classifier to explain: the model itself, or the model with prompts."""
    from captum_vit.adapters import PromptClassifier, adapt
    from captum_vit.zoo import WeightsUnavailableError

    if loaded.load_tokenizer is None:
        if prompts or template:
            option = "--prompt" if prompts else "--template"
            refuse(f"{loaded.name} reads no texts; choose classes with --target.", option)
        try:
            return adapt(loaded.model)
        except TypeError as error:
            refuse(str(error), "--model")
    if targets:
        refuse(f"{loaded.name} has no classes; compare the image with texts: --prompt 'a cat'.", "--target")
    if not prompts:
        refuse(f"{loaded.name} compares images with texts and needs at least one: --prompt 'a cat'.", "--prompt")
    try:
        return PromptClassifier(loaded.model, loaded.load_tokenizer(), prompts, template=template or "{}")
    except (ValueError, TypeError, ImportError, WeightsUnavailableError) as error:
        refuse(str(error), "--template" if str(error).startswith("template") else "--prompt")


def question_of(
    loaded: LoadedModel,
    adapter: Adapter,
    methods: Sequence[Spec],
    targets: Sequence[str] | None,
    prompted: bool,
    device: str,
) -> Question:
    """What every image is asked: the classes or prompts, by which methods.

    Args:
        loaded: the model.
        adapter: its classifier, from `classifier_of`.
        methods: by name, with options.
        targets: classes as texts.
        prompted: whether the prompts were asked for, and not taken from the scenes.
        device: where the model is.
    """
    from captum_vit.adapters import PromptClassifier
    from captum_vit.cli.job import Question

    if isinstance(adapter, PromptClassifier):
        indices: list[int] | None = list(range(adapter.num_outputs)) if prompted else None
    elif targets:
        indices = list(dict.fromkeys(class_index(each, loaded, adapter.num_outputs) for each in targets))
    elif loaded.outputs == "features":
        refuse(f"{loaded.name} has no classifier; name one of its {adapter.num_outputs} features.", "--target")
    else:
        indices = None
    try:
        adapter.grid(*loaded.image_size)
    except ValueError as error:
        refuse(str(error), "--image-size")
    return Question(loaded, adapter, _methods_of(methods, loaded, adapter, device), indices, device)


def _methods_of(specs: Sequence[Spec], loaded: LoadedModel, adapter: Adapter, device: str) -> dict[str, ViTAttribution]:
    """The methods on a classifier, by the text that asks for each."""
    import torch

    from captum_vit.cli.foreign import on_patches
    from captum_vit.data import Geometry
    from captum_vit.evaluation.explainers import UnsupportedMethodError, explainer_of
    from captum_vit.evaluation.subject import Subject

    subject = Subject(
        loaded.name,
        adapter,
        Geometry(loaded.image_size),
        loaded.mean,
        loaded.std,
        loaded.activation,
        torch.device(device),
        loaded.class_names,
    )
    methods = {}
    for spec in specs:
        try:
            explainer = explainer_of(spec, subject)
            methods[str(spec)] = explainer.method or on_patches(explainer, subject)
        except UnsupportedMethodError as error:
            refuse(f"{loaded.name} can't be explained by {spec.name}: {error}", "--method")
        except ValueError as error:
            refuse(str(error), "--method")
    return methods
