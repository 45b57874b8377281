"""Folders of results that no model had to make."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

from PIL import Image

from captum_vit.evaluation import Store

__all__ = ["CONFIG", "METHODS", "write_results"]

METHODS = ("legrad", "captum:input-x-gradient")
INSERTION, POINTING, DELETION = "insertion(steps=2)", "pointing-game", "deletion(steps=2)"
CONFIG = {
    "model": "scenes:vit",
    "dataset": "Listed",
    "samples": 4,
    "methods": list(METHODS),
    "metrics": [INSERTION, POINTING, DELETION],
    "seed": 0,
    "versions": {"torch": "2.15.0"},
}

LEVELS = base64.b64encode(bytes([0, 60, 120, 180, 240, 255])).decode()
MAPS = (
    {"grid": [2, 3], "low": 0.0, "high": 3.0, "values": LEVELS},
    {"grid": [2, 3], "low": -2.0, "high": 1.0, "values": LEVELS},
)


def jpeg(shade: int) -> str:
    buffer = BytesIO()
    Image.new("RGB", (40, 30), (shade, 255 - shade, 90)).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_results(
    folder: Path,
    *,
    samples=4,
    done=None,
    unit=1,
    names="image-{}",
    classes=("cat", "dog"),
    maps=True,
    methods=METHODS,
    **config,
) -> Path:
    """One region per sample, of the classes in turn.

    Insertion and deletion grow with the number of the sample: what is best by one is worst by the other. Methods other
    than the first score a tenth of it, and the second has no map of the second sample. Maps are 2×3: the first
    method's is highest at the bottom right, the others' have negative values.
    """
    store = Store(folder)
    about = {"device": "cpu", "commit": "abc", "unit": unit, "classes": list(classes), "outputs": None}
    store.configure({**CONFIG, "samples": samples, "methods": list(methods), **config}, about)
    done = samples if done is None else done
    for number in range(-(-done // unit)):
        results, kept = [], []
        for each in range(number * unit, min(done, (number + 1) * unit)):
            name = names.format(each)
            kept.append({"sample": name, "size": [30, 40], "image": jpeg(60 * each % 256)})
            kept.append({"sample": name, "region": 0, "size": [30, 40], "mask": [410, 20, 20, 20, 730]})
            label = each % len(classes)
            for k, method in enumerate(methods):
                record = {"sample": name, "region": 0, "label": label, "target": label, "method": method}
                record |= {"seconds": 0.1, "bytes": None}
                if k == each == 1:
                    results.append(record | {"blank": "the map is zero everywhere"})
                    continue
                results.append(record | {"scores": scores((each + 1) / (samples + 1) / (10 if k else 1), each % 2)})
                kept.append({"sample": name, "region": 0, "method": method, **MAPS[min(k, 1)]})
        if maps:
            store.append(0, number, kept, "maps")
        store.append(0, number, results)
    return folder


def scores(value: float, hit: int):
    curve = {"total": value, "images": 1, "excluded": 0, "levels": [0.0, value, 2 * value]}
    return {INSERTION: curve, POINTING: {"total": float(hit), "images": 1, "excluded": 0}, DELETION: curve}
