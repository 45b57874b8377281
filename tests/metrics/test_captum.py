import pytest
import torch
from captum import metrics
from oracle import exact

from captum_vit.metrics import Infidelity, SensitivityMax
from captum_vit.metrics.functional import infidelity, sensitivity_max

MICRO = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)
"""Image and weights of the protocols' linear model."""

FIRST = torch.tensor([0])


def linear(images):
    return (images * MICRO).sum((1, 2, 3))[:, None]


def without_last_pixel(images):
    changed = images.clone()
    changed[..., -1, -1] = 0
    return changed


class Curved:
    """A model of two outputs that is not linear; remembers what it sees."""

    def __init__(self):
        self.seen = []
        self.weights = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def __call__(self, images):
        self.seen.append(images)
        return (
            torch.einsum("bchw,kchw->bk", images, self.weights.to(images)).tanh()
            + images.square().mean((1, 2, 3))[:, None]
        )


def batch(size=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 8, 12, generator=generator, dtype=torch.float64)
    return images, torch.randn(size, 8, 12, generator=generator, dtype=torch.float64), torch.arange(size) % 2


def changed_patches(image, seen):
    """Which patches of 4×3 pixels of an image differ; a patch that differs in part fails."""
    differ = (image != seen).all(0).view(2, 4, 4, 3)
    partly = (image != seen).any(0).view(2, 4, 4, 3)
    whole = differ.all(3).all(1)
    assert torch.equal(whole, partly.any(3).any(1))
    return whole.flatten().tolist()


def infidelity_by_hand(model, images, maps, targets, sets, *, by_inputs, normalise):
    """Definition 2.1, with the scale β that fits best, sample by sample."""
    values = []
    for image, relevance, target in zip(images, maps, targets, strict=True):
        products, drops = [], []
        for chosen in sets:
            mask = torch.zeros(8, 12, dtype=torch.float64)
            for place, replaced in enumerate(chosen):
                if replaced:
                    row, column = divmod(place, 4)
                    mask[row * 4 : row * 4 + 4, column * 3 : column * 3 + 3] = 1
            other = image * (1 - mask) + 0.25 * mask
            step = mask.expand(3, 8, 12) if by_inputs else image - other
            products.append(float((step * relevance / 3).sum()))
            both = model(torch.stack([image, other]))[:, target]
            drops.append(float(both[0] - both[1]))
        beta = 1.0
        if normalise:
            beta = sum(p * d for p, d in zip(products, drops, strict=True)) / sum(p * p for p in products)
        values.append(sum((beta * p - d) ** 2 for p, d in zip(products, drops, strict=True)) / len(sets))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("multiply_by_inputs", "attribution", "expected"),
    [
        (False, MICRO, 0.0),
        (False, MICRO * MICRO, 2304.0),
        (False, 0 * MICRO, 256.0),
        (True, MICRO * MICRO, 0.0),
        (True, MICRO, 144.0),
    ],
)
def test_the_protocols_infidelities_of_captum_itself(multiply_by_inputs, attribution, expected):
    perturb = metrics.infidelity_perturb_func_decorator(multiply_by_inputs)(without_last_pixel)
    value = metrics.infidelity(linear, perturb, MICRO, attribution, target=0)
    exact(value, torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize(
    ("multiply_by_inputs", "maps", "expected"),
    [(False, MICRO, 0.0), (False, MICRO * MICRO, 2304.0), (True, MICRO * MICRO, 0.0), (True, MICRO, 144.0)],
)
def test_the_protocols_infidelities_from_the_sample_that_takes_the_last_pixel(multiply_by_inputs, maps, expected):
    options = {"patch": (1, 1), "share": 0.25, "samples": 1, "normalise": False}
    for seed in range(100):
        score = Recorded(linear)
        value = infidelity(score, MICRO, maps[:, 0], FIRST, seed=seed, multiply_by_inputs=multiply_by_inputs, **options)
        if any(torch.equal(each, without_last_pixel(MICRO)[0]) for each in torch.cat(score.seen)):
            exact(value, torch.tensor([expected], dtype=torch.float64))
            return
    pytest.fail("no seed replaces the last pixel")


class Recorded:
    def __init__(self, function):
        self.function, self.seen = function, []

    def __call__(self, images):
        self.seen.append(images.clone())
        return self.function(images)


def test_the_protocols_sensitivities_of_captum_itself():
    def identity(inputs):
        return inputs

    def more(inputs):
        return inputs + 1

    value = metrics.sensitivity_max(identity, MICRO, more)
    torch.testing.assert_close(value, torch.tensor([0.365148], dtype=torch.float64), rtol=0, atol=1e-6)
    exact(value, torch.tensor([2 / 30**0.5], dtype=torch.float64))
    nothing = metrics.sensitivity_max(
        lambda inputs: tuple(0 * each for each in inputs), MICRO, lambda inputs: (inputs,)
    )
    exact(nothing, torch.zeros(1, dtype=torch.float64))


def test_what_captum_makes_of_a_bare_tensor_and_what_is_made_of_it_here():
    def identity(inputs):
        return inputs[0] if isinstance(inputs, tuple) else inputs

    wrong = metrics.sensitivity_max(identity, MICRO, lambda inputs: (inputs + 1,), n_perturb_samples=2)
    torch.testing.assert_close(wrong, torch.tensor([0.5164], dtype=torch.float64), rtol=0, atol=5e-5)
    largest = Recorded(lambda images: images.sum(1))
    value = sensitivity_max(lambda images, _: largest(images), MICRO, FIRST, radius=1.0, patch=(2, 2), samples=50)
    steps = [abs(float((each - MICRO).mean())) for call in largest.seen for each in call[:, None]]
    exact(value, torch.tensor([max(steps) * 2 / 30**0.5], dtype=torch.float64))


@pytest.mark.parametrize("by_inputs", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
def test_captum_itself_says_the_same_of_the_same_samples(by_inputs, normalise):
    images, maps, targets = batch()
    options = {"patch": (4, 3), "share": 0.3, "samples": 6, "multiply_by_inputs": by_inputs, "normalise": normalise}
    score = Recorded(Curved())
    value = infidelity(score, images, maps, targets, **options)
    changed = [image for image in torch.cat(score.seen) if not any(torch.equal(image, each) for each in images)]

    def perturb(repeated):
        others = torch.stack(changed)
        return (repeated != others).double() if by_inputs else repeated - others, others

    spread = (maps / 3)[:, None].expand_as(images)
    of_captum = metrics.infidelity(
        Curved(), perturb, images, spread, target=targets, n_perturb_samples=6, normalize=normalise
    )
    exact(value, of_captum)


@pytest.mark.parametrize("normalise", [False, True])
def test_an_image_runs_once_whole_and_once_for_every_sample(normalise):
    images, maps, targets = batch(5)
    model = Curved()
    infidelity(model, images, maps, targets, patch=(4, 3), samples=7, batch_size=3, normalise=normalise)
    assert sum(len(each) for each in model.seen) == 5 * 8


def test_infidelity_needs_an_output_and_a_map_that_vary():
    images, maps, targets = batch()
    even = torch.ones(8, 12).double()
    even[::2] = -1  # every patch of 4×3 pixels holds the same sum
    constant = lambda images: torch.ones(len(images), 2)  # noqa: E731
    by_inputs = {"patch": (4, 3), "multiply_by_inputs": True}
    assert infidelity(constant, images, maps, targets, **by_inputs).isnan().all()
    assert infidelity(constant, images, maps, targets, normalise=False, **by_inputs).isnan().all()
    assert infidelity(Curved(), images, even.expand_as(maps), targets, **by_inputs).isnan().all()
    inverse = 1 / (1 + maps.abs())  # with it every product of image and map is 1
    assert infidelity(Curved(), inverse[:, None].expand_as(images), 1 / inverse, targets, patch=(4, 3)).isnan().all()
    images[1] = 0.0  # the fill
    assert infidelity(Curved(), images, maps, targets, patch=(4, 3)).isnan().tolist() == [False, True, False]
    counts = lambda images: (images == 0).all(1).sum((1, 2))[:, None].double()  # noqa: E731
    images[1] = 1.0
    assert infidelity(counts, images, maps, 0 * targets, patch=(4, 3)).isnan().all()  # each sample costs the same
    assert infidelity(counts, images, maps, 0 * targets, patch=(4, 3), normalise=False).isfinite().all()


@pytest.mark.parametrize("by_inputs", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
def test_infidelity_is_its_formula_over_whole_patches(by_inputs, normalise):
    images, maps, targets = batch()
    model = Curved()
    value = infidelity(
        model,
        images,
        maps,
        targets,
        patch=(4, 3),
        share=0.3,
        fill=0.25,
        samples=6,
        multiply_by_inputs=by_inputs,
        normalise=normalise,
    )
    seen = [image for call in model.seen for image in call if not any(torch.equal(image, each) for each in images)]
    sets = [changed_patches(images[0], each) for each in seen[:6]]
    assert len({tuple(each) for each in sets}) > 2
    assert {sum(each) for each in sets} == {2}  # 0.3 of 8 patches
    expected = infidelity_by_hand(Curved(), images, maps, targets, sets, by_inputs=by_inputs, normalise=normalise)
    exact(value, expected)


def test_infidelity_of_a_linear_model_is_zero_for_its_weights():
    images, _, _ = batch()
    weights = torch.randn(8, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    score = lambda images: (images * weights).sum((1, 2, 3))[:, None]  # noqa: E731
    maps = (3 * weights).expand(3, 8, 12)  # the attribution of a channel is a third of the map
    targets = torch.zeros(3, dtype=torch.long)
    zero = torch.zeros(3, dtype=torch.float64)
    exact(infidelity(score, images, maps, targets, patch=(4, 3), normalise=False), zero)
    exact(infidelity(score, images, 1e-6 * maps, targets, patch=(4, 3)), zero)
    assert (infidelity(score, images, -maps, targets, patch=(4, 3), normalise=False) > 1).all()


def test_normalised_infidelity_is_not_negative_in_float32():
    images, _, _ = batch(8)
    images = 10 + images.float()
    weights = torch.randn(8, 12, generator=torch.Generator().manual_seed(3))
    score = lambda images: (images * weights).sum((1, 2, 3))[:, None]  # noqa: E731
    values = infidelity(score, images, weights.expand(8, 8, 12), torch.zeros(8, dtype=torch.long), patch=(4, 3))
    assert values.dtype == torch.float32
    assert (values.abs() < 1e-6).all()


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 100])
def test_batch_size_bounds_the_batches_and_changes_nothing(batch_size):
    images, maps, targets = batch(5)
    model = Curved()
    options = {"patch": (4, 3), "samples": 7}
    exact(
        infidelity(model, images, maps, targets, batch_size=batch_size, **options),
        infidelity(Curved(), images, maps, targets, batch_size=1000, **options),
    )
    assert max(len(each) for each in model.seen) <= batch_size
    explain = Recorded(lambda images: images.pow(3).sum(1))
    exact(
        sensitivity_max(lambda images, _: explain(images), images, targets, batch_size=batch_size, samples=7),
        sensitivity_max(lambda images, _: images.pow(3).sum(1), images, targets, batch_size=1000, samples=7),
    )
    assert max(len(each) for each in explain.seen) <= batch_size


def test_every_image_and_every_map_meets_the_same_samples():
    images, maps, targets = batch(2)
    calls = []
    for batch_size, relevance in ((1, maps), (1, -maps), (14, maps)):
        model = Curved()
        infidelity(model, images, relevance, targets, patch=(4, 3), samples=7, batch_size=batch_size)
        seen = [image for call in model.seen for image in call if not any(torch.equal(image, each) for each in images)]
        calls.append([changed_patches(images[index // 7], each) for index, each in enumerate(seen)])
    assert calls[0] == calls[1] == calls[2]
    assert calls[0][:7] == calls[0][7:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_model_sees_images_of_their_own_dtype(dtype):
    images, maps, targets = batch()
    model = Curved()
    values = infidelity(model, images.to(dtype), maps, targets, patch=(4, 3), samples=3)
    assert {each.dtype for each in model.seen} == {dtype}
    assert values.isfinite().all()
    explain = Recorded(lambda images: images.sum(1))
    assert sensitivity_max(lambda images, _: explain(images), images.to(dtype), targets, samples=3).isfinite().all()
    assert {each.dtype for each in explain.seen} == {dtype}


def test_sensitivity_is_the_largest_relative_change():
    images, _, targets = batch()
    explain = Recorded(lambda images: images.pow(3).sum(1))
    values = sensitivity_max(lambda images, _: explain(images), images, targets, radius=0.3, samples=4, batch_size=3)
    clean, *noisy = explain.seen
    assert torch.equal(clean, images)
    noise = [each - images for each in noisy]
    assert len(noise) == 4
    assert all(torch.allclose(each[0], each[1]) for each in noise)  # every image meets the same noise
    assert all(0.29 < each.abs().max() <= 0.3 for each in noise)
    assert abs(float(torch.stack(noise).mean())) < 0.02
    expected = []
    for index, image in enumerate(images):
        before = image.pow(3).sum(0)
        changes = [((image + each[index]).pow(3).sum(0) - before).norm() / before.norm() for each in noise]
        expected.append(max(changes))
    exact(values, torch.stack(expected))


def test_noise_may_follow_the_patches():
    images, _, targets = batch()
    explain = Recorded(lambda images: images.sum(1))
    sensitivity_max(lambda images, _: explain(images), images, targets, patch=(4, 3), samples=1)
    noise = (explain.seen[1] - images).view(3, 3, 2, 4, 4, 3)
    torch.testing.assert_close(noise, noise[:, :, :, :1, :, :1].expand_as(noise), rtol=0, atol=1e-15)
    assert len({round(each, 12) for each in noise[0, :, :, 0, :, 0].flatten().tolist()}) == 24


def test_targets_go_with_their_images():
    images, _, _ = batch(3)
    targets = torch.tensor([4, 5, 6])

    def explain(images, targets):
        which = (images[:, None] - clean).abs().amax((2, 3, 4)).argmin(1)
        assert torch.equal(targets, which + 4)
        return images.sum(1)

    clean = images[None]
    for batch_size in (1, 2, 6, 100):
        sensitivity_max(explain, images, targets, samples=4, batch_size=batch_size)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_method_runs_with_the_callers_gradients(enabled):
    images, _, targets = batch()
    modes = []

    def explain(images, targets):
        modes.append(torch.is_grad_enabled())
        return images.sum(1)

    with torch.set_grad_enabled(enabled):
        sensitivity_max(explain, images, targets, samples=2)
    assert set(modes) == {enabled}


def test_maps_need_not_be_contiguous():
    images, maps, targets = batch()
    turned = lambda images, targets: images.sum(1).transpose(1, 2)  # noqa: E731
    exact(
        sensitivity_max(turned, images, targets),
        sensitivity_max(lambda images, targets: images.sum(1), images, targets),
    )
    strided = maps.transpose(1, 2).contiguous().transpose(1, 2)
    model = Curved()
    exact(
        infidelity(model, images, strided, targets, patch=(4, 3)),
        infidelity(model, images, maps, targets, patch=(4, 3)),
    )


def test_the_global_generator_is_left_alone():
    images, maps, targets = batch()
    state = torch.get_rng_state()
    infidelity(Curved(), images, maps, targets, patch=(4, 3))
    sensitivity_max(lambda images, targets: images.sum(1), images, targets)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_decides():
    images, maps, targets = batch()
    explain = lambda images, targets: images.pow(3).sum(1)  # noqa: E731
    for metric in (
        lambda seed: infidelity(Curved(), images, maps, targets, patch=(4, 3), seed=seed),
        lambda seed: sensitivity_max(explain, images, targets, seed=seed),
    ):
        assert torch.equal(metric(1), metric(1))
        assert (metric(1) != metric(2)).all()


def test_maps_that_say_nothing():
    images, maps, targets = batch(5)
    maps[0], maps[1], maps[2, 0, 0] = 0.0, 1.0, torch.nan
    assert infidelity(Curved(), images, maps, targets, patch=(4, 3)).isnan().tolist() == [True] * 3 + [False] * 2
    images[0], images[1] = 0.0, 1.0
    images[2, 0, 0, 0] = torch.nan
    values = sensitivity_max(lambda images, _: images.sum(1), images, targets)
    assert values.isnan().tolist() == [True] * 3 + [False] * 2


def test_a_method_that_breaks_down_under_noise_has_no_value():
    images, _, targets = batch(2)
    for value in (torch.nan, torch.inf):
        explain = lambda given, _: given.sum(1) * (1 if len(given) == 2 else value)  # noqa: B023, E731
        assert sensitivity_max(explain, images, targets, samples=3).isnan().all()


@pytest.mark.parametrize("sizes", [[7], [2, 1, 4]])
def test_streams(sizes):
    images, maps, targets = batch(7)
    maps[3] = 1
    score, explain = Curved(), lambda images, targets: images.pow(3).sum(1)
    options = {"patch": (4, 3), "share": 0.4, "fill": 0.5, "samples": 5, "multiply_by_inputs": True, "seed": 3}
    metric, other = Infidelity(score, **options), SensitivityMax(explain, radius=0.1, samples=3, seed=2)
    for some, their_maps, their_targets in zip(*(each.split(sizes) for each in (images, maps, targets)), strict=True):
        metric.update(some, their_maps, their_targets)
        other.update(some, their_targets)
    exact(metric.compute(), infidelity(score, images, maps, targets, **options).nanmean())
    exact(other.compute(), sensitivity_max(explain, images, targets, radius=0.1, samples=3, seed=2).mean())
    assert (metric.images.item(), metric.excluded.item()) == (6, 1)


def test_bad_input_is_refused():
    images, maps, targets = batch()
    explain = lambda images, targets: images.sum(1)  # noqa: E731
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"share must be in \(0, 1\], got {share}"):
            infidelity(Curved(), images, maps, targets, patch=(4, 3), share=share)
    for normalise, fewest in ((False, 1), (True, 2)):
        with pytest.raises(ValueError, match=f"samples must be at least {fewest}, got {fewest - 1}"):
            infidelity(Curved(), images, maps, targets, patch=(4, 3), samples=fewest - 1, normalise=normalise)
    for share in (1.0, 0.95):  # of 8 patches
        with pytest.raises(ValueError, match=f"share must leave at least one of 8 patches, or β fits .*, got {share}"):
            infidelity(Curved(), images, maps, targets, patch=(4, 3), share=share)
    for wrong in (-1, 2, 9):
        with pytest.raises(ValueError, match=rf"targets must be in \[0, 2\), the outputs of score, got {wrong}\."):
            infidelity(Curved(), images, maps, torch.tensor([0, wrong, 1]), patch=(4, 3))
    with pytest.raises(ValueError, match="patch must divide the image's 8×12 pixels, got 5×3"):
        infidelity(Curved(), images, maps, targets, patch=(5, 3))
    with pytest.raises(ValueError, match=r"\(3, 8, 12\), got \(3, 4, 4\)"):
        infidelity(Curved(), images, maps[:, :4, :4], targets, patch=(4, 3))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        infidelity(Curved(), images, maps, targets, patch=(4, 3), batch_size=0)
    with pytest.raises(ValueError, match=r"radius must be positive, got -0\.1"):
        sensitivity_max(explain, images, targets, radius=-0.1)
    with pytest.raises(ValueError, match="samples must be at least 1, got -2"):
        sensitivity_max(explain, images, targets, samples=-2)
    with pytest.raises(ValueError, match="patch must divide the image's 8×12 pixels, got 0×1"):
        sensitivity_max(explain, images, targets, patch=(0, 1))
    with pytest.raises(ValueError, match=r"targets must have shape \(3,\), one per image, got \(1,\)"):
        sensitivity_max(explain, images, FIRST)
    with pytest.raises(TypeError, match=r"targets must be integers, one per image, got torch\.float32"):
        sensitivity_max(explain, images, targets.float())
