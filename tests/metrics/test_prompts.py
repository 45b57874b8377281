import pytest
import torch
from oracle import exact

from captum_vit.metrics import PromptPairLocalisation, WrongPromptArea, WrongPromptEnergy
from captum_vit.metrics.functional import prompt_pair_localisation, wrong_prompt_area, wrong_prompt_energy

ABSENT_PROMPT = [wrong_prompt_energy, wrong_prompt_area]


def random_scene(batch=4):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, batch, 12, 5, generator=generator, dtype=torch.float64)
    maps[1, 1::2] *= 1.5  # neither prompt's map is always the stronger one
    maps[1, ::2] *= 0.6
    masks = torch.randint(-1, 2, (2, batch, 12, 5), generator=generator)
    return (*maps, *masks)


def pixels(*tensors):
    """For every image, a list of the values at each pixel."""
    return [list(zip(*(each[i].flatten().tolist() for each in tensors), strict=True)) for i in range(len(tensors[0]))]


def energy_by_hand(present, absent, masks, own):
    values = []
    for image in pixels(present, absent, masks):
        tops = [max(p for p, _, _ in image), max(a for _, a, _ in image)] if own else [1, 1]
        right = sum(max(p, 0) / tops[0] for p, _, mask in image if mask == 1)
        wrong = sum(max(a, 0) / tops[1] for _, a, mask in image if mask == 1)
        values.append(wrong / (right + wrong))
    return torch.tensor(values, dtype=torch.float64)


def area_by_hand(present, absent, masks, threshold, scale):
    values = []
    for image in pixels(present, absent, masks):
        tops = {
            "shared": max(max(p, a) for p, a, _ in image),
            "own": max(a for _, a, _ in image),
            "none": 1,
        }
        inside = [a / tops[scale] > threshold for _, a, mask in image if mask == 1]
        values.append(sum(inside) / len(inside))
    return torch.tensor(values, dtype=torch.float64)


def pair_by_hand(first, second, first_masks, second_masks):
    values = []
    for image in pixels(first, second, first_masks, second_masks):
        sums = dict.fromkeys([(who, where) for who in "ab" for where in "ab"], 0.0)
        for a, b, in_a, in_b in image:
            if {in_a, in_b} == {0, 1}:
                where = "a" if in_a == 1 else "b"
                sums["a", where] += max(a, 0)
                sums["b", where] += max(b, 0)
        share_a = sums["a", "a"] / (sums["a", "a"] + sums["a", "b"])
        share_b = sums["b", "b"] / (sums["b", "b"] + sums["b", "a"])
        values.append((share_a + share_b) / 2)
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("scale", ["shared", "own"])
def test_wrong_prompt_energy_is_its_formula(scale):
    present, absent, masks, _ = random_scene()
    exact(
        wrong_prompt_energy(present, absent, masks, scale=scale),
        energy_by_hand(present, absent, masks, scale == "own"),
    )


@pytest.mark.parametrize("scale", ["shared", "own", "none"])
def test_wrong_prompt_area_is_its_formula(scale):
    present, absent, masks, _ = random_scene()
    exact(
        wrong_prompt_area(present, absent, masks, threshold=0.3, scale=scale),
        area_by_hand(present, absent, masks, 0.3, scale),
    )


def test_prompt_pair_localisation_is_its_formula():
    scene = random_scene()
    exact(prompt_pair_localisation(*scene), pair_by_hand(*scene))


def test_a_method_blind_to_the_prompt_scores_one_half():
    first, _, first_masks, second_masks = random_scene()
    half = torch.full((4,), 0.5, dtype=torch.float64)
    exact(wrong_prompt_energy(first, first, first_masks), half)
    exact(prompt_pair_localisation(first, first, first_masks, second_masks), half)


def test_maps_that_are_the_masks_are_perfect():
    _, _, first_masks, second_masks = random_scene()
    own, other = (first_masks == 1).double(), (second_masks == 1).double()
    exact(prompt_pair_localisation(own, other, first_masks, second_masks), torch.ones(4, dtype=torch.float64))
    exact(prompt_pair_localisation(1 - own, 1 - other, first_masks, second_masks), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("metric", ABSENT_PROMPT)
def test_a_faint_absent_map_is_forgiven_only_on_the_shared_scale(metric):
    present, absent, masks, _ = random_scene()
    faint = 1e-3 * absent
    assert (metric(present, faint, masks) < 2e-2).all()
    exact(metric(present, faint, masks, scale="own"), metric(present, absent, masks, scale="own"))


@pytest.mark.parametrize("metric", ABSENT_PROMPT)
def test_a_common_factor_does_not_count_on_the_shared_scale(metric):
    present, absent, masks, _ = random_scene()
    exact(metric(1e-3 * present, 1e-3 * absent, masks), metric(present, absent, masks))


@pytest.mark.parametrize("metric", ABSENT_PROMPT)
def test_an_absent_map_of_zeros_is_the_right_answer(metric):
    present, absent, masks, _ = random_scene()
    exact(metric(present, torch.zeros_like(absent), masks), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("metric", ABSENT_PROMPT)
def test_images_without_an_answer(metric):
    present, absent, masks, _ = random_scene(5)
    present[0], present[1, 2, 2], absent[2, 0, 0] = 2.0, torch.nan, torch.inf
    masks[3] = 0
    assert metric(present, absent, masks).isnan().tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("metric", ABSENT_PROMPT)
def test_a_scale_without_length_gives_no_answer(metric):
    present, absent, masks, _ = random_scene(1)
    assert metric(-present.abs(), -absent.abs(), masks).isnan().all()
    assert metric(present, -absent.abs(), masks, scale="own").isnan().all()
    assert not metric(present, -absent.abs(), masks).isnan().any()


def test_pairs_without_an_answer():
    first, second, first_masks, second_masks = random_scene(6)
    first[0], second[1, 2, 2] = 1.0, torch.nan
    first_masks[2] = 0
    second_masks[3] = first_masks[3]
    first[4] = -first[4].abs()
    values = prompt_pair_localisation(first, second, first_masks, second_masks)
    assert values.isnan().tolist() == [True, True, True, True, True, False]


@pytest.mark.parametrize(
    ("metric", "function", "options", "used"),
    [
        (WrongPromptEnergy, wrong_prompt_energy, {"scale": "own"}, 3),
        (WrongPromptArea, wrong_prompt_area, {"threshold": 0.2, "scale": "none"}, 3),
        (PromptPairLocalisation, prompt_pair_localisation, {}, 4),
    ],
)
def test_stream_is_the_mean_in_any_split(metric, function, options, used):
    scene = random_scene(7)[:used]
    scene[0][3] = 1
    whole, split = metric(**options), metric(**options)
    whole.update(*scene)
    for part in zip(*(each.split([2, 1, 4]) for each in scene), strict=True):
        split.update(*part)
    exact(whole.compute(), function(*scene, **options).nanmean())
    exact(split.compute(), whole.compute())
    assert (split.images.item(), split.excluded.item()) == (6, 1)


def test_bad_input_is_refused():
    first, second, first_masks, second_masks = random_scene()
    for metric in ABSENT_PROMPT:
        with pytest.raises(ValueError, match="scale must be 'shared', 'own' or 'none', got 'minmax'"):
            metric(first, second, first_masks, scale="minmax")
        with pytest.raises(ValueError, match=r"\(4, 12, 5\), got \(4, 5, 5\)"):
            metric(first, second[:, :5], first_masks)
    with pytest.raises(ValueError, match=r"second_masks must have the shape of first_masks, \(4, 12, 5\), got \(3, 12"):
        prompt_pair_localisation(first, second, first_masks, second_masks[:3])
    with pytest.raises(ValueError, match=r"masks must hold .* got 7"):
        prompt_pair_localisation(first, second, first_masks + 6 * (first_masks == 1), second_masks)
