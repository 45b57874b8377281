"""``captum-vit report``: the results of an evaluation as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_vit.cli.arguments import refuse

__all__ = ["report"]


def report(
    results: Annotated[Path, typer.Argument(help="Folder that captum-vit evaluate wrote (its --output).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; report.html in the folder by default.")
    ] = None,
) -> None:
    """Write the results of an evaluation as one HTML file that needs no network.

    It has a gallery of images and maps where "captum-vit evaluate --keep-maps" kept them.
    """
    from captum_vit.evaluation import NoResultsError, write_report

    try:
        path = write_report(results, output)
    except NoResultsError as error:
        refuse(str(error), "RESULTS")
    except OSError as error:
        refuse(f"{error.filename or results} can't be written: {error.strerror}.", "--output")
    typer.echo(path)
