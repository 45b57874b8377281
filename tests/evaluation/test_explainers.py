from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import Attribution, IntegratedGradients, LayerGradCam, Saliency

from captum_vit import GMAR, CheferCAM, LeGrad, LibraGrad, MaskedSinks, RawAttention, TestTimeRegisters
from captum_vit.attr import upsample
from captum_vit.data import Geometry
from captum_vit.evaluation import Subject, UnsupportedMethodError, explainer_of
from captum_vit.evaluation.explainers import tried


class Brightness(Attribution):
    """A method of somebody's own."""

    def attribute(self, inputs, target=None, factor=1.0):
        return factor * inputs


class NoMethod:
    pass


@pytest.fixture(scope="module")
def batch(vit, scenes):
    samples = [vit.geometry(scenes[k]) for k in (0, 1)]
    return torch.stack([vit.pixels(each) for each in samples]), torch.tensor([3, 40])


@pytest.fixture(scope="module")
def convolutional():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(4, 5))
    return Subject("small", model.eval(), Geometry((20, 30)), (0.5,) * 3, (0.5,) * 3, "softmax", torch.device("cpu"))


def test_a_method_of_this_package_takes_the_options_of_its_class(vit, batch):
    images, targets = batch
    expected = CheferCAM(vit.model, start_block=-1).attribute(images, target=targets).sum(1)
    torch.testing.assert_close(explainer_of("chefer-cam(start_block=-1)", vit)(images, targets), expected)
    assert not torch.allclose(explainer_of("chefer-cam", vit)(images, targets), expected)


def test_methods_of_captum_are_captums(vit, batch):
    targets, images = batch[1], batch[0].clone().requires_grad_()
    expected = IntegratedGradients(vit.model).attribute(images, target=targets, n_steps=5).sum(1).detach()
    found = explainer_of("captum:integrated-gradients(n_steps=5)", vit)(*batch)
    torch.testing.assert_close(found, expected, check_dtype=False, atol=1e-5, rtol=1e-4)
    expected = Saliency(vit.model).attribute(images, target=targets, abs=False).sum(1).detach()
    torch.testing.assert_close(explainer_of("captum:saliency(abs=False)", vit)(*batch), expected)


def test_a_layers_maps_come_to_the_size_of_the_image(convolutional):
    images, targets = torch.rand(2, 3, 20, 30), torch.tensor([1, 4])
    expected = LayerGradCam(convolutional.model, convolutional.model[0]).attribute(images, target=targets)
    found = explainer_of("captum:layer-grad-cam(layer='0')", convolutional)(images, targets)
    torch.testing.assert_close(found, upsample(expected.detach(), (20, 30))[:, 0])
    with pytest.raises(
        UnsupportedMethodError, match=r"must give maps \(B, C, h, w\), got \(2, 4\): choose another layer"
    ):
        explainer_of("captum:layer-activation(layer='3')", convolutional)(images, targets)


def test_a_class_by_its_import_path(vit, batch):
    found = explainer_of(f"{__name__}:Brightness(factor=2.0)", vit)(*batch)
    torch.testing.assert_close(found, 2 * batch[0].sum(1))


def test_what_is_random_follows_from_seed_and_key(vit, batch):
    for spec in ("random", "captum:noise-tunnel(nt_samples=2)"):
        explainer = explainer_of(spec, vit, seed=5)
        assert explainer.alone
        one = explainer(batch[0][:1], batch[1][:1], key=7)
        state = torch.get_rng_state()
        assert torch.equal(explainer(batch[0][:1], batch[1][:1], key=7), one)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(explainer(batch[0][:1], batch[1][:1], key=8), one)
        assert not torch.equal(explainer_of(spec, vit, seed=6)(batch[0][:1], batch[1][:1], key=7), one)


def test_noise_goes_around_any_method(vit, batch):
    images, targets = batch[0][:1], batch[1][:1]
    still = explainer_of("captum:noise-tunnel(method='chefer-cam', nt_samples=2, stdevs=0.0)", vit)(images, targets)
    torch.testing.assert_close(still, explainer_of("chefer-cam", vit)(images, targets))


WRAPPED = {
    "libragrad(method='chefer-cam(start_block=1)')": lambda model: LibraGrad(CheferCAM(model, start_block=1)),
    "libragrad": lambda model: LibraGrad(LeGrad(model)),
    "masked-sinks(method='raw-attention', factor=1.1, block=2)": lambda model: MaskedSinks(
        RawAttention(model), factor=1.1, block=2
    ),
    "masked-sinks(method=\"libragrad(method='gmar')\", factor=1.1, replacement='mean')": lambda model: MaskedSinks(
        LibraGrad(GMAR(model)), factor=1.1, replacement="mean"
    ),
    "test-time-registers(method='raw-attention', neurons=[(1, 7), (2, 30)], registers=2)": lambda model: (
        TestTimeRegisters(RawAttention(model), [(1, 7), (2, 30)], registers=2)
    ),
}


@pytest.mark.parametrize("spec", WRAPPED)
def test_what_goes_around_a_method_has_a_name(spec, vit, batch):
    images, targets = batch
    method, explainer = WRAPPED[spec](vit.model), explainer_of(spec, vit)
    expected = method.attribute(images, target=targets).sum(1)
    torch.testing.assert_close(explainer(images, targets), expected)
    assert explainer.gradients == method.class_specific
    plain = method
    while not isinstance(plain, (LeGrad, CheferCAM, RawAttention, GMAR)):
        plain = plain.method
    assert not torch.allclose(expected, plain.attribute(images, target=targets).sum(1))


def test_methods_for_transformers_leave_others_with_a_reason(convolutional):
    with pytest.raises(UnsupportedMethodError, match="Sequential"):
        explainer_of("legrad", convolutional)
    unable = explainer_of("captum:layer-grad-cam(layer='3')", convolutional)
    with pytest.raises(UnsupportedMethodError):
        tried(unable, convolutional)
    working = explainer_of("captum:saliency", convolutional)
    tried(working, convolutional)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("le-grad", r"no method is called 'le-grad'\. Did you mean legrad"),
        ("captum:salience", r"no method of Captum is called 'salience'\. Did you mean saliency"),
        ("captum:saliency(steps=3)", r"options of captum:saliency must be among abs, got 'steps'"),
        ("attnlrp(gamma='auto')", "gamma must be a number, got 'auto'"),
        ("masked-sinks(block=1.0)", r"block must be an integer, got 1\.0"),
        ("legrad(layers=3)", r"options of legrad must be among blocks, .*got 'layers'"),
        ("captum:layer-grad-cam(layer='layer9')", r"layer must be the name of a module of scenes:vit, got 'layer9'"),
        ("nowhere.module:Method", r"method must be importable as module:Class, got 'nowhere\.module:Method'"),
        ("libragrad(method='gem')", r"method must take gradients for LibraGrad to change it, got GEM"),
        ("libragrad(method='random')", r"method inside another one must be an attribution method, got 'random'"),
        ("masked-sinks(method='le-grad')", r"no method is called 'le-grad'\. Did you mean legrad"),
        ("masked-sinks(factors=2)", r"options of masked-sinks must be among .*factor, .*got 'factors'"),
        ("test-time-registers", r"neurons must be given, as in test-time-registers\(neurons=\[\(block, neuron\)\]\)"),
        ("test-time-registers(neurons=[(9, 0)])", r"neurons must be of blocks in \[0, 5\], got \(9, 0\)"),
        ("libragad(method='gmar')", r"no method is called 'libragad'\. Did you mean libragrad"),
        (f"{__name__}:NoMethod", r"method must be a captum\.attr\.Attribution, got '.*NoMethod'"),
    ],
)
def test_what_does_not_exist_is_refused(spec, message, vit):
    with pytest.raises(ValueError, match=message) as caught:
        explainer_of(spec, vit)
    assert not isinstance(caught.value, UnsupportedMethodError)  # a mistake, and nothing that the model lacks


def test_what_captum_draws_from_numpy_follows_from_the_seed(vit, batch):
    images, targets = batch
    explainer = explainer_of("captum:gradient-shap(n_samples=2)", vit, seed=3)
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = explainer(images[:1], targets[:1], key=7)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(6)  # noqa: NPY002
    torch.testing.assert_close(explainer(images[:1], targets[:1], key=7), first, rtol=0, atol=0)
    assert not torch.equal(explainer(images[:1], targets[:1], key=8), first)


def test_only_methods_of_this_package_go_inside(vit):
    with pytest.raises(UnsupportedMethodError, match="method must be a ViTAttribution of captum_vit, got Saliency"):
        explainer_of("masked-sinks(method='captum:saliency')", vit)


def test_a_layer_must_be_named(vit):
    with pytest.raises(ValueError, match=r"layer must be given, as in captum:layer-grad-cam\(layer='name"):
        explainer_of("captum:layer-grad-cam", vit)
