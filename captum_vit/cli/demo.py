"""``captum-vit demo``: the methods that need one pass on the shipped models, drawn and measured."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated

import typer

from captum_vit.cli.arguments import refuse

if TYPE_CHECKING:
    from captum_vit.cli.demonstration.scores import Row

__all__ = ["demo"]

_SEEDS = 2**32


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results; replaces earlier ones.")
    ] = Path("out/demo"),
    scenes: Annotated[int, typer.Option(help="Number of scenes that each model is measured on.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the scenes and of the random maps.")] = 0,
    every: Annotated[
        bool,
        typer.Option("--all", help="All methods, also those that need many passes, or can't explain all three models."),
    ] = False,
) -> None:
    """Run the methods that need one pass on the three shipped models: a figure, a table and a page. No network needed.

    With --all every method takes part, which takes many minutes. Fewer --scenes make it shorter.
    """
    if scenes < 1:
        refuse(f"must be at least 1, got {scenes}.", "--scenes")
    if not 0 <= seed < _SEEDS:
        refuse(f"must be in [0, {_SEEDS}), got {seed}.", "--seed")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=output):  # fails now and not after the work
            pass
    except OSError as error:
        refuse(f"{output} can't be written: {error.strerror}.", "--output")
    try:
        _run(output, scenes, seed, every=every)
    except KeyboardInterrupt as error:
        typer.echo("Interrupted; nothing was written.", err=True)
        raise typer.Exit(130) from error


def _run(output: Path, scenes: int, seed: int, *, every: bool) -> None:
    from captum_vit.cli.demonstration.page import page
    from captum_vit.cli.demonstration.scores import MODELS, averaged
    from captum_vit.cli.demonstration.tables import counted, text_table, write_csv

    figure, rows = _computed(scenes, seed, every=every)
    command = f"captum-vit demo --scenes {scenes} --seed {seed}{' --all' if every else ''}"
    paths = [output / "demo.png", output / "demo.csv", output / "index.html"]
    try:
        paths[0].write_bytes(figure)
        write_csv(paths[1], rows)
        paths[2].write_text(page(figure, rows, command=command), encoding="utf-8")
    except OSError as error:
        refuse(f"{output} can't be written: {error.strerror}.", "--output")
    typer.echo(text_table(averaged(rows)))
    typer.echo(f"Mean over {', '.join(MODELS)}: {counted(rows)}. Figure, numbers and page:")
    for path in paths:
        typer.echo(f"  {path}")


def _computed(scenes: int, seed: int, *, every: bool) -> tuple[bytes, list[Row]]:
    """The figure, of the methods that explain all models, and the scores."""
    from tqdm import tqdm

    from captum_vit.cli.demonstration.picture import picture, png
    from captum_vit.cli.demonstration.scores import cases_of, load_models, measured, shared_methods
    from captum_vit.data import Scenes
    from captum_vit.zoo import WeightsUnavailableError

    rows: list[Row] = []
    shown = []
    with tqdm(desc="loading", unit="row", file=sys.stderr) as bar:
        try:
            models = list(load_models())
        except (ValueError, WeightsUnavailableError) as error:
            refuse(str(error))
        shared = shared_methods(*(classifier for _, classifier in models), any_cost=every)
        asked = [shared_methods(classifier, any_cost=True) if every else shared for _, classifier in models]
        bar.reset(sum(len(methods) + 1 for methods in asked) + 1)
        for number, ((loaded, classifier), methods) in enumerate(zip(models, asked, strict=True)):
            bar.set_description(loaded.name)
            cases = cases_of(loaded, classifier, Scenes(scenes, seed=seed))
            rows += measured(cases, seed=seed, done=bar.update, methods=methods)
            several = 2 if number == 1 else 1  # the second model is asked for both objects of one scene
            shown.append(cases_of(loaded, classifier, Scenes(1, seed=seed + number, objects=(several, several))))
        bar.set_description("figure")
        file = png(picture(shown, shared))
        bar.update()
    return file, rows
