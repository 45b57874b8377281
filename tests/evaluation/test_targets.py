from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from timm.data import ImageNetInfo
from torch import nn

from captum_vit.data import CLASSES, Geometry, Region
from captum_vit.evaluation import subject_of
from captum_vit.evaluation.subject import Subject
from captum_vit.evaluation.targets import Targets, outputs_of_classes
from captum_vit.zoo import load_model


class Classifier(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, images):
        return torch.zeros(len(images), self.outputs)


def subject(outputs, names=None):
    model, colours = Classifier(outputs), (0.5, 0.5, 0.5)
    return Subject("it", model, Geometry((8, 8)), colours, colours, "softmax", torch.device("cpu"), names)


def dataset(*classes, **more):
    return SimpleNamespace(classes=classes, **more)


def test_classes_are_found_by_their_names():
    model = subject(4, ("cat", "dog", "bird", "boat"))
    assert list(outputs_of_classes(model, dataset("boat", "cat"))) == [3, 0]
    targets = Targets(model, dataset("boat", "cat"), "label")
    assert [targets.known(Region(label)) for label in (0, 1, None)] == [3, 0, None]


def test_classes_of_imagenet_are_found_by_their_wordnet_ids():
    wnids = ("n02124075", "n01440764")  # Egyptian cat, tench
    found = outputs_of_classes(subject(1000), dataset("Egyptian cat", "tench", wnids=wnids))
    order = ImageNetInfo().label_names()
    assert [order[k] for k in found] == list(wnids)
    assert list(found) == [285, 0]


def test_classes_outside_of_the_thousand_have_no_output():
    wnids = ("n00007846", "n01440764")  # person, tench
    data = dataset("person", "tench", wnids=wnids)
    assert list(outputs_of_classes(subject(1000), data)) == [None, 0]
    targets = Targets(subject(1000), data, "label")
    assert [targets.known(Region(label)) for label in (0, 1)] == [None, 0]
    assert list(outputs_of_classes(subject(2), data)) == [0, 1]  # trained on these two
    with pytest.raises(ValueError, match="its 1000 outputs have no such names"):
        outputs_of_classes(subject(1000), dataset("person", wnids=wnids[:1]))


def test_a_model_fine_tuned_on_the_dataset_has_its_order():
    wnids = ("n02124075", "n01440764")
    assert list(outputs_of_classes(subject(2), dataset("Egyptian cat", "tench", wnids=wnids))) == [0, 1]


def test_a_dataset_without_classes_has_the_labels_of_the_model():
    assert outputs_of_classes(subject(5), dataset()) is None
    targets = Targets(subject(5), dataset(), "label")
    assert targets.known(Region(4)) == 4
    with pytest.raises(ValueError, match=r"label must be one of the model's 5 outputs, got 5: .* those of it\."):
        targets.known(Region(5))


def test_the_predicted_class_is_asked_for_whatever_the_classes():
    targets = Targets(subject(1000), dataset("boat", "car"), "predicted")
    assert targets.known(Region(1)) is None


@pytest.mark.parametrize(
    ("model", "classes", "message"),
    [
        (subject(1000), ("boat", "car"), r"the 2 classes of .* those of it: its 1000 outputs have no such names\."),
        (subject(3, ("cat", "boat", "dog")), ("boat", "car"), r"the 2 classes .*: it has no 'car'\. Choose target="),
    ],
)
def test_classes_that_the_model_does_not_have_are_refused(model, classes, message):
    with pytest.raises(ValueError, match=message):
        Targets(model, dataset(*classes), "label")
    with pytest.raises(ValueError, match="target must be 'label' or 'predicted', got 'best'"):
        Targets(model, dataset(*classes), "best")


def test_prompts_are_the_classes_in_their_order_or_are_found_by_their_text():
    model = subject_of(load_model("scenes:clip"), prompts=("a red star", "a blue cross"))
    targets = Targets(model, dataset("any", "names"), "label")
    assert [targets.known(Region(label)) for label in (0, 1)] == [0, 1]
    assert targets.known(Region(None, "a blue cross")) == 1
    assert targets.known(Region(None, "a dog")) is None
    with pytest.raises(ValueError, match=r"the 3 classes .* among those of scenes:clip: its 2 outputs"):
        Targets(model, dataset("as", "many", "more"), "label").known(Region(0))


def test_classes_of_one_name_are_two_prompts():
    model = subject_of(load_model("scenes:clip"), prompts=("a red star", "a blue cross", "a red star"))
    assert model.model.prompts == ("a red star (0)", "a blue cross", "a red star (2)")
    torch.testing.assert_close(model.model.embeddings[0], model.model.embeddings[2], rtol=0, atol=0)
    alone = subject_of(load_model("scenes:clip"), prompts=("a red star", "a blue cross"))
    torch.testing.assert_close(model.model.embeddings[:2], alone.model.embeddings)
    targets = Targets(model, dataset("star", "cross", "star"), "label")
    assert [targets.known(Region(label)) for label in range(3)] == [0, 1, 2]


def test_the_right_output_is_known_also_where_the_predicted_class_is_asked_for():
    targets = Targets(subject(4, ("cat", "dog", "bird", "boat")), dataset("boat", "cat"), "predicted")
    assert [targets.right(Region(label)) for label in (0, 1, None)] == [3, 0, None]
    with pytest.raises(ValueError, match="it has no 'car'"):
        Targets(subject(3, ("cat", "boat", "dog")), dataset("boat", "car"), "predicted").right(Region(0))


def test_the_shipped_classifier_has_the_classes_of_the_scenes():
    model = subject_of(load_model("scenes:vit"))
    assert list(outputs_of_classes(model, dataset(*CLASSES[::-1]))) == list(range(63, -1, -1))
