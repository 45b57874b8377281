"""Folders of results that no model had to make."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from captum_vit.evaluation import Store

__all__ = ["CONFIG", "METHODS", "write_results"]

METHODS = ("legrad", "captum:input-x-gradient")
INSERTION, POINTING = "insertion(steps=2)", "pointing-game"
CONFIG = {
    "model": "scenes:vit",
    "dataset": "Listed",
    "samples": 4,
    "methods": list(METHODS),
    "metrics": [INSERTION, POINTING, "deletion(steps=2)"],
    "seed": 0,
    "versions": {"torch": "2.15.0"},
}


def jpeg(shade: int) -> str:
    buffer = BytesIO()
    Image.new("RGB", (40, 30), (shade, 255 - shade, 90)).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_results(
    folder: Path,
    *,
    samples=4,
    done=None,
    names="image-{}",
    classes=("cat", "dog"),
    maps=True,
    methods=METHODS,
    **config,
) -> Path:
    """One region per sample, of the classes in turn.

    Insertion grows with the number of the sample, and deletion with it: what is best by one is worst by the other. The
    second method's score is a tenth of the first's, and it has no map of the second sample. Maps are 2×3: the first
    method's is highest at the bottom right, the second's has negative values.
    """
    store = Store(folder)
    about = {"device": "cpu", "commit": "abc", "unit": 1, "classes": list(classes), "outputs": None, "unsupported": {}}
    store.configure({**CONFIG, "samples": samples, "methods": list(methods), **config}, about)
    for number in range(samples if done is None else done):
        name, value = names.format(number), (number + 1) / (samples + 1)
        records, kept = [], []
        for k, method in enumerate(methods):
            record = {"sample": name, "region": 0, "label": number % len(classes), "target": number % len(classes)}
            record |= {"method": method, "seconds": 0.1, "bytes": None}
            if k == 1 and number == 1:
                records.append(record | {"blank": "the map is zero everywhere"})
                continue
            score = value / 10 if k else value
            state = {"total": score, "images": 1, "excluded": 0}
            curve = state | {"levels": [0.0, score, 2 * score]}
            hit = {"total": float(number % 2), "images": 1, "excluded": 0}
            records.append(record | {"scores": {INSERTION: curve, POINTING: hit, "deletion(steps=2)": curve}})
            values = base64.b64encode(np.array([0, 60, 120, 180, 240, 255], np.uint8).tobytes()).decode()
            low, high = (-2.0, 1.0) if k else (0.0, 3.0)
            kept.append(
                {
                    "sample": name,
                    "region": 0,
                    "method": method,
                    "grid": [2, 3],
                    "low": low,
                    "high": high,
                    "values": values,
                }
            )
        picture = {"sample": name, "size": [30, 40], "image": jpeg(60 * number % 256)}
        mask = {"sample": name, "region": 0, "size": [30, 40], "mask": [410, 20, 20, 20, 730]}
        if maps:
            store.append(0, number, [picture, mask, *kept], "maps")
        store.append(0, number, records)
    return folder
