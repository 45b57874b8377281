"""ADE20K prompted by sounds and by speech."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from captum_vit.data.reading import read_pixels, read_rgb, require
from captum_vit.data.sample import Region, Sample

__all__ = ["ADE20KPrompted"]

Name: TypeAlias = Literal["ADE20KSoundPrompted", "ADE20KSpeechPrompted"]

_PAGE = "https://github.com/mhamilton723/DenseAV"
_LAYOUT = (
    "<root>/<name>/ with prompted_segmentation.csv, frames/<image_location>, "
    "annotations/<image_location without .jpg>_seg.png and audio/"
)
_AUDIO_COLUMN = {"ADE20KSoundPrompted": "vggsound_file", "ADE20KSpeechPrompted": "speech_prompt_file"}


class _Row(NamedTuple):
    image: str
    class_id: int
    audio: str
    timing: tuple[float, float] | None


class ADE20KPrompted(Dataset[Sample]):
    """Images of ADE20K in which one class is asked for by a sound or by a spoken sentence.

    One sample per row of ``prompted_segmentation.csv`` that names an audio file and a class other than 0. Its region
    has the mask of all pixels of the class, the path of the audio file as ``prompt``, and the ``embedding`` of the
    audio if embeddings are given; audio is not decoded here.

    Args:
        root: the folder that holds the folder ``name``.
        name: which of the two datasets.
        embeddings: (D,) by the audio file's name, such as "dog-bark.wav", or an npz file of such arrays.

    Attributes:
        classes: the classes' numbers in ADE20K as text, ascending, in the order of ``label``.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: an unknown name; a malformed row, with file and line; an audio file without an embedding, or an
            embedding that is no vector.

    Source: arXiv 2406.05629 (DenseAV). Which class a pixel shows follows from its colour: ⌊R/10⌋ · 256 + G.
    """

    def __init__(
        self,
        root: str | Path,
        name: Name = "ADE20KSoundPrompted",
        *,
        embeddings: Mapping[str, Tensor | NDArray[Any]] | str | Path | None = None,
    ) -> None:
        if name not in get_args(Name):
            raise ValueError(f"name must be one of {', '.join(get_args(Name))}, got {name!r}.")
        self._folder = Path(root) / name
        for each in ("frames", "annotations"):
            require(self._folder / each, _LAYOUT, _PAGE, folder=True)
        table = require(self._folder / "prompted_segmentation.csv", _LAYOUT, _PAGE)
        self._rows = _read_rows(table, _AUDIO_COLUMN[name])
        self._class_ids = sorted({row.class_id for row in self._rows})
        self.classes = tuple(map(str, self._class_ids))
        self._embeddings = None if embeddings is None else _vectors(embeddings, {row.audio for row in self._rows})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._rows[index]
        name = f"{row.image}:{row.class_id}:{row.audio}"
        image = read_rgb(self._folder / "frames" / row.image, name)
        label = self._class_ids.index(row.class_id)
        region = Region(
            label,
            str(self._folder / "audio" / row.audio),
            self._mask(row, image, name),
            embedding=None if self._embeddings is None else self._embeddings[row.audio],
        )
        return Sample(name, image, label, (region,))

    def timing(self, index: int) -> tuple[float, float] | None:
        """When the class is named in the audio, (start, end) in seconds; None where the table does not say."""
        return self._rows[index].timing

    def _mask(self, row: _Row, image: Image.Image, name: str) -> Tensor:
        path = self._folder / "annotations" / f"{row.image.removesuffix('.jpg')}_seg.png"
        red, green, _ = read_pixels(path, image, name).long().unbind(-1)
        return (red // 10 * 256 + green == row.class_id).long()


def _read_rows(path: Path, audio_column: str) -> tuple[_Row, ...]:
    """The rows that name an audio file and a class other than 0."""
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, restval="")
        columns = ("image_location", "ade_class_id", audio_column)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}, line 1: must name the columns {', '.join(columns)}, got no {missing[0]}.")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            image, audio = row["image_location"], PurePosixPath(row[audio_column]).name
            class_id = _class_id(row["ade_class_id"], where) if audio else 0
            if class_id:
                rows.append(_Row(image, class_id, audio, _timing(row.get("timing", ""), where)))
    return tuple(rows)


def _class_id(text: str, where: str) -> int:
    """The number, also of "276.0", which a column of floats holds."""
    digits = text.removesuffix(".0")
    if not digits.isdecimal():
        raise ValueError(f"{where}: ade_class_id must be a whole number, got {text!r}.")
    return int(digits)


def _timing(text: str, where: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        start, end = map(float, json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: timing must be [start, end] in seconds, got {text!r}.") from error
    return start, end


def _vectors(embeddings: Mapping[str, Tensor | NDArray[Any]] | str | Path, audio_files: set[str]) -> dict[str, Tensor]:
    """The embedding of each audio file."""
    if isinstance(embeddings, (str, Path)):
        path = require(Path(embeddings), "an npz file with one vector per audio file name", _PAGE)
        with np.load(path) as arrays:
            return _vectors(dict(arrays), audio_files)
    missing = sorted(audio_files - set(embeddings))
    if missing:
        raise ValueError(
            f"embeddings must have one vector per audio file, {len(audio_files)} in all, got none for "
            f"{len(missing)}: {', '.join(missing[:3])}."
        )
    vectors = {name: torch.as_tensor(embeddings[name]) for name in sorted(audio_files)}
    for name, vector in vectors.items():
        if vector.ndim != 1:
            raise ValueError(f"embeddings must be vectors (D,), got shape {tuple(vector.shape)} for {name}.")
    return vectors
