"""The confidence intervals of the scores of parts, and how an image's scores are kept."""

from __future__ import annotations

import json

import pytest
import torch

from captum_vit.evaluation.bootstrap import drawn_counts
from captum_vit.evaluation.protocols.parts import _drawn, _measure, _numbers, _record
from captum_vit.metrics import PartScores
from captum_vit.metrics.part_protocol import PartMeasure, PartRow

SCORES = PartScores(lambda images: images, lambda images, targets: images[:, 0])


def measures(number):
    """Images with random scores, some of which are not defined."""
    generator = torch.Generator().manual_seed(4)
    made = []
    for index in range(number):
        curves = [torch.rand(80, generator=generator) for _ in range(4)]
        if index % 3 == 0:
            curves[0][:] = torch.nan  # misclassified
        one, two = torch.rand((), generator=generator), torch.randint(2, (2,), generator=generator).float()
        row = PartRow(*curves, one if index % 4 else one * torch.nan, two if index % 2 else two * torch.nan)
        losses = torch.rand(index % 3, 2, generator=generator)
        made.append(PartMeasure(index % 3 > 0, losses, False, index == 2, index % 2 > 0, row))
    return made


def test_every_bootstrap_sample_is_a_report_of_the_images_that_were_drawn():
    made = measures(7)
    drawn, counts = _drawn(made, 40), drawn_counts(7, 40, 0).long().tolist()
    thresholds = set()
    for draw, often in enumerate(counts):
        report = SCORES.report([one for one, count in zip(made, often, strict=True) for _ in range(count)])
        thresholds.add(report.threshold)
        assert {name: values[draw] for name, values in drawn.items()} == pytest.approx(
            _numbers(report), abs=1e-9, nan_ok=True
        )
    assert len(thresholds) > 3  # it is chosen on each sample anew
    assert all(values.std() > 0.01 for values in drawn.values())


def test_one_image_has_no_interval():
    assert all(len(values) == 0 for values in _drawn(measures(1), 40).values())


def test_what_is_kept_of_an_image_is_all_of_it():
    for one in measures(7):
        kept = json.loads(json.dumps(_record(one)).replace("NaN", "null"))
        again = _measure(kept)
        for name in PartRow._fields:
            torch.testing.assert_close(
                getattr(again.scores, name), getattr(one.scores, name), rtol=0, atol=0, equal_nan=True
            )
        torch.testing.assert_close(again.losses, one.losses, rtol=0, atol=0)
        assert again[0:1] + again[2:5] == one[0:1] + one[2:5]
