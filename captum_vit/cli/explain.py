"""``captum-vit explain``: overlay figures and raw maps of images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captum_vit.cli.arguments import (
    checked_device,
    image_size,
    load,
    method_specs,
    refuse,
    scene_specs,
    writable_folder,
)
from captum_vit.cli.asking import classifier_of, names_in, question_of, unknown_words

if TYPE_CHECKING:
    from captum_vit.cli.job import Job
    from captum_vit.zoo import LoadedModel

__all__ = ["explain"]

DEFAULT_CLASSIFIER, DEFAULT_TEXT_MODEL = "scenes:vit", "scenes:clip"


def explain(
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Image files, or skimage:chelsea, astronaut, coffee.", metavar="IMAGES..."),
    ] = None,
    scene: Annotated[
        list[str] | None,
        typer.Option(
            help="Number of a synthetic scene, whose objects are known and outlined; repeatable. Without --target or "
            "--prompt each of its objects is explained.",
            metavar="NUMBER",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="timm:NAME, open_clip:ARCHITECTURE/TAG-or-FILE, hf:NAME-or-FOLDER, torchvision:NAME, or scenes:vit, "
            "scenes:clip, scenes:siglip, which come with the package. "
            f"Without it {DEFAULT_CLASSIFIER}, or with --prompt or --template {DEFAULT_TEXT_MODEL}."
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help='Methods, separated by commas, with options where wanted: "legrad,grad-cam(block=-2)", '
            "\"masked-sinks(method='raw-attention')\", captum:occlusion. See captum-vit list."
        ),
    ] = "legrad",
    target: Annotated[
        list[str] | None,
        typer.Option(help="Class index or name; repeatable. The predicted class by default.", metavar="CLASS"),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Text for a model that compares images with texts; repeatable.")
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Sentence around each prompt, with {}; several are averaged.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Local weights: .safetensors, .pth.")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Take random weights; nothing is downloaded.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    size: Annotated[str | None, typer.Option("--image-size", help="N or HxW; the model's own by default.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results; replaces earlier ones.")
    ] = Path("out"),
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
) -> None:
    """Explain IMAGES or scenes: write NAME.png (overlays) and NAME.npz (raw maps on the patch grid) for each.

    An image that can't be read or explained is reported, the others go on, and the exit code is 1. Exit code 2: nothing
    could be done with these options.
    """
    if untrained and checkpoint is not None:
        refuse("can't go together with --checkpoint.", "--untrained")
    if target and prompt:
        refuse("can't go together with --prompt: a model has either classes or prompts.", "--target")
    if not images and not scene:
        refuse("name at least one image file, or a scene with --scene 7.", "IMAGES")
    side, methods = image_size(size), method_specs(method)
    specs = [*(images or []), *scene_specs(scene or [])]
    try:
        from captum_vit.cli.job import Job

        checked_device(device)
        if model is None:
            model = DEFAULT_TEXT_MODEL if prompt or template else DEFAULT_CLASSIFIER
            typer.echo(f"No --model: {model}, trained on synthetic scenes of coloured shapes.", err=True)
        loaded = load(model, "untrained" if untrained else "pretrained", checkpoint, side, seed)
        loaded.model.to(device)
        adapter = classifier_of(loaded, prompt or names_in(specs, loaded), template, target)
        if prompt and (notice := unknown_words(loaded, prompt)):
            typer.echo(notice, err=True)
        elif not target:
            _notice_predicted_class(loaded, specs)
        question = question_of(loaded, adapter, methods, target, bool(prompt), device)
        job = Job(**vars(question), output=writable_folder(output), seed=seed)
        failed = _run(job, specs)
    except KeyboardInterrupt as error:
        typer.echo(f"Interrupted. What was finished is in {output}.", err=True)
        raise typer.Exit(130) from error
    if failed:
        typer.echo(f"{len(failed)} of {len(specs)} images had problems:", err=True)
        for problem in failed:
            typer.echo(f"  {problem}", err=True)
        raise typer.Exit(1)


def _notice_predicted_class(loaded: LoadedModel, specs: list[str]) -> None:
    from captum_vit.data import CLASSES

    unnamed = loaded.outputs == "classes" and set(CLASSES).isdisjoint(loaded.class_names or ())
    if unnamed and any(each.startswith("scene:") for each in specs):
        typer.echo(
            f"{loaded.name} has no classes that name the objects of a scene: its predicted class is explained.",
            err=True,
        )


def _run(job: Job, images: list[str]) -> list[str]:
    """Explains every image; returns what went wrong."""
    from tqdm import tqdm

    from captum_vit.cli.job import SavingError, explain_image, result_stems

    failed: list[str] = []
    stems = result_stems(images, job.output)
    with tqdm(total=len(images), unit="image", disable=len(images) == 1, file=sys.stderr) as bar:
        for image, stem in zip(images, stems, strict=True):
            try:
                outcome = explain_image(job, image, stem)
            except RuntimeError as error:  # the model's fault, not the image's: attention that can't be captured
                refuse(f"{job.loaded.name} can't be explained: {error}", "--model")
            except SavingError as error:
                refuse(str(error), "--output")
            with tqdm.external_write_mode(file=sys.stderr):
                for line in outcome.lines:
                    typer.echo(line)
                for problem in outcome.problems:
                    typer.echo(f"{image}: {problem}", err=True)
            failed += [f"{image}: {problem}" for problem in outcome.problems]
            bar.update()
    return failed
