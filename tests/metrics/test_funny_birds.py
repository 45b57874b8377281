"""The Co-12 scores: worked numbers, loops that share no code, and what is refused."""

from itertools import combinations

import pytest
import torch
from scipy.stats import spearmanr

from captum_vit.metrics.functional import funny_birds as co12
from captum_vit.metrics.functional.part_classes import minimal_sufficient_sets, target_pair

PARTS = ("beak", "eye", "foot", "tail", "wing")


def drawn(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_classes(seed, count=8, variants=2):
    table = torch.randint(variants, (count, len(PARTS)), generator=torch.Generator().manual_seed(seed)).tolist()
    return [dict(zip(PARTS, each, strict=True)) for each in table]


# the sum over dilated parts


@pytest.mark.parametrize("side", [1, 3, 5])
def test_importances_are_sums_over_grown_pieces(side):
    maps = drawn(0, 2, 9, 7)
    masks = (drawn(1, 2, 3, 2, 9, 7) > 1.3).long()
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for b, p, k, row, column in torch.cartesian_prod(*(torch.arange(n) for n in masks.shape)).tolist():
        reach = side // 2
        window = masks[b, p, k, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
        expected[b, p] += maps[b, row, column] if window.any() else 0
    assert torch.allclose(co12.part_importances(maps, masks, side), expected, atol=1e-10, rtol=0)


def test_one_piece_needs_no_dimension_of_pieces_and_default_is_five():
    maps, masks = drawn(0, 2, 9, 7), (drawn(1, 2, 3, 9, 7) > 1.3).long()
    assert torch.equal(co12.part_importances(maps, masks), co12.part_importances(maps, masks[:, :, None], 5))


def test_sides_near_each_other_count_twice():
    maps, both = torch.ones(1, 5, 5), torch.zeros(1, 1, 2, 5, 5, dtype=torch.long)
    both[0, 0, 0, 2, 1] = both[0, 0, 1, 2, 3] = 1
    assert co12.part_importances(maps, both, 3).item() == 18
    assert co12.part_importances(maps, both.amax(2), 3).item() == 15


def test_void_pixels_belong_to_no_part():
    masks = torch.full((1, 1, 4, 4), -1)
    assert co12.part_importances(torch.ones(1, 4, 4), masks).item() == 0


# important parts


def test_thresholds_are_eighty_even_steps():
    assert len(co12.THRESHOLDS) == 80
    assert list(co12.THRESHOLDS) == pytest.approx([0.01 + 0.49 * k / 79 for k in range(80)], abs=1e-15)


def test_importance_is_strict_and_signed():
    importances = torch.tensor([[0.5, 0.25, 0.0, -0.5]])
    assert co12.important_parts(importances, torch.tensor([1.0]), (0.25,)).tolist() == [[[True, False, False, False]]]
    inverted = co12.important_parts(importances, torch.tensor([-1.0]), (0.25,))
    assert inverted.tolist() == [[[True, True, True, False]]]  # 0 > −0.25: without any relevance, and important


# classes


def test_minimal_sufficient_sets_by_every_subset():
    several = 0
    for seed in range(6):
        classes = random_classes(seed)
        for label, own in enumerate(classes):
            others = [parts for k, parts in enumerate(classes) if k != label]
            enough = [
                set(some)
                for size in range(1, 6)
                for some in combinations(PARTS, size)
                if all(any(parts[name] != own[name] for name in some) for parts in others)
            ]
            expected = [some for some in enough if not any(other < some for other in enough)]
            found = minimal_sufficient_sets(classes, label)
            assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
            several += len(found) > 1
    assert several > 10


def test_classes_alike_have_no_sufficient_set():
    assert minimal_sufficient_sets([{"beak": 0}, {"beak": 0}], 0) == []


def test_parts_of_other_names_are_never_shared():
    assert minimal_sufficient_sets([{"core": 0, "point": 0}, {"arm": 0}], 0) == [{"core"}, {"point"}]


def test_pairs_share_two_parts_each_and_not_the_same():
    found = 0
    for seed in range(8):
        classes = random_classes(seed, count=10, variants=3)
        for label, own in enumerate(classes):
            shared = {k: {p for p in PARTS if parts[p] == own[p]} for k, parts in enumerate(classes) if k != label}
            expected = None
            for a in sorted(shared):
                for b in sorted(shared):
                    if (
                        expected is None
                        and a < b
                        and len(shared[a]) == len(shared[b]) == 2
                        and not shared[a] & shared[b]
                    ):
                        expected = (a, b, shared[a], shared[b])
            assert target_pair(classes, label) == expected
            found += expected is not None
    assert 10 < found < 70


@pytest.mark.parametrize("ask", [minimal_sufficient_sets, target_pair])
@pytest.mark.parametrize("label", [-1, 2])
def test_an_unknown_class(ask, label):
    with pytest.raises(IndexError, match=rf"label must be in \[0, 2\), the classes of class_parts, got {label}"):
        ask([{"beak": 0}, {"beak": 1}], label)


# the scores


def test_csdc_by_loops():
    important, sufficient = drawn(3, 4, 6, 5) > 0, drawn(4, 4, 3, 5) > 0.8
    sufficient[0, 1:] = False
    expected = [
        [
            max(
                sum(bool(i and s) for i, s in zip(row, some, strict=True)) / sum(map(bool, some))
                for some in sufficient[b]
                if some.any()
            )
            for row in important[b]
        ]
        for b in range(4)
    ]
    assert torch.allclose(co12.csdc(important, sufficient), torch.tensor(expected), atol=1e-7)


def test_csdc_without_sets_has_no_value():
    important = torch.ones(1, 2, 5, dtype=torch.bool)
    assert co12.csdc(important, torch.zeros(1, 0, 5, dtype=torch.bool)).isnan().all()
    assert co12.csdc(important, torch.zeros(1, 2, 5, dtype=torch.bool)).isnan().all()


def test_checks_look_at_the_prediction():
    outputs, changed = drawn(5, 3, 4), drawn(6, 3, 7, 4)
    stays = [[float(row.argmax() == outputs[b].argmax()) for row in changed[b]] for b in range(3)]
    assert co12.preservation_check(outputs, changed).tolist() == stays
    assert co12.deletion_check(outputs, changed).tolist() == [[1 - each for each in row] for row in stays]


def test_distractibility_by_loops():
    scores, without, important = drawn(7, 4), drawn(7, 4)[:, None] * (1 + 0.1 * drawn(8, 4, 9)), drawn(9, 4, 6, 9) > 0
    for b in range(4):
        irrelevant = {
            p for p in range(9) if abs(scores[b] - without[b, p]) < 0.05 * abs(scores[b]) or scores[b] < without[b, p]
        }
        assert 0 < len(irrelevant) < 9
        expected = [1 - sum(bool(row[p]) for p in irrelevant) / len(irrelevant) for row in important[b]]
        assert co12.distractibility(scores, without, important)[b].tolist() == pytest.approx(expected, abs=1e-6)


def test_distractibility_at_its_edges():
    important = torch.ones(1, 1, 1, dtype=torch.bool)
    for without, value in ((95.0, None), (95.1, 0.0), (100.0, 0.0), (120.0, 0.0), (90.0, None)):
        found = co12.distractibility(torch.tensor([100.0]), torch.tensor([[without]]), important).item()
        assert found == value or (value is None and found != found)
    # of a negative logit the magnitude counts
    assert co12.distractibility(torch.tensor([-100.0]), torch.tensor([[-104.0]]), important).item() == 0
    assert co12.distractibility(torch.tensor([-100.0]), torch.tensor([[-106.0]]), important).isnan().all()


def test_single_deletion_worked_number():
    drops, importances = torch.tensor([[3.0, 1, 2, 0, 5]]).double(), torch.tensor([[0.3, 0.1, 0.5, 0, 0.9]]).double()
    value = co12.single_deletion(torch.tensor([7.0]).double(), 7 - drops, importances)
    assert value.item() == pytest.approx(0.95, abs=1e-12)


def test_single_deletion_against_scipy():
    scores, without, importances = drawn(10, 6), drawn(11, 6, 5), drawn(12, 6, 5).round()
    for b, value in enumerate(co12.single_deletion(scores, without, importances).tolist()):
        rho = spearmanr((scores[b] - without[b]).numpy(), importances[b].numpy()).statistic
        assert value == pytest.approx(rho / 2 + 0.5, abs=1e-10)


def test_single_deletion_of_parts_alike_has_no_value():
    without = torch.tensor([[1.0, 2.0, 3.0]])
    assert co12.single_deletion(torch.ones(1), without, torch.ones(1, 3)).isnan().all()
    assert co12.single_deletion(torch.ones(1), torch.ones(1, 3), without).isnan().all()


def test_target_sensitivity_by_loops():
    first, second = drawn(13, 8, 5), drawn(14, 8, 5)
    a, b = torch.zeros(8, 5, dtype=torch.bool), torch.zeros(8, 5, dtype=torch.bool)
    a[:, [0, 3]] = b[:, [1, 2]] = True
    found = co12.target_sensitivity(first, second, a, b)
    for k in range(8):
        assert found[k, 0] == float(first[k, 0] + first[k, 3] > second[k, 0] + second[k, 3])
        assert found[k, 1] == float(first[k, 1] + first[k, 2] < second[k, 1] + second[k, 2])
    assert found.mean(0).tolist() not in ([0, 0], [1, 1])


def test_a_map_without_a_class_is_not_sensitive_at_all():
    importances = drawn(15, 8, 5)
    marked = torch.eye(5, dtype=torch.bool)
    found = co12.target_sensitivity(importances, importances, marked[[0] * 8], marked[[1] * 8])
    assert found.tolist() == [[0, 0]] * 8


@pytest.mark.parametrize(
    ("first", "second", "differ"),
    [((1, 2), (2, 1), True), ((2, 2), (2, 1), False), ((1, 1), (2, 1), False), ((2, 1), (1, 2), False)],
)
def test_targets_differ_when_each_loses_more_by_its_own_parts(first, second, differ):
    assert co12.targets_differ(torch.tensor([first]), torch.tensor([second])).item() is differ


def test_background_independence_is_over_all_objects():
    scores, without = torch.tensor([10.0, 10, 10, -10, 0]), torch.tensor([9.5, 9.6, 12.0, -10.5, 0.0])
    assert co12.background_independence(scores, without).item() == pytest.approx(1 - 2 / 5)
    assert co12.background_independence(scores[:0], without[:0]).isnan()


# what they add up to


def test_completeness_worked_number():
    found = co12.completeness(*(torch.tensor([v], dtype=torch.float64) for v in (0.7353, 0.602, 0.532, 0.54372)))
    assert found.score.item() == pytest.approx(((0.7353 + 0.602 + 0.532) / 3 + 0.54372) / 2, abs=1e-12)
    assert round(found.score.item(), 5) == 0.58341


def test_completeness_takes_the_first_of_the_best_thresholds():
    checks, preservation, deletion, distraction = (
        torch.tensor(each, dtype=torch.float64)
        for each in ([0.25, 1, 0.5, 0.5], [0.25, 0.5, 1, 1], [0.25, 0, 0, 0.0], [0.75, 0.5, 0.5, 0.5])
    )
    found = co12.completeness(checks, preservation, deletion, distraction)
    assert (found.step, found.score.item()) == (0, 0.5)
    later = co12.completeness(checks, preservation, deletion, distraction + torch.tensor([0, 0.25, 0.25, 0]))
    assert (later.step, later.csdc.item(), later.preservation.item(), later.deletion.item()) == (1, 1, 0.5, 0)
    assert later.distractibility.item() == 0.75


def test_averages_leave_out_what_has_no_value():
    assert co12.correctness(torch.tensor([1.0, torch.nan, 0.5])).item() == 0.75
    assert co12.contrastivity(torch.tensor([[1.0, 0.0], [torch.nan, torch.nan], [1.0, 1.0]])).item() == 0.75


# what is refused

MAPS, MASKS = torch.ones(1, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: co12.part_importances(MAPS, MASKS, 4), "dilation must be odd and at least 1, got 4"),
        (lambda: co12.part_importances(MAPS, MASKS[..., :3]), r"shape \(1, P, 4, 4\), .* got \(1, 2, 1, 4, 3\)"),
        (lambda: co12.part_importances(MAPS, MASKS[0]), r"shape \(1, P, 4, 4\), .* got \(2, 4, 4\)"),
        (lambda: co12.part_importances(MAPS, MASKS + 2), r"masks must hold 0 \(background\).* got 2"),
        (lambda: co12.important_parts(MAPS[0], torch.ones(3)), r"totals \(B,\), got \(4, 4\) and \(3,\)"),
        (lambda: co12.csdc(MASKS[0] > 0, MASKS[0, ..., :3] > 0), r"got \(2, 4, 4\) and \(2, 4, 3\)"),
        (lambda: co12.preservation_check(MAPS[0], MAPS), r"got \(4, 4\) and \(1, 4, 4\)"),
        (lambda: co12.distractibility(torch.ones(1), torch.ones(1, 3), MAPS > 0), r"\(1, T, 3\).* got \(1, 4, 4\)"),
        (lambda: co12.single_deletion(torch.ones(2), torch.ones(1, 3), torch.ones(1, 3)), r"got \(2,\) and \(1, 3\)"),
        (lambda: co12.target_sensitivity(MAPS[0], MAPS[0], MAPS[0] > 0, MAPS[0, :2] > 0), r"one shape .*\(2, 4\)\]"),
        (lambda: co12.completeness(*[torch.ones(2)] * 3, torch.ones(3)), r"one shape \(T,\), got \[.*\(3,\)\]"),
    ],
)
def test_bad_input(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
