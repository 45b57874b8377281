"""The images and maps of a report as data for its script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from math import isfinite, prod
from typing import Any

import numpy as np

from captum_vit.evaluation.store import Record
from captum_vit.evaluation.stored import NoResultsError, Stored
from captum_vit.viz import colour

__all__ = ["gallery"]

_SHADES = 64


def gallery(found: Stored) -> dict[str, Any]:
    """Everything that the script of the page shows, in JSON's types.

    Returns:
        ``methods`` with ``name`` and ``signed``; ``scores`` with ``name`` and ``better`` (1 more, −1 less, 0 not said);
        ``classes``, names; ``samples`` with ``id`` and, where it is kept, ``image`` (JPEG) and ``size`` (rows,
        columns); ``cases``, one per region, with the numbers of ``sample`` and ``class``, ``asked`` where the map is of
        another output, ``mask`` (run lengths) and one of ``maps`` per method, or None; ``colours``, from lowest to
        highest, three bytes each.
    """
    frame = found.result.per_map()
    fixed = ["sample", "region", "label", "target", "method", "blank"]
    scores = [each for each in dict.fromkeys(found.result.table()["metric"]) if each in frame]
    methods = list(dict.fromkeys(frame["method"]))
    images, masks, maps = _kept(found.maps)
    samples: dict[str, int] = {}
    classes: dict[str, int] = {}
    cases: dict[tuple[str, int], dict[str, Any]] = {}
    for row in frame[fixed + scores].to_dict("records"):
        key = (row["sample"], row["region"])
        if key not in cases:
            name, asked = _names(row, found)
            cases[key] = {
                "sample": samples.setdefault(row["sample"], len(samples)),
                "class": classes.setdefault(name, len(classes)),
                "asked": asked,
                "mask": masks.get(key),
                "maps": [None] * len(methods),
            }
        values = [_rounded(row[each]) for each in scores]
        kept = maps.get((*key, row["method"]), {})
        blank = {"blank": row["blank"]} if isinstance(row["blank"], str) else {}
        cases[key]["maps"][methods.index(row["method"])] = {"scores": values, **blank, **kept}
    directions = {True: 1, False: -1, None: 0}
    return {
        "methods": [{"name": each, "signed": _signed(each, maps)} for each in methods],
        "scores": [{"name": each, "better": directions[found.result.higher_is_better(each)]} for each in scores],
        "classes": list(classes),
        "samples": [{"id": each, **images.get(each, {})} for each in samples],
        "cases": list(cases.values()),
        "colours": {"unsigned": _shades(signed=False), "signed": _shades(signed=True)},
    }


def _kept(
    records: Sequence[Record],
) -> tuple[dict[str, Record], dict[tuple[str, int], list[int]], dict[tuple[str, int, str], Record]]:
    """Images by sample, masks by region, maps by region and method."""
    images = {each["sample"]: {name: each[name] for name in ("size", "image")} for each in records if "image" in each}
    masks = {(each["sample"], each["region"]): each["mask"] for each in records if "mask" in each}
    maps = {(each["sample"], each["region"], each["method"]): _map(each) for each in records if "values" in each}
    return images, masks, maps


def _map(record: Record) -> Record:
    """The map of a record, if it has as many values as its grid."""
    wanted, found = prod(record["grid"]), len(base64.b64decode(record["values"]))
    if found != wanted:
        name = f"{record['method']} on {record['sample']}"
        raise NoResultsError(f"the map of {name} that was kept must have {wanted} values, got {found}.")
    ends = {name: _rounded(record[name]) for name in ("low", "high")}
    return {"grid": record["grid"], "values": record["values"], **ends}


def _names(row: dict[str, Any], found: Stored) -> tuple[str, str | None]:
    """What a region is, and what the map is asked for where that is something else."""
    classes, outputs = found.about.get("classes", ()), found.about.get("outputs") or ()
    target = int(row["target"])
    output = outputs[target] if target < len(outputs) else f"output {target}"
    if row["label"] is None or not isfinite(row["label"]):
        return output, None
    label = int(row["label"])
    name = classes[label] if label < len(classes) else f"class {label}"
    return name, None if name == output or (target == label and not outputs) else output


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if isfinite(value) else None


def _signed(method: str, maps: dict[tuple[str, int, str], Record]) -> bool:
    return any(each["low"] < 0 for key, each in maps.items() if key[2] == method)


def _shades(*, signed: bool) -> str:
    """Colours from the lowest to the highest value, as hexadecimal digits."""
    ramp = np.linspace(-1 if signed else 0, 1, _SHADES)[None]
    return bytes((colour(ramp, signed=signed)[0] * 255).round().astype(np.uint8)).hex()
