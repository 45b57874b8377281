"""One question of the page and its answer, without anything of the page itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from captum_vit.attr import METHODS, BlankMapError
from captum_vit.cli.asking import classifier_of, names_in, question_of, unknown_words
from captum_vit.cli.explorer.blocks import maps_by_block
from captum_vit.cli.job import Explanation, Question, drawn, explained, prepared
from captum_vit.evaluation.specs import Spec
from captum_vit.zoo import LoadedModel, load_image

__all__ = ["FORMATS", "MOST_TARGETS", "Answer", "Explorer", "RefusedError"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats of uploaded images, by Pillow's names: such as are pixels and nothing else."""

MOST_TARGETS = 8
"""How many classes or prompts one picture has room for."""

_SUBJECTS = {"--target": "Classes", "--prompt": "Prompts", "--model": "Model", "--method": "Method", "--scene": "Scene"}
"""What the options of the command line are called on the page."""


class RefusedError(Exception):
    """What was asked can't be done; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What the page shows.

    Attributes:
        picture: the image, and its map for each class or prompt.
        blocks: the maps of each block, where they were asked for and can be made.
        scores: what each row is, and its logit.
        notes: what a reader has to know, as lines.
    """

    picture: Figure
    blocks: Figure | None
    scores: list[tuple[str, float]]
    notes: list[str]


@dataclass(frozen=True)
class Explorer:
    """What can be asked here.

    Attributes:
        models: by name, on ``device``.
        device: where they are.
        max_bytes: largest file of an image.
        max_pixels: most pixels of an image.
    """

    models: dict[str, LoadedModel]
    device: str
    max_bytes: int
    max_pixels: int

    def methods_of(self, model: str) -> list[str]:
        """The methods that can explain a model, by command-line name."""
        loaded = self.models[model]
        adapter = classifier_of(loaded, ["one", "two"] if loaded.load_tokenizer else None)
        return [name for name, method in METHODS.items() if method.why_unsupported(adapter) is None]

    def image(self, source: str) -> Image.Image:
        """Reads ``scene:7`` or an uploaded file; an empty text is neither.

        Raises:
            RefusedError: no image, or one that is too large.
        """
        if not source:
            raise RefusedError("There is no image: upload a file, or choose a scene.")
        try:
            if source.startswith("scene:"):
                return load_image(source)
            path = Path(source)
            size = path.stat().st_size if path.is_file() else 0  # what is no file is refused below
            if size > self.max_bytes:
                limit = f"{self.max_bytes / 1e6:g} MB"
                raise RefusedError(f"The file must have at most {limit}, got {size / 1e6:.1f} MB ({size} bytes).")
            return load_image(source, max_pixels=self.max_pixels, formats=FORMATS)
        except (ValueError, OSError) as error:
            message = str(error).replace(source, Path(source).name)  # uploads lie in a folder of no interest
            raise RefusedError(f"The {message}") from error  # it begins with "image" or "scene"

    def answer(
        self, source: str, model: str, method: str, asked: list[str], *, opacity: float, by_block: bool
    ) -> Answer:
        """Explains one image.

        Args:
            source: ``scene:7``, or the path of an uploaded file.
            model: one of ``models``.
            method: by command-line name.
            asked: classes (index or name), or prompts; none for the objects of a scene, or the predicted class.
            opacity: of the maps, in [0, 1].
            by_block: whether the maps of each block are wanted too.

        Raises:
            RefusedError: an image, model, method, class or prompt that is not possible.
        """
        image = self.image(source)
        try:
            question = self._question(source, model, method, asked)
            pixels = prepared(question, image)
            explanation = explained(question, pixels, source)
            if not explanation.maps:
                raise RefusedError(explanation.problems[0])
            return self._answer(question, explanation, opacity, by_block)
        except typer.BadParameter as error:
            subject = _SUBJECTS.get(str(error.param_hint), str(error.param_hint))
            raise RefusedError(f"{subject}: {error.message}") from error
        except (ValueError, RuntimeError) as error:
            raise RefusedError(str(error)) from error

    def _question(self, source: str, model: str, method: str, asked: list[str]) -> Question:
        if model not in self.models:
            raise RefusedError(f"Model: must be one of {', '.join(self.models)}, got {model!r}.")
        if method not in METHODS:
            raise RefusedError(f"Method: must be one of {', '.join(METHODS)}, got {method!r}.")
        if len(asked) > MOST_TARGETS:
            raise RefusedError(f"Classes or prompts: there is room for {MOST_TARGETS}, got {len(asked)}.")
        loaded = self.models[model]
        reads_texts = loaded.load_tokenizer is not None
        prompts = (asked or names_in([source], loaded)) if reads_texts else []
        if reads_texts and not prompts:
            raise RefusedError(f"Prompts: {model} compares images with texts and needs at least one.")
        targets = [] if reads_texts else asked
        return question_of(loaded, classifier_of(loaded, prompts), [Spec(method)], targets, bool(asked), self.device)

    def _answer(self, question: Question, explanation: Explanation, opacity: float, by_block: bool) -> Answer:
        (name, method), (maps,) = next(iter(question.methods.items())), explanation.maps.values()
        notes = list(filter(None, [_what_was_asked(question, explanation), _unknown_words(question, explanation)]))
        picture = _picture(question, explanation, {METHODS[name].name: maps}, method.signed, opacity, 3.2)
        blocks = None
        if by_block:
            try:
                what, each = maps_by_block(method, explanation.pixels, explanation.targets)
                notes.append(f"By block: {what} Each map is scaled by itself.")
                signed = bool((each < 0).any())
                columns = {f"block {index}": each[:, index, None] for index in range(each.shape[1])}
                blocks = _picture(question, explanation, columns, signed, opacity, 1.3)
            except BlankMapError as error:
                notes.append(f"By block: {error}")
        scores = list(zip(explanation.labels, explanation.scores.tolist(), strict=True))
        return Answer(picture, blocks, scores, notes)


def _picture(
    question: Question, explanation: Explanation, maps: dict[str, Tensor], signed: bool, opacity: float, cell: float
) -> Figure:
    signed_names = list(maps) if signed else []
    title = question.loaded.name
    return drawn(question, explanation, maps, title=title, signed=signed_names, opacity=opacity, cell=cell)


def _what_was_asked(question: Question, explanation: Explanation) -> str | None:
    return "No class was asked for: this is the predicted one." if explanation.predicted else None


def _unknown_words(question: Question, explanation: Explanation) -> str | None:
    reads_texts = question.loaded.load_tokenizer is not None
    return unknown_words(question.loaded, explanation.labels) if reads_texts else None
