"""The page itself, in Gradio; imported only when it is served."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from io import BytesIO
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from matplotlib.figure import Figure
from PIL import Image

from captum_vit.attr import METHODS
from captum_vit.cli.explorer.answer import Explorer, RefusedError
from captum_vit.data import Scenes

__all__ = ["page", "serve"]

P = ParamSpec("P")
T = TypeVar("T")

_SCENES, _PREVIEW = 8, 512
"""How many scenes can be chosen; longest side of the small picture."""

_HOUR = 3600
_FONT, _MONOSPACE = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
"""Of the reader's own machine: Gradio's default ones are fetched from a server."""

_ASKED = {
    True: ("Prompts, one per line", "A scene's own objects when empty."),
    False: ("Classes, one per line", "Index or name. A scene's own objects when empty, or the predicted class."),
}
"""Label and hint, by whether the model reads texts."""


def serve(explorer: Explorer, host: str, port: int) -> gr.Blocks:
    """Starts the page and returns at once; nothing is shared, counted or fetched from elsewhere.

    Raises:
        OSError: a port that is taken, or an address that is not this machine's.
    """
    served = page(explorer)
    served.queue(default_concurrency_limit=1)
    served.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=explorer.max_bytes,
        theme=gr.themes.Default(font=_FONT, font_mono=_MONOSPACE),
        footer_links=[],
        prevent_thread_lock=True,
        quiet=True,
    )
    return served


def page(explorer: Explorer) -> gr.Blocks:
    """The page, not yet served."""
    first = next(iter(explorer.models))
    limits = f"{explorer.max_bytes / 1e6:g} MB and {explorer.max_pixels / 1e6:g} megapixels"
    with gr.Blocks(title="captum_vit", analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as made:
        gr.Markdown("# captum_vit\nWhere a vision transformer looks for a class or a prompt.")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                scene = gr.Dropdown(_scenes(), value="scene:0", label="Example scene")
                file = gr.File(label=f"Or an image of at most {limits}", height=140)
                shown = gr.Image(label="Image", interactive=False, format="png", height=220, buttons=[])
                model = gr.Dropdown(list(explorer.models), value=first, label="Model")
                method = gr.Dropdown(_labelled(list(METHODS)), value="legrad", label="Method")
                label, hint = _ASKED[explorer.models[first].load_tokenizer is not None]
                asked = gr.Textbox(label=label, info=hint, lines=3)
                opacity = gr.Slider(0, 1, value=0.7, step=0.05, label="Opacity of the map")
                by_block = gr.Checkbox(True, label="Show each block")
                button = gr.Button("Explain", variant="primary")
            with gr.Column(scale=2, min_width=400):
                picture = gr.Image(label="Map", interactive=False, format="png", buttons=["download", "fullscreen"])
                scores = gr.Dataframe(headers=["asked", "logit"], datatype=["str", "str"], label="Logits")
                notes = gr.Textbox(label="Notes", interactive=False, lines=2)
                blocks = gr.Image(
                    label="Each block", interactive=False, format="png", buttons=["download", "fullscreen"]
                )

        def preview(file: str | None, scene: str | None) -> Image.Image:
            """A small copy of the image that is explained."""
            image = _shown_errors(explorer.image, file or scene or "")
            image.thumbnail((_PREVIEW, _PREVIEW))
            return image

        def choose(model: str, method: str) -> tuple[Any, Any]:
            """The methods that can explain a model, and what it is asked for."""
            names = explorer.methods_of(model)
            label, hint = _ASKED[explorer.models[model].load_tokenizer is not None]
            chosen = gr.Dropdown(_labelled(names), value=method if method in names else names[0])
            return chosen, gr.Textbox(label=label, info=hint)

        def explain(
            file: str | None, scene: str | None, model: str, method: str, asked: str, opacity: float, by_block: bool
        ) -> tuple[Image.Image, list[list[str]], str, Image.Image | None]:
            """Explains an image; the file counts where there is one, else the scene."""
            lines = [line.strip() for line in (asked or "").splitlines() if line.strip()]
            answer = _shown_errors(
                explorer.answer, file or scene or "", model, method, lines, opacity=opacity, by_block=by_block
            )
            table = [[name, f"{score:.2f}"] for name, score in answer.scores]
            by_blocks = _pixels(answer.blocks) if answer.blocks else None
            return _pixels(answer.picture), table, "\n".join(answer.notes), by_blocks

        inputs = [file, scene, model, method, asked, opacity, by_block]
        outputs = [picture, scores, notes, blocks]
        scene.change(
            lambda: None, None, file, api_visibility="private"
        )  # a scene that is chosen takes the file's place
        gr.on([scene.change, file.change, made.load], preview, [file, scene], shown, api_name="preview")
        model.input(lambda: "", None, asked, api_visibility="private")  # classes are no prompts
        model.change(choose, [model, method], [method, asked], api_name="choose")
        gr.on([button.click, made.load], explain, inputs, outputs, api_name="explain")
        gr.Examples(
            [
                ["scene:0", "scenes:vit", "legrad", ""],
                ["scene:2", "scenes:clip", "legrad", "a yellow star\na green star\na green crescent"],
                ["scene:2", "scenes:siglip", "grad-cam", ""],
            ],
            [scene, model, method, asked],
            label="Examples",
        )
    return made


def _scenes() -> list[tuple[str, str]]:
    scenes = Scenes(_SCENES)
    return [
        (f"{number}: {', '.join(each.phrase for each in scenes[number].objects)}", f"scene:{number}")
        for number in range(_SCENES)
    ]


def _labelled(names: list[str]) -> list[tuple[str, str]]:
    return [(METHODS[name].name, name) for name in names]


def _shown_errors(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """The function's result; where it refuses, the page shows why. Messages are shown as markup, hence escaped."""
    try:
        return function(*arguments, **options)
    except RefusedError as error:
        raise gr.Error(escape(str(error), quote=False), print_exception=False) from error


def _pixels(figure: Figure) -> Image.Image:
    file = BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)
