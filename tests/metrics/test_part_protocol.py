"""The whole protocol against loops over toy objects, on the package's scenes, and on what can't be scored."""

from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from captum_vit import RawAttention
from captum_vit.data import SceneParts
from captum_vit.metrics.functional.funny_birds import THRESHOLDS
from captum_vit.metrics.part_protocol import PartScores
from captum_vit.zoo import load_model

PARTS = ("beak", "eye", "foot", "tail", "wing")
SIDE = 12
VARIANTS = [
    (0, 0, 0, 0, 0),
    (0, 0, 1, 1, 1),
    (1, 1, 0, 0, 1),
    (1, 0, 1, 0, 1),
    (2, 2, 2, 2, 0),
    (0, 2, 0, 2, 2),
]


class Toys:
    """Objects of five parts, drawn as noise; eyes and wings come in two pieces."""

    class_parts = tuple(dict(zip(PARTS, each, strict=True)) for each in VARIANTS)

    def __init__(self, length=12):
        self.length, self.asked = length, []

    def __len__(self):
        return self.length

    def label(self, index):
        return index % len(VARIANTS)

    def part_masks(self, index):
        draw = np.random.default_rng(index)
        names = (*PARTS, *(f"bg_{k:03d}" for k in range(index % 3)))
        return {
            name: torch.from_numpy((draw.random((2 if name in ("eye", "wing") else 1, SIDE, SIDE)) > 0.93).astype(int))
            for name in names
        }

    def _draw(self, index, shown):
        draw = np.random.default_rng(1000 + index)
        pixels = draw.integers(0, 60, (SIDE, SIDE, 3))
        for name, mask in self.part_masks(index).items():
            colour = draw.integers(60, 256, 3)
            if name in shown:
                pixels[mask.any(0).numpy()] = colour
        return Image.fromarray(pixels.astype(np.uint8))

    def image(self, index):
        return self._draw(index, self.part_masks(index))

    def keeping(self, index, parts):
        self.asked.append((index, frozenset(parts)))
        return self._draw(index, {name for name in self.part_masks(index) if name not in PARTS or name in parts})

    def without_background(self, index, name):
        self.asked.append((index, name))
        return self._draw(index, set(self.part_masks(index)) - {name})


WEIGHTS = torch.randn(len(VARIANTS), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def score(images):
    return torch.einsum("bchw,kchw->bk", images.double(), WEIGHTS)


def explain(images, targets):
    """The input times the gradient, with noise, on a grid of 6×6: it often sums up to less than nothing."""
    noise = torch.stack([torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(int(t))) for t in targets])
    maps = (images.double() * WEIGHTS[targets]).sum(1) + noise
    return torch.nn.functional.avg_pool2d(maps, 2)


def blind(images, targets):
    """The same for every target."""
    return images.double().sum(1)


def as_pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def importance(grid, pieces):
    """Sum over the pixels within two of a piece, piece by piece, of a map that is repeated 2×2."""
    total = 0.0
    for piece in pieces.tolist():
        for row in range(SIDE):
            for column in range(SIDE):
                near = [
                    piece[r][c]
                    for r in range(max(0, row - 2), min(SIDE, row + 3))
                    for c in range(max(0, column - 2), min(SIDE, column + 3))
                ]
                total += grid[row * len(grid) // SIDE][column * len(grid) // SIDE] if any(near) else 0
    return total


def by_loops(toys, method):
    """The protocol, score by score and one image at a time."""
    curves = {name: [[] for _ in THRESHOLDS] for name in ("csdc", "preservation", "deletion", "distractibility")}
    single, sensitive, hits, relevant, inverted = [], [], [], [], 0
    for index in range(len(toys)):
        label, own = toys.label(index), toys.class_parts[toys.label(index)]
        whole, masks = as_pixels(toys.image(index)), toys.part_masks(index)
        logits = score(whole)[0].tolist()
        predicted = logits.index(max(logits))
        hits.append(predicted == label)

        def answer(kept, index=index):
            return score(as_pixels(toys.keeping(index, kept)))[0].tolist()

        def found(target, whole=whole, masks=masks):
            grid = method(whole, torch.tensor([target]))[0].tolist()
            total = sum(map(sum, grid)) * (SIDE // len(grid)) ** 2
            return {name: importance(grid, pieces) for name, pieces in masks.items()}, total

        (for_label, total), (for_predicted, total_predicted) = found(label), found(predicted)
        inverted += min(total, total_predicted) < 0
        without = {part: answer(set(PARTS) - {part})[label] for part in PARTS}
        for name in set(masks) - set(PARTS):
            without[name] = score(as_pixels(toys.without_background(index, name)))[0, label].item()
            relevant.append(logits[label] - without[name] >= 0.05 * abs(logits[label]))

        others = [parts for k, parts in enumerate(toys.class_parts) if k != label]
        enough = [
            set(some)
            for size in range(1, 6)
            for some in combinations(PARTS, size)
            if all(any(parts[name] != own[name] for name in some) for parts in others)
        ]
        minimal = [some for some in enough if not any(other < some for other in enough)]
        irrelevant = {
            name
            for name, value in without.items()
            if abs(logits[label] - value) < 0.05 * abs(logits[label]) or value > logits[label]
        }
        for k, threshold in enumerate(THRESHOLDS):
            important = {name for name, value in for_label.items() if value > threshold * total}
            kept = {part for part in PARTS if for_predicted[part] > threshold * total_predicted}
            after, removed = answer(kept), answer(set(PARTS) - kept)
            curves["preservation"][k].append(after.index(max(after)) == predicted)
            curves["deletion"][k].append(removed.index(max(removed)) != predicted)
            if predicted == label:
                curves["csdc"][k].append(max(len(some & important) / len(some) for some in minimal))
            if irrelevant:
                curves["distractibility"][k].append(1 - len(important & irrelevant) / len(irrelevant))

        single.append(
            spearmanr([logits[label] - without[p] for p in PARTS], [for_label[p] for p in PARTS]).statistic / 2 + 0.5
        )
        shared = {k: {p for p in PARTS if parts[p] == own[p]} for k, parts in enumerate(toys.class_parts) if k != label}
        pairs = [
            (a, b)
            for a, b in combinations(shared, 2)
            if len(shared[a]) == len(shared[b]) == 2 and not shared[a] & shared[b]
        ]
        if pairs:
            a, b = pairs[0]
            no_a, no_b = answer(set(PARTS) - shared[a]), answer(set(PARTS) - shared[b])
            if no_a[a] < no_b[a] and no_b[b] < no_a[b]:
                (for_a, _), (for_b, _) = found(a), found(b)
                sensitive.append(sum(for_a[p] for p in shared[a]) > sum(for_b[p] for p in shared[a]))
                sensitive.append(sum(for_a[p] for p in shared[b]) < sum(for_b[p] for p in shared[b]))
            else:
                sensitive += ["alike"]
        else:
            sensitive += ["no pair"]
    return curves, single, sensitive, hits, relevant, inverted


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize("method", [explain, blind])
def test_everything_by_loops(method):
    toys = Toys(24)
    report = PartScores(score, method)(toys)
    curves, single, sensitive, hits, relevant, inverted = by_loops(toys, method)
    for name, values in curves.items():
        assert report.curves[name].tolist() == pytest.approx([mean(each) for each in values], abs=1e-6), name
    totals = [(mean(c) + mean(p) + mean(d)) / 3 + mean(x) for c, p, d, x in zip(*curves.values(), strict=True)]
    best = totals.index(max(totals))
    assert report.completeness.score.item() == pytest.approx(totals[best] / 2, abs=1e-6)
    assert report.threshold == THRESHOLDS[report.completeness.step]
    assert totals[report.completeness.step] == pytest.approx(totals[best], abs=1e-6)
    assert report.completeness.deletion.item() == report.curves["deletion"][report.completeness.step].item()
    assert report.correctness == pytest.approx(mean(single), abs=1e-6)
    scored = [each for each in sensitive if isinstance(each, bool)]
    assert report.contrastivity == mean(scored)
    assert report.accuracy == mean(hits)
    assert report.background_independence == pytest.approx(1 - mean(relevant), abs=1e-12)
    assert (report.images, report.inverted) == (24, inverted)
    assert report.left_out == {
        "undefined": 0,
        "misclassified": hits.count(False),
        "no irrelevant": 24 - len(curves["distractibility"][0]),
        "no order": 0,
        "no pair": sensitive.count("no pair"),
        "targets alike": sensitive.count("alike"),
    }
    # the toys must tell faults apart
    assert 0 < sum(hits) < 24
    assert 0 < sum(relevant) < len(relevant)
    assert {"alike", "no pair", method is explain} <= set(sensitive)
    assert (inverted > 0) == (method is explain)


def test_a_method_without_classes_has_no_contrast():
    assert PartScores(score, blind)(Toys(24)).contrastivity == 0


def test_no_batch_is_larger_than_asked_and_none_is_asked_twice():
    sizes = []

    def counting(images):
        sizes.append(len(images))
        return score(images)

    toys, whole = Toys(24), PartScores(score, explain)(Toys(24))
    report = PartScores(counting, explain, batch_size=3)(toys)
    assert max(sizes) == 3
    assert len(toys.asked) == len(set(toys.asked))
    assert report.left_out == whole.left_out
    assert all(torch.equal(report.curves[name], whole.curves[name]) for name in whole.curves)


def test_some_images_and_one_threshold():
    few = PartScores(score, explain, thresholds=[0.1])(Toys(12), indices=[7, 2])
    assert (few.images, few.threshold) == (2, 0.1)
    assert few.curves["deletion"].shape == (1,)


def test_undefined_maps_count_for_the_model_alone():
    def broken(images, targets):
        return explain(images, targets).masked_fill((targets == 0)[:, None, None], torch.nan)

    whole, part = PartScores(score, explain)(Toys(24)), PartScores(score, broken)(Toys(24))
    assert 4 <= part.left_out["undefined"] < 24
    assert (part.accuracy, part.background_independence) == (whole.accuracy, whole.background_independence)
    assert not part.curves["deletion"].isnan().any()
    nothing = PartScores(score, lambda *given: explain(*given) * torch.nan)(Toys(3))
    assert nothing.left_out == {
        "undefined": 3,
        "misclassified": 0,
        "no irrelevant": 0,
        "no order": 0,
        "no pair": 0,
        "targets alike": 0,
    }
    assert nothing.completeness.score.isnan()
    assert nothing.inverted == 0


def test_a_map_of_zeros_has_no_order():
    report = PartScores(score, lambda images, targets: explain(images, targets) * 0)(Toys(24))
    assert report.left_out["no order"] == 24
    assert report.correctness != report.correctness
    assert report.completeness.csdc == 0
    assert report.completeness.distractibility == 1


def test_scenes():
    loaded = load_model("scenes:vit")
    method = RawAttention(loaded.model)

    def attention(images, targets):
        return method.attribute(images, target=targets).sum(1)

    report = PartScores(loaded.model, attention, transform=loaded.preprocess)(SceneParts(6, seed=1))
    assert report.accuracy > 0.5
    assert report.left_out["no pair"] == 6
    assert report.contrastivity != report.contrastivity
    assert report.background_independence != report.background_independence
    assert 0 < report.correctness <= 1
    # at the lowest threshold nearly everything is kept: so is the prediction, and removing it changes it
    assert report.curves["preservation"][0] == 1
    assert report.curves["deletion"][0] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": []}, r"thresholds must hold at least one share, got \[\]"),
        ({"upsample": "bicubic"}, "upsample must be 'nearest' or 'bilinear', got 'bicubic'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PartScores(score, explain, **options)


def test_bad_models_and_datasets():
    with pytest.raises(ValueError, match=r"score must return \(1, 6\), a logit for each class, got \(1, 5\)"):
        PartScores(lambda images: score(images)[:, :5], explain)(Toys())
    with pytest.raises(ValueError, match=r"indices must name at least one image, got \[\]"):
        PartScores(score, explain)(Toys(), indices=[])
    toys = Toys()
    toys.class_parts = ({}, *Toys.class_parts[1:])
    with pytest.raises(ValueError, match="image 0 must have a mask for each part of its class 0: none, got beak, eye"):
        PartScores(score, explain)(toys)
    toys.class_parts = ({"leg": 0}, *Toys.class_parts[1:])
    with pytest.raises(ValueError, match="image 0 must have a mask for each part of its class 0: leg, got beak, eye"):
        PartScores(score, explain)(toys)
