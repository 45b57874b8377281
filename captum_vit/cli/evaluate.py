"""``captum-vit evaluate``: methods × a model × a dataset × metrics, as one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from captum_vit.cli.arguments import (
    checked_device,
    device_of_this_process,
    image_size,
    is_first_process,
    load,
    memory_size,
    refuse,
    writable_folder,
)

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="scenes:vit (default), scenes:clip, scenes:siglip, timm:NAME, open_clip:ARCHITECTURE/TAG, hf:NAME or "
            "hf:FOLDER, torchvision:NAME. With --protocol in the place of the paper's models.",
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            "-d",
            help="scenes (default), imagenet-segmentation:PATH, imagenet-s(classes=300):PATH, ... With --protocol "
            "repeatable.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="A table of a paper, such as legrad-table-1 or gmar-table-1: it fixes methods and metrics."),
    ] = None,
    choice: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for what the paper of --protocol leaves open; repeatable."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Methods, separated by commas, with options in brackets; repeatable. Also captum:NAME, module:Class "
            "and random. All of 'captum-vit list' and random by default."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Metrics, separated by commas, with options in brackets: insertion(steps=28, patch='grid'); "
            "repeatable. By default those that the dataset's annotations allow, of pointing game, energy inside, "
            "segmentation, insertion and deletion."
        ),
    ] = None,
    target: Annotated[
        Literal["label", "predicted"],
        typer.Option(help="Explain each region's class or prompt, or the predicted class."),
    ] = "label",
    prompts: Annotated[
        Path | None, typer.Option(help="Text file with one prompt per line; the dataset's classes by default.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Sentence around each prompt, with {}.")] = None,
    resize: Annotated[
        Literal["squash", "crop"], typer.Option(help="See all of every image, or the middle in its own proportions.")
    ] = "squash",
    layers: Annotated[
        bool, typer.Option("--layers", help="Write also how the explanation is spread over the model's blocks.")
    ] = False,
    keep_maps: Annotated[
        bool,
        typer.Option(
            "--keep-maps",
            help='Keep small images and maps for the gallery of "captum-vit report"; what is measured already is not '
            "measured again.",
        ),
    ] = False,
    limit: Annotated[int | None, typer.Option(help="The first so many samples only.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Local weights: .safetensors, .pth.")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Take random weights; nothing is downloaded.")] = False,
    size: Annotated[str | None, typer.Option("--image-size", help="N or HxW; the model's own by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the model's passes (autocast).")
    ] = "float32",
    batch_size: Annotated[int | None, typer.Option(help="Maps at a time; 8 by default.")] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Such as 4GB: as many maps at a time as fit, up to 64 or --batch-size.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that read samples ahead.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of random weights, and of methods that draw random numbers.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the results; a run that was stopped goes on there.")
    ] = Path("out/evaluation"),
) -> None:
    """Evaluate methods on a model and a dataset: one table with confidence intervals, time and memory.

    The same command goes on where it was stopped. In several processes:
    torchrun --nproc-per-node 4 -m captum_vit.cli evaluate ...
    """
    if untrained and checkpoint is not None:
        refuse("can't go together with --checkpoint.", "--untrained")
    side, most_bytes = image_size(size), memory_size(memory_limit)
    weights: Literal["untrained", "pretrained"] = "untrained" if untrained else "pretrained"
    device = checked_device(device_of_this_process(device))
    folder = writable_folder(output)
    shared = {
        "limit": limit,
        "batch_size": batch_size,
        "memory_limit": most_bytes,
        "workers": workers,
        "precision": precision,
        "seed": seed,
    }
    from captum_vit.cli import evaluation

    try:
        if protocol is not None:
            if method or metric or prompts or template or layers:
                refuse("fixes methods, metrics and prompts; what the paper leaves open is a --choice.", "--protocol")
            if keep_maps:
                refuse("can't go together with --protocol.", "--keep-maps")
            given = None if model is None else load(model, weights, checkpoint, side, seed)
            evaluation.run_table(protocol, dataset or ["scenes"], given, choice or [], folder, device=device, **shared)
            return
        if choice:
            refuse("goes with --protocol.", "--choice")
        if len(dataset or []) > 1:
            refuse("must be one, unless there is a --protocol.", "--dataset")
        samples = evaluation.samples_of((dataset or ["scenes"])[0])
        loaded = load(model or "scenes:vit", weights, checkpoint, side, seed)
        subject = evaluation.subject_for(loaded, samples, prompts, template, resize, device, limit)
        named = {"data": (dataset or ["scenes"])[0], "prompts": evaluation.prompts_of(subject)}
        result = evaluation.evaluated(
            subject,
            samples,
            methods=evaluation.method_specs(method),
            metrics=evaluation.metric_specs(metric, samples, subject),
            folder=folder,
            target=target,
            keep_maps=keep_maps,
            description=named,
            **shared,
        )
        if is_first_process():
            evaluation.report(result, folder)
        if layers:
            same = {name: shared[name] for name in ("limit", "batch_size", "workers", "precision")}
            evaluation.report_layers(subject, samples, folder, target=target, description=named, **same)
    except KeyboardInterrupt as error:
        typer.echo(f"Interrupted. What was finished is in {output}; the same command goes on from there.", err=True)
        raise typer.Exit(130) from error
