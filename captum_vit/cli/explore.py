"""``captum-vit app``: a page on this machine that explains images, to try models, methods and prompts by hand."""

from __future__ import annotations

import os
import socket
import threading
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from captum_vit.cli.arguments import checked_device, load, refuse

if TYPE_CHECKING:
    from captum_vit.zoo import LoadedModel

__all__ = ["explore"]

_SHIPPED = ("scenes:vit", "scenes:clip", "scenes:siglip")


def explore(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model to choose on the page, by the names that captum-vit explain takes; repeatable. "
            f"{', '.join(_SHIPPED)}, which come with the package, can always be chosen."
        ),
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Take random weights for --model; nothing is downloaded.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    host: Annotated[
        str, typer.Option(help="Address to serve at. Any other than 127.0.0.1 lets others reach the page.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest file of an image, in MB.")] = 20,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Most pixels of an image, in millions.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
) -> None:
    """Serve a page that explains images: model, method, classes or prompts, and the map of each block.

    Runs offline on the shipped models and example scenes. Nothing is sent anywhere. Ends with Ctrl-C.
    """
    _check_address(host, port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        refuse('the app needs Gradio. Install it: pip install "captum-vit[app]".')
    assert gradio
    checked_device(device)
    from captum_vit.cli.explorer.answer import Explorer
    from captum_vit.cli.explorer.page import serve

    models = {name: _loaded(name, untrained, device, seed) for name in dict.fromkeys(model or [])}
    models |= {name: _loaded(name, False, device, seed) for name in _SHIPPED if name not in models}
    explorer = Explorer(models, device, int(max_mb * 1e6), int(max_megapixels * 1e6))
    with TemporaryDirectory(prefix="captum-vit-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of uploaded images and of pictures
        try:
            served = serve(explorer, host, port)
        except OSError as error:
            refuse(f"{host}:{port} can't be served at: {error}", "--port")
        try:
            typer.echo(f"Open http://{host}:{port} in a browser; Ctrl-C ends it.")
            threading.Event().wait()
        except KeyboardInterrupt:
            served.close()
            typer.echo("Ended.", err=True)


def _check_address(host: str, port: int) -> None:
    """Refuses an address that can't be served at, before the models are loaded."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        refuse(f"{host}:{port} can't be served at: {error.strerror}.", "--port")


def _loaded(name: str, untrained: bool, device: str, seed: int) -> LoadedModel:
    from captum_vit.cli.asking import classifier_of

    loaded = load(name, "untrained" if untrained else "pretrained", None, None, seed)
    loaded.model.to(device)
    classifier_of(loaded, ["one", "two"] if loaded.load_tokenizer else None)  # refuses what no adapter knows
    return loaded
