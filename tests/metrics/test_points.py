import pytest
import torch
from metric_cases import B, random_case, random_points
from oracle import exact

from captum_vit.metrics import PointMIoU
from captum_vit.metrics.functional import point_iou

POINTS = torch.tensor([[[0.9, 0.9], [0.1, 0.9], [0.9, 0.1], [0.1, 0.1]]])
LABELS = torch.tensor([[1, 1, 1, 0]])


def test_the_protocols_worked_numbers():
    assert point_iou(B, POINTS, LABELS).item() == pytest.approx(1 / 3, abs=1e-6)
    assert point_iou(B, POINTS, LABELS, inclusive=True).item() == pytest.approx(2 / 3, abs=1e-6)


def count(relevance, points, labels, threshold=0.5):
    """TP, FP, FN by looking at the pixel of each point."""
    height, width = len(relevance), len(relevance[0])
    low, high = min(map(min, relevance)), max(map(max, relevance))
    tp = fp = fn = 0
    for (x, y), label in zip(points, labels, strict=True):
        value = relevance[min(int(y * height), height - 1)][min(int(x * width), width - 1)]
        above = (value - low) / (high - low) > threshold
        tp += above and label == 1
        fp += above and label == 0
        fn += (not above) and label == 1
    return tp, fp, fn


def counts_of(maps, points, labels):
    return [count(*each) for each in zip(maps.tolist(), points.tolist(), labels.tolist(), strict=True)]


def test_it_is_its_formula():
    maps, _ = random_case(0)
    points, labels, _ = random_points(1)
    expected = [tp / (tp + fp + fn) for tp, fp, fn in counts_of(maps, points, labels)]
    exact(point_iou(maps, points, labels), torch.tensor(expected, dtype=torch.float64))


def test_averages():
    maps, _ = random_case(2, batch=12)
    points, labels, classes = random_points(3, batch=12)
    classes[classes == 1] = 3  # class 1 does not occur
    counts = counts_of(maps, points, labels)
    of_class = {
        label: [each for each, own in zip(counts, classes.tolist(), strict=True) if own == label]
        for label in set(classes.tolist())
    }
    by_class = {label: map(sum, zip(*each, strict=True)) for label, each in of_class.items()}
    iou = {label: tp / (tp + fp + fn) for label, (tp, fp, fn) in by_class.items()}
    total = [sum(column) for column in zip(*counts, strict=True)]
    expected = {
        "class": sum(iou.values()) / len(iou),
        "image": sum(tp / (tp + fp + fn) for tp, fp, fn in counts) / len(counts),
        "global": total[0] / sum(total),
    }
    assert len(set(expected.values())) == 3
    for average, value in expected.items():
        metric = PointMIoU(4, average=average)
        metric.update(maps, points, labels, classes)
        assert metric.compute().item() == pytest.approx(value, abs=1e-10)
    assert metric.class_iou[1].isnan()


def test_points_at_the_far_edges_lie_in_the_last_pixel():
    corner, label = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[1]])
    assert point_iou(B, corner, label).item() == 1
    assert point_iou(B.flip(1), torch.tensor([[[1.0, 0.0]]]), label).item() == 1


def test_x_goes_along_the_width():
    maps = torch.zeros(1, 2, 4)
    maps[0, 0, 3] = 1
    assert point_iou(maps, torch.tensor([[[0.8, 0.3]]]), torch.tensor([[1]])).item() == 1


def test_ignored_points_do_not_count_and_duplicates_count_each_time():
    ignored = torch.tensor([[1, -1, -1, 0]])
    assert point_iou(B, POINTS, ignored).item() == 1
    twice = torch.cat([POINTS, POINTS[:, :1]], 1)
    assert point_iou(B, twice, torch.tensor([[1, 1, 1, 0, 1]])).item() == pytest.approx(2 / 4)


def undefined_case():
    """A constant map, NaN, no positive point, and one that has a score."""
    maps = torch.cat([torch.full_like(B, 2), B, B, B])
    maps[1, 0, 0] = torch.nan
    labels = LABELS.repeat(4, 1)
    labels[2] = 0
    return maps, POINTS.expand(4, -1, -1), labels, torch.tensor([0, 0, 1, 1])


def test_undefined_pairs_are_left_out_and_counted():
    maps, points, labels, classes = undefined_case()
    assert point_iou(maps, points, labels).isnan().tolist() == [True, True, True, False]
    metric = PointMIoU(2)
    metric.update(maps, points, labels, classes)
    assert metric.compute().item() == pytest.approx(1 / 3)
    assert (metric.images, metric.excluded) == (1, 3)


def test_the_reference_takes_undefined_maps_to_paint_nothing():
    metric = PointMIoU(2, undefined="reference")
    metric.update(*undefined_case())
    assert metric.class_iou.tolist() == pytest.approx([0, 1 / 3])
    assert (metric.images, metric.excluded) == (3, 1)


def test_the_mask_itself_is_the_best_map():
    _, masks = random_case(4)
    points, _, _ = random_points(5)
    columns, rows = (points[..., 0] * 11).long(), (points[..., 1] * 9).long()
    labels = torch.stack([mask[r, c] for mask, r, c in zip(masks, rows, columns, strict=True)])
    labels[:, 0] = masks[:, 4, 4]
    points[:, 0] = torch.tensor([4.5 / 11, 4.5 / 9])
    assert (point_iou(masks.double(), points, labels) == 1).all()


def test_the_settings_are_shown():
    assert repr(PointMIoU(7, average="image", inclusive=True)) == (
        "PointMIoU(average='image', threshold=0.5, inclusive=True, normalise='min_max', undefined='exclude')"
    )


def test_bad_points():
    with pytest.raises(ValueError, match=r"points must be in \[0, 1\], .*, got 320\.0\."):
        point_iou(B, POINTS.masked_fill(POINTS == 0.9, 320), LABELS)
    with pytest.raises(ValueError, match=r"points must be in \[0, 1\], .*, got nan\."):
        point_iou(B, POINTS.masked_fill(POINTS == 0.9, torch.nan), LABELS)
    with pytest.raises(ValueError, match=r"points must have shape \(1, P, 2\), .*, got \(4, 2\)\."):
        point_iou(B, POINTS[0], LABELS)
    with pytest.raises(ValueError, match=r"labels must have shape \(1, 4\), one per point, got \(1, 3\)\."):
        point_iou(B, POINTS, LABELS[:, :3])
    with pytest.raises(ValueError, match=r"labels must hold 1 .*, got 2\."):
        point_iou(B, POINTS, LABELS * 2)
    with pytest.raises(TypeError, match=r"labels must be a tensor of integers .*, got torch\.float32\."):
        point_iou(B, POINTS, LABELS.float())


def test_bad_options():
    with pytest.raises(ValueError, match=r"average must be 'class', 'image' or 'global', got 'pixel'\."):
        PointMIoU(3, average="pixel")
    with pytest.raises(ValueError, match=r"undefined must be 'exclude' or 'reference', got 'zero'\."):
        PointMIoU(3, undefined="zero")
    with pytest.raises(ValueError, match=r"num_classes must be at least 1, got 0\."):
        PointMIoU(0)
    with pytest.raises(ValueError, match=r"classes must be in \[0, 3\), got 3\."):
        PointMIoU(3).update(B, POINTS, LABELS, torch.tensor([3]))
