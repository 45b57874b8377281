"""The command line, ``captum-vit``: a demo, explain images, evaluate and report, list methods, examine a model, a page.

Model libraries and PyTorch are imported inside the commands, so that ``captum-vit --help`` answers at once.
"""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from captum_vit import __version__
from captum_vit.cli.demo import demo
from captum_vit.cli.doctor import doctor
from captum_vit.cli.evaluate import evaluate
from captum_vit.cli.explain import explain
from captum_vit.cli.explore import explore
from captum_vit.cli.methods import list_methods
from captum_vit.cli.report import report

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(explain)
app.command()(evaluate)
app.command()(report)
app.command("list")(list_methods)
app.command()(doctor)
app.command("app")(explore)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"captum-vit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Attribution methods for vision transformers: timm, Hugging Face, OpenCLIP, torchvision."""


def main() -> None:
    """Runs the command line; the process exits with its code."""
    # OpenCLIP reports on the root logger what the commands say themselves.
    logging.basicConfig(level=logging.CRITICAL)
    app()
