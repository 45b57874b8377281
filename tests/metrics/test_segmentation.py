import pytest
import torch
from metric_cases import L4, M4, VOID, B, L, T, random_case, undefined_case
from oracle import exact

from captum_vit.metrics import Segmentation
from captum_vit.metrics.functional import (
    BestOf,
    class_iou,
    f1,
    f1_of_rows,
    foreground_average_precision,
    foreground_iou,
    mean_iou,
    min_max,
    pixel_accuracy,
    two_channel_average_precision,
)
from captum_vit.metrics.presets import PRESETS

FUNCTIONS = [class_iou, f1, foreground_iou, mean_iou, pixel_accuracy]
EMPTY, FULL, CONSTANT = torch.zeros_like(L), torch.ones_like(L), torch.full_like(B, 3)


def scores(metric, *batches):
    for maps, masks in batches:
        metric.update(maps, masks)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize(
    ("maps", "masks", "threshold", "accuracy", "ious", "miou", "two_channel", "foreground", "f1_value"),
    [
        (B, L, "mean", 1, (1, 1), 1, 0.95, 1, 1),
        (B, L, 0.5, 3 / 4, (2 / 3, 1 / 2), 0.583333, 0.95, 1, 2 / 3),
        (T, L, "mean", 3 / 4, (2 / 3, 1 / 2), 0.583333, 0.833333, 0.833333, 2 / 3),
        (M4, L4, "mean", 14 / 16, (10 / 12, 4 / 6), 0.75, 0.927102, 0.890909, 0.8),
        (M4, L4, 0.5, 14 / 16, (11 / 13, 3 / 5), 0.723077, 0.927102, 0.890909, 0.75),
        (B, VOID, "mean", 1, (1, 1), 1, 0.916667, 1, 1),
        (B, EMPTY, "mean", 2 / 4, (0.5, 0), 0.25, 0.566667, 0, 0),
        (B, FULL, "mean", 2 / 4, (0, 0.5), 0.25, 0.475, 1, 2 / 3),
        (CONSTANT, L, "mean", 2 / 4, (0.5, 0), 0.25, 0.5, 0.5, 0),
    ],
)
def test_the_protocols_worked_numbers(maps, masks, threshold, accuracy, ious, miou, two_channel, foreground, f1_value):
    expected = {
        "pixel_accuracy": accuracy,
        "iou_background": ious[0],
        "iou_foreground": ious[1],
        "miou": miou,
        "ap_two_channel": two_channel,
        "ap_foreground": foreground,
        "f1": f1_value,
    }
    found = scores(Segmentation.preset("chefer", threshold=threshold), (maps, masks))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("maps", "masks", "threshold", "expected"),
    [
        (B, L, "mean", 0.5),
        (B, L, 0.5, 1 / 3),
        (T, L, "mean", 1 / 3),
        (M4, L4, "mean", 0.45),
        (B, EMPTY, "mean", 0),
        (B, FULL, "mean", 0.5),
        (CONSTANT, L, "mean", 0),
    ],
)
def test_f1_of_rows_worked_numbers(maps, masks, threshold, expected):
    metric = Segmentation.preset("chefer", threshold=threshold, f1="chefer_rows")
    assert scores(metric, (maps, masks))["f1"] == pytest.approx(expected, abs=1e-6)
    if expected:
        assert f1_of_rows(maps, masks, threshold=threshold).item() == pytest.approx(expected, abs=1e-6)


def test_two_images_of_the_protocol():
    dataset = scores(Segmentation.preset("chefer"), (B, L), (T, L))
    image = scores(Segmentation.preset("chefer", aggregate="image"), (B, L), (T, L))
    assert dataset["pixel_accuracy"] == 7 / 8
    assert (dataset["iou_background"], dataset["iou_foreground"]) == pytest.approx((0.8, 0.75))
    assert dataset["miou"] == pytest.approx(0.775)
    assert image["miou"] == pytest.approx(0.791667, abs=1e-6)
    assert dataset["ap_two_channel"] == image["ap_two_channel"] == pytest.approx(0.891667, abs=1e-6)


def count(relevance, mask, threshold):
    """TP, FP, FN, TN by looking at each pixel of a map that is min-maxed here."""
    low, high = min(map(min, relevance)), max(map(max, relevance))
    scaled = [(value - low) / (high - low) for row in relevance for value in row]
    limit = sum(scaled) / len(scaled) if threshold == "mean" else threshold
    labels = [label for row in mask for label in row]
    pairs = [(value > limit, label) for value, label in zip(scaled, labels, strict=True)]
    return [pairs.count(each) for each in ((True, 1), (True, 0), (False, 1), (False, 0))]


def ratios(tp, fp, fn, tn):
    background, foreground = tn / (tn + fp + fn), tp / (tp + fp + fn)
    return {
        "pixel_accuracy": (tp + tn) / (tp + fp + fn + tn),
        "iou_background": background,
        "iou_foreground": foreground,
        "miou": (background + foreground) / 2,
        "f1": 2 * tp / (2 * tp + fp + fn),
    }


@pytest.mark.parametrize("threshold", ["mean", 0.4])
@pytest.mark.parametrize("void", [False, True])
def test_measures_are_their_formulas(threshold, void):
    maps, masks = random_case(0, void=void)
    each = [ratios(*count(*pair, threshold)) for pair in zip(maps.tolist(), masks.tolist(), strict=True)]
    for function, name in (
        (pixel_accuracy, "pixel_accuracy"),
        (mean_iou, "miou"),
        (foreground_iou, "iou_foreground"),
        (f1, "f1"),
    ):
        expected = torch.tensor([image[name] for image in each], dtype=torch.float64)
        exact(function(maps, masks, threshold=threshold), expected)
    both = [[image["iou_background"], image["iou_foreground"]] for image in each]
    exact(class_iou(maps, masks, threshold=threshold), torch.tensor(both, dtype=torch.float64))


@pytest.mark.parametrize("void", [False, True])
def test_aggregation_over_the_dataset_and_over_images(void):
    maps, masks = random_case(1, void=void)
    counts = [count(*pair, 0.4) for pair in zip(maps.tolist(), masks.tolist(), strict=True)]
    pooled = ratios(*map(sum, zip(*counts, strict=True)))
    each = [ratios(*image) for image in counts]
    mean = {name: sum(image[name] for image in each) / len(each) for name in pooled}
    precisions = {
        "ap_two_channel": two_channel_average_precision(maps, masks).mean().item(),
        "ap_foreground": foreground_average_precision(maps, masks).mean().item(),
    }
    dataset = scores(Segmentation(0.4), (maps, masks))
    assert dataset == pytest.approx(pooled | precisions | {"f1": mean["f1"]}, abs=1e-10)
    assert scores(Segmentation(0.4, f1="dataset"), (maps, masks))["f1"] == pytest.approx(pooled["f1"], abs=1e-10)
    assert scores(Segmentation(0.4, aggregate="image"), (maps, masks)) == pytest.approx(mean | precisions, abs=1e-10)


def test_the_best_threshold_of_the_dataset_and_of_each_image():
    maps, masks = random_case(2)
    fixed = [scores(Segmentation(k / 8, f1="dataset"), (maps, masks)) for k in range(9)]
    best = max(fixed, key=lambda found: found["iou_foreground"])
    assert scores(Segmentation(BestOf(9), f1="dataset"), (maps, masks)) == pytest.approx(best, abs=1e-10)
    per_image = scores(Segmentation(BestOf(9), aggregate="image"), (maps, masks))["iou_foreground"]
    assert per_image == pytest.approx(foreground_iou(maps, masks, threshold=BestOf(9)).mean().item(), abs=1e-10)
    assert per_image > scores(Segmentation(0.5, aggregate="image"), (maps, masks))["iou_foreground"]


def test_each_row_has_its_f1():
    maps, masks = random_case(3)
    thresholds = ((maps - maps.amin((1, 2), True)) / (maps.amax((1, 2), True) - maps.amin((1, 2), True))).mean((1, 2))
    expected = []
    for relevance, mask, threshold in zip(maps.tolist(), masks.tolist(), thresholds.tolist(), strict=True):
        low, high = min(map(min, relevance)), max(map(max, relevance))
        rows = []
        for values, labels in zip(relevance, mask, strict=True):
            above = [(value - low) / (high - low) > threshold for value in values]
            both = sum(a and b for a, b in zip(above, labels, strict=True))
            either = sum(above) + sum(labels)
            rows.append(2 * both / either if either else 0)
        expected.append(sum(rows) / len(rows))
    exact(f1_of_rows(maps, masks), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("threshold", ["mean", "otsu", 0.4, BestOf(5)])
def test_scale_and_offset_do_not_matter(function, threshold):
    maps, masks = random_case(4, void=True)
    exact(function(4 * maps - 8, masks, threshold=threshold), function(maps, masks, threshold=threshold))


def test_exchange_of_foreground_and_background():
    maps, masks = random_case(5, ties=False)  # no pixel lies at the threshold
    exact(class_iou(-maps, 1 - masks), class_iou(maps, masks).flip(1))
    exact(mean_iou(-maps, 1 - masks), mean_iou(maps, masks))
    exact(pixel_accuracy(-maps, 1 - masks), pixel_accuracy(maps, masks))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_mask_itself_is_the_best_map_and_values_stay_in_range(function):
    maps, masks = random_case(6)
    assert (function(masks.double(), masks) == 1).all()
    assert ((function(maps, masks) >= 0) & (function(maps, masks) <= 1)).all()
    assert (function(maps, masks) < 1).all()


def test_a_pixel_at_the_threshold_is_background():
    assert foreground_iou(B, L, threshold=0.5).item() == 0.5  # 4 of 8 is not above one half
    assert foreground_iou(B, L, threshold=0.49).item() == 1


def test_normalisation_is_the_callers():
    assert foreground_iou(B, L, threshold=3, normalise="none").item() == 1
    signed = torch.tensor([[[-8.0, 1], [2, 4]]])
    assert foreground_iou(signed, L).item() == pytest.approx(2 / 3)  # 9, 10 and 12 of 12 lie above one half
    assert foreground_iou(signed, L, normalise="clip_min_max").item() == 0.5  # only 4 of 4 does


@pytest.mark.parametrize("function", [*FUNCTIONS, f1_of_rows])
def test_maps_that_rank_nothing_and_empty_masks_have_no_score(function):
    undefined = function(*undefined_case()).isnan().view(5, -1)  # class_iou has two values per image
    assert undefined.all(1).tolist() == undefined.any(1).tolist() == [True] * 4 + [False]


def test_images_without_a_score_are_left_out_and_counted():
    maps, masks = undefined_case()
    metric, alone = Segmentation(0.5), Segmentation(0.5)
    assert scores(metric, (maps, masks)) == scores(alone, (maps[4:], masks[4:]))
    assert (metric.images, metric.excluded) == (1, 4)


def test_the_reference_scores_them_as_blank():
    maps, masks = undefined_case()
    blank = maps.clone()
    blank[:3] = 0
    for aggregate in ("dataset", "image"):
        metric = Segmentation.preset("chefer", aggregate=aggregate)
        found = scores(metric, (maps, masks))
        assert found == scores(Segmentation.preset("chefer", aggregate=aggregate), (blank, masks))
        assert (metric.images, metric.excluded) == (5, 0)


def test_a_ratio_of_nothing_is_left_out_or_zero_for_the_reference():
    masks = torch.tensor([[[-1, -1], [1, 1]]])  # no background, and none is predicted
    ours = scores(Segmentation("mean", aggregate="image"), (B, masks))
    reference = scores(Segmentation.preset("chefer"), (B, masks))
    assert ours["iou_background"] != ours["iou_background"]
    assert ours["iou_foreground"] == reference["iou_foreground"] == 1
    assert (reference["iou_background"], reference["miou"]) == (0, 0.5)


@pytest.mark.parametrize(("aggregate", "of_all"), [("image", ()), ("dataset", ("iou_background", "miou"))])
def test_every_measure_says_of_how_many_images_it_is(aggregate, of_all):
    metric = Segmentation(0.25, normalise="none", aggregate=aggregate)
    above = torch.tensor([[[0.5, 0.75], [0.5, 1.0]]])
    for maps, masks in ((above, FULL), (above, FULL), (min_max(B), L), (CONSTANT, L)):
        metric.update(maps, masks)
    few = {"iou_background", "miou"} - set(of_all)
    assert metric.counted == {name: 1 if name in few else 3 for name in metric.compute()}
    assert (metric.images.item(), metric.excluded.item()) == (3, 1)
    assert metric.compute()["iou_foreground"].item() == pytest.approx(1)
    metric.reset()
    assert set(metric.counted.values()) == {0}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_by_hand(name):
    expected = {
        "chefer": ("mean", "min_max", "dataset", "reference"),
        "clip_prs": ("mean", "clip_min_max", "dataset", "reference"),
        "legrad": (0.5, "min_max", "dataset", "exclude"),
        "report_voc": (0.5, "min_max", "image", "exclude"),
        "review_cam_lrp": (0.7, "min_max", "image", "exclude"),
    }
    metric = Segmentation.preset(name, **({"threshold": 0.7} if name == "review_cam_lrp" else {}))
    assert (metric.threshold, metric.normalise, metric.aggregate, metric.undefined) == expected[name]
    assert metric.f1 == "image"


def test_clip_prs_drops_negative_values_before_the_mean():
    signed = torch.tensor([[[-8.0, 1], [2, 4]]])
    assert scores(Segmentation.preset("chefer"), (signed, L))["iou_foreground"] == pytest.approx(2 / 3)
    assert scores(Segmentation.preset("clip_prs"), (signed, L))["iou_foreground"] == 1


def test_the_settings_are_shown():
    assert repr(Segmentation.preset("legrad")) == (
        "Segmentation(threshold=0.5, normalise='min_max', aggregate='dataset', f1='image', undefined='exclude')"
    )


def test_bad_options():
    with pytest.raises(ValueError, match=r"preset must be one of chefer, .*, got 'cheffer'\."):
        Segmentation.preset("cheffer")
    with pytest.raises(ValueError, match=r"threshold must be given for 'review_cam_lrp', got none"):
        Segmentation.preset("review_cam_lrp")
    with pytest.raises(ValueError, match=r"aggregate must be one of dataset, image, got 'class'\."):
        Segmentation(0.5, aggregate="class")
    with pytest.raises(ValueError, match=r"f1 must be one of .*, got 'rows'\."):
        Segmentation(0.5, f1="rows")
    with pytest.raises(ValueError, match=r"undefined must be one of exclude, reference, got 'zero'\."):
        Segmentation(0.5, undefined="zero")


def test_bad_masks_and_maps():
    for call in (lambda *pair: foreground_iou(*pair), Segmentation(0.5).update):
        with pytest.raises(ValueError, match=r"masks must hold 0 .*, got 255\."):
            call(B, L * 255)
        with pytest.raises(ValueError, match=r"compared with, \(1, 2, 2\), got \(1, 4, 4\)\."):
            call(M4, L)
        with pytest.raises(TypeError, match=r"booleans or integers .*, got torch\.float32\."):
            call(B, L.float())


def test_rows_can_hold_no_void_pixels_and_need_one_threshold():
    with pytest.raises(ValueError, match=r"no void pixels \(-1\) for the F1 of rows, got -1\. Use f1\."):
        f1_of_rows(B, VOID)
    with pytest.raises(ValueError, match=r"one value per map for the F1 of rows, got BestOf\(count=5\)\."):
        f1_of_rows(B, L, threshold=BestOf(5))
