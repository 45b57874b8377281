"""The work of ``captum-vit evaluate``: what its options name, and what it prints."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import typer
from torch.utils.data import Dataset

from captum_vit.adapters import PromptClassifier
from captum_vit.attr import METHODS
from captum_vit.cli.arguments import is_first_process, refuse
from captum_vit.data import ADE20KPrompted, DamagedSampleError, Geometry, Sample, SceneSamples, with_article
from captum_vit.evaluation import Result, Subject, dataset_of, evaluate, layer_distribution, subject_of, write_layers
from captum_vit.evaluation.datasets import parse_name
from captum_vit.evaluation.explainers import RANDOM
from captum_vit.evaluation.protocols import run_protocol
from captum_vit.evaluation.specs import split_specs
from captum_vit.evaluation.targets import region_embeddings
from captum_vit.zoo import LoadedModel, WeightsUnavailableError

__all__ = [
    "evaluated",
    "method_specs",
    "metric_specs",
    "prompts_of",
    "report",
    "report_layers",
    "run_table",
    "samples_of",
    "subject_for",
]

_LISTED = 5
"""Skipped samples that are printed."""

_LAYERS = "layers"
"""Folder in that of the results, where the blocks of every map are kept."""


def samples_of(text: str) -> Dataset[Sample]:
    """The dataset of ``--dataset``."""
    try:
        return dataset_of(text)
    except (ValueError, FileNotFoundError, ImportError) as error:
        refuse(str(error), "--dataset")


def subject_for(
    loaded: LoadedModel,
    samples: Dataset[Sample],
    prompts: Path | None,
    template: str | None,
    resize: Literal["squash", "crop"],
    device: str,
    limit: int | None = None,
) -> Subject:
    """The model of ``--model``; one that reads texts is asked for the prompts, or for what the dataset has."""
    geometry = Geometry(loaded.image_size, mode=resize)
    if loaded.load_tokenizer is None:
        if prompts is not None or template is not None:
            refuse(f"{loaded.name} reads no texts.", "--prompts" if prompts is not None else "--template")
        return subject_of(loaded, geometry=geometry, device=device)
    if prompts is None and isinstance(samples, ADE20KPrompted):
        if template is not None:
            refuse("stands around texts, and the dataset has sounds.", "--template")
        return _subject_for_embeddings(loaded, samples, geometry, device, limit)
    try:
        asked, usual = _asked(samples, prompts)
    except OSError as error:
        refuse(f"{prompts} can't be read: {error.strerror}.", "--prompts")
    if not asked:
        refuse(f"{loaded.name} compares images with texts and the dataset has none: give a file.", "--prompts")
    try:
        return subject_of(loaded, prompts=asked, template=template or usual, geometry=geometry, device=device)
    except (ValueError, TypeError, ImportError, WeightsUnavailableError) as error:
        refuse(str(error), "--template" if str(error).startswith("template") else "--prompts")


def _subject_for_embeddings(
    loaded: LoadedModel, samples: Any, geometry: Geometry, device: str, limit: int | None
) -> Subject:
    """The model asked for sounds: the classes of the dataset are numbers, and its prompts files."""
    try:
        vectors = region_embeddings(samples, len(samples) if limit is None else min(limit, len(samples)))
        if not vectors:
            refuse("holds no sample that can be read.", "--dataset")
        stacked = torch.stack(list(vectors.values()))
        return subject_of(loaded, prompts=tuple(vectors), embeddings=stacked, geometry=geometry, device=device)
    except ValueError as error:
        refuse(str(error), "--dataset")


def _asked(samples: Any, prompts: Path | None) -> tuple[tuple[str, ...], str]:
    """The prompts, and the sentence that is usual around them."""
    if prompts is not None:
        return tuple(line.strip() for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()), "{}"
    if isinstance(samples, SceneSamples):
        return tuple(map(with_article, samples.classes)), "a photo of {}."
    if getattr(samples, "classes", ()):
        return tuple(samples.classes), "a photo of a {}."
    return tuple(getattr(samples, "prompts", ())), "{}"


def prompts_of(subject: Subject) -> list[str] | None:
    """What a model that reads texts is asked for."""
    return list(subject.model.prompts) if isinstance(subject.model, PromptClassifier) else None


def method_specs(given: Sequence[str] | None) -> list[str]:
    """The methods of ``--method``; all, and noise to compare them with, by default."""
    return _specs(given, "--method") or [*METHODS, RANDOM]


def metric_specs(given: Sequence[str] | None, samples: Any, subject: Subject) -> list[str]:
    """The metrics of ``--metric``; by default those that the annotations of the first sample allow."""
    named = _specs(given, "--metric")
    if named:
        return named
    region = next(each.regions[0] for each in _whole(samples))
    patch = ", patch='grid'" if isinstance(subject.model, PromptClassifier) or hasattr(subject.model, "grid") else ""
    chosen = [f"insertion(steps=28{patch})", f"deletion(steps=28{patch})"]
    if region.points is not None:
        chosen.insert(0, "point-miou")
    if region.mask is not None:
        tolerance = max(1, round(15 / 224 * min(subject.geometry.size)))
        located = [f"pointing-game(tolerance={tolerance})", "energy-inside", "segmentation(preset='legrad')"]
        chosen = located + chosen
    return chosen


def _whole(samples: Any) -> Any:
    """The samples that can be read."""
    for index in range(len(samples)):
        try:
            yield samples[index]
        except DamagedSampleError:
            continue
    refuse("holds no sample that can be read.", "--dataset")


def _specs(given: Sequence[str] | None, option: str) -> list[str]:
    try:
        return [spec for text in given or () for spec in split_specs(text)]
    except ValueError as error:
        refuse(str(error), option)


def evaluated(subject: Subject, samples: Dataset[Sample], *, folder: Path, **options: Any) -> Result:
    """`captum_vit.evaluation.evaluate`, its errors as those of a command."""
    try:
        return evaluate(subject, samples, folder=folder, **options)
    except ValueError as error:
        refuse(str(error))
    except OSError as error:
        _end(folder, error)


def run_table(
    name: str,
    datasets: Sequence[str],
    model: LoadedModel | None,
    choices: Sequence[str],
    folder: Path,
    **settings: Any,
) -> None:
    """Runs the protocol of ``--protocol``, writes its table and prints it."""
    try:
        kinds = [parse_name(each) for each in datasets]
    except ValueError as error:
        refuse(str(error), "--dataset")
    data: Any = datasets[0]
    if kinds != ["scenes"]:
        data = {kind: samples_of(each) for kind, each in zip(kinds, datasets, strict=True)}
    try:
        result = run_protocol(name, datasets=data, models=model, choices=_choices(choices), folder=folder, **settings)
    except (ValueError, WeightsUnavailableError) as error:
        refuse(str(error), "--protocol")
    except OSError as error:
        _end(folder, error)
    if not is_first_process():
        return
    text = result.markdown()
    try:
        (folder / "protocol.md").write_text(text, encoding="utf-8")
        result.table.to_csv(folder / "protocol.csv", index=False)
    except OSError as error:
        _end(folder, error)
    typer.echo(text)
    typer.echo(f"Table and results: {folder}")


def _choices(given: Sequence[str]) -> dict[str, Any]:
    """``threshold=0.4`` as a name and a value; what is no number or other literal is a text."""
    chosen = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            refuse(f"must be NAME=VALUE, got {text!r}.", "--choice")
        try:
            chosen[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            chosen[name] = value
    return chosen


def report(result: Result, folder: Path) -> None:
    """Writes the tables and prints them."""
    try:
        result.write(folder)
    except OSError as error:
        _end(folder, error)
    typer.echo(result.text())
    typer.echo("")
    typer.echo(result.costs().round(1).to_string(index=False))
    if result.predicted:
        typer.echo(
            f"Maps of the predicted class, since their regions have none of the model's: {result.predicted}", err=True
        )
    lost = result.table().groupby("method")[["blank", "excluded"]].max()
    for name, (blank, excluded) in lost[lost.any(axis=1)].iterrows():
        typer.echo(f"{name}: {blank} blank maps, at most {excluded} without a value", err=True)
    for name, reason in result.unsupported.items():
        typer.echo(f"Left out: {name}: {reason}", err=True)
    skipped = list(result.skipped.items())
    if skipped:
        typer.echo(f"Skipped, since they can't be read: {len(skipped)}", err=True)
    for name, reason in skipped[:_LISTED]:
        typer.echo(f"  {name}: {reason}", err=True)
    if len(skipped) > _LISTED:
        typer.echo(f"  and {len(skipped) - _LISTED} more, see the results.", err=True)
    typer.echo(f"Tables and results: {folder}")


def report_layers(subject: Subject, samples: Dataset[Sample], folder: Path, **options: Any) -> None:
    """Finds how LeGrad's maps are spread over the blocks, resuming and in all processes; the first prints it."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        distribution = layer_distribution(subject, samples, folder=folder / _LAYERS, **given)
        if not is_first_process():
            return
        write_layers(folder, distribution)
    except (ValueError, TypeError) as error:
        refuse(str(error), "--layers")
    except OSError as error:
        _end(folder, error)
    typer.echo(f"\n{distribution.markdown()}\n{folder / 'layers.png'}")


def _end(folder: Path, error: OSError) -> NoReturn:
    typer.echo(f"{folder} can't be written: {error.strerror or error}. What was finished is kept there.", err=True)
    raise typer.Exit(1) from error
