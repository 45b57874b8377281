"""What LeGrad is to cost, and the tables of its runs (`speed.py legrad`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from goals import Goal, goal_table, share, value
from report import Row, markdown_table, number

FIELDS = [
    *("date", "commit", "machine", "gpu", "device", "threads", "dtype"),
    *("python", "torch", "timm", "open_clip_torch", "captum_vit", "legrad_torch"),
    *("kind", "model", "batch", "prompts", "image_size", "last_blocks", "subject"),
    *("median_s", "iqr_s", "calls", "ratio_to_forward", "peak_mb", "map_difference", "note"),
]


def _cost(batch: int, prompts: int, size: int, subject: str, field: str) -> Callable[[Sequence[Row]], float | None]:
    """From the rows of a run to a number of one case, of this package, over that of another subject."""
    case = {"kind": "speed", "batch": batch, "prompts": prompts, "image_size": size}
    return lambda rows: share(
        value(rows, field, **case, subject="captum_vit"), value(rows, field, **case, subject=subject)
    )


GOALS = [
    Goal(
        "LeGrad, 1 target, 8 images at 224: time, × forward pass",
        1.5,
        lambda rows: value(rows, "ratio_to_forward", batch=8, prompts=1, image_size=224, subject="captum_vit"),
    ),
    *(
        Goal(f"LeGrad, {case}: {what}, × `legrad_torch`", limit, _cost(1, prompts, size, "legrad_torch", field))
        for case, prompts, size, limits in (
            ("16 prompts, 1 image at 224", 16, 224, (1 / 3.5, 1 / 20)),
            ("1 prompt, 1 image at 448", 1, 448, (1 / 1.4, 1 / 8)),
        )
        for what, field, limit in zip(("time", "memory"), ("median_s", "peak_mb"), limits, strict=True)
    ),
]


def speed_table(rows: Iterable[Row]) -> str:
    """Time and memory, one line per measured subject of each case."""
    head = ["case", "subject", "median s (IQR)", "× forward", "peak MB over the model", "map difference"]
    return markdown_table(
        head,
        [
            [
                _case(row),
                row["subject"],
                f"{number(row, 'median_s', '.3f')} ({number(row, 'iqr_s', '.3f')})" if row["median_s"] else row["note"],
                number(row, "ratio_to_forward", ".2f"),
                number(row, "peak_mb", ".0f"),
                number(row, "map_difference", ".1e"),
            ]
            for row in rows
            if not _is_agreement(row)
        ],
    )


def agreement_table(rows: Iterable[Row]) -> str:
    """How far the authors' package is from this one, by the open_clip that it runs on."""
    return markdown_table(
        ["blocks averaged", "legrad_torch on open_clip", "largest difference of the maps, scaled to [0, 1]"],
        [
            [row["last_blocks"], row["open_clip_torch"], number(row, "map_difference", ".1e") or row["note"]]
            for row in rows
            if _is_agreement(row) and row["subject"] == "legrad_torch"
        ],
    )


def legrad_section(run: Sequence[Row]) -> str:
    """What is said about one run of LeGrad and the authors' package."""
    ours = next(row for row in run if row["subject"] == "captum_vit")
    return (
        f"OpenCLIP {ours['model']}, {ours['dtype']}. captum_vit {ours['captum_vit']} on Python {ours['python']}, "
        f"torch {ours['torch']}, timm {ours['timm']}, open_clip {ours['open_clip_torch']}.\n\n"
        f"{speed_table(run)}\n\nWhat was asked for and what was reached:\n\n{goal_table(GOALS, run)}\n\n"
        f"Agreement with legrad_torch {_peer_version(run)}:\n\n{agreement_table(run)}\n"
    )


def _peer_version(rows: Iterable[Row]) -> str:
    return next((row["legrad_torch"] for row in rows if row["subject"] == "legrad_torch"), "")


def _is_agreement(row: Row) -> bool:
    return bool(row["kind"] == "agreement")


def _case(row: Row) -> str:
    batch, prompts = int(row["batch"]), int(row["prompts"])
    return f"{batch} image{'s' * (batch > 1)} at {row['image_size']}, {prompts} prompt{'s' * (prompts > 1)}"
