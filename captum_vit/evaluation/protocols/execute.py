"""How runs are measured: maps that are evaluated, maps that are timed, and parts that are taken away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from captum_vit.evaluation.protocols.parts import parts
from captum_vit.evaluation.protocols.prepare import prepared
from captum_vit.evaluation.protocols.task import Cell, Outcome, Task
from captum_vit.evaluation.result import Result
from captum_vit.evaluation.runner import evaluate
from captum_vit.evaluation.specs import parse_spec

__all__ = ["MEASURED"]

_EDGE = 0.025


def _maps(task: Task) -> Outcome:
    """The scores of maps."""
    metrics = [task.metric(column) for column in task.run.columns]
    result, specs, notes = _evaluated(task, list(dict.fromkeys(metrics)))
    if result is None:
        return Outcome({}, notes)
    table = result.table(resamples=task.resamples).set_index(["method", "metric"])
    cells: dict[tuple[str, str], Cell] = {}
    for method, spec in specs.items():
        for column, metric in zip(task.run.columns, metrics, strict=True):
            row = table.loc[spec, f"{parse_spec(metric)} {column.score}".strip()]
            cells[method, column.name] = Cell(*(column.scale * float(row[each]) for each in ("value", "low", "high")))
        lost = table.loc[spec][["blank", "excluded"]].max()
        if lost.any():
            notes.append(
                f"{method}, {task.run.name}: {lost['blank']} maps are blank, at most {lost['excluded']} have no value"
            )
    return Outcome(cells, notes)


def _speed(task: Task) -> Outcome:
    """Maps per second, one at a time."""
    result, specs, notes = _evaluated(task, ["sparseness"], batch_size=1)
    if result is None:
        return Outcome({}, notes)
    (column,) = task.run.columns
    generator = np.random.default_rng(0)
    cells: dict[tuple[str, str], Cell] = {}
    for method, spec in specs.items():
        seconds = np.array([each["seconds"] for each in result.records if each.get("method") == spec])
        drawn = generator.choice(seconds, (task.resamples, len(seconds))).mean(1)
        cells[method, column.name] = Cell(1 / seconds.mean(), *np.quantile(1 / drawn, (_EDGE, 1 - _EDGE)))
    return Outcome(cells, notes)


def _evaluated(task: Task, metrics: list[str], **changes: Any) -> tuple[Result | None, dict[str, str], list[str]]:
    """The result, or None where no method can explain the model; the methods in it; notes."""
    subject, dataset, notes = prepared(task)
    specs, reasons = task.explainable(subject)
    notes += reasons
    if not specs:
        return None, {}, notes
    result = evaluate(
        subject,
        dataset,
        methods=list(specs.values()),
        metrics=metrics,
        folder=task.folder,
        target=task.run.target,
        limit=task.limit,
        description=task.description,
        **{**task.settings, **changes},
    )
    notes += [f"{name} can't explain {subject.name}: {reason}" for name, reason in result.unsupported.items()]
    if result.predicted:
        notes.append(f"{task.run.name}: {result.predicted} maps are of the predicted class, for want of another")
    if result.skipped:
        notes.append(f"{task.run.name}: {len(result.skipped)} samples can't be read: {', '.join(result.skipped)}")
    return result, {name: spec for name, spec in specs.items() if spec not in result.unsupported}, notes


MEASURED: Mapping[str, Callable[[Task], Outcome]] = {"maps": _maps, "speed": _speed, "parts": parts}
"""What a run's ``measure`` stands for."""
