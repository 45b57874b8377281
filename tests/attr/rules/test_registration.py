"""What can have a rule and what is one, in both places where rules are registered."""

import pytest
import torch
import torch.nn.functional as F
from hidden_calls import Hidden, HiddenGELU, scripted, scripted_module
from torch import nn

from captum_vit.attr import relevance, rules
from captum_vit.attr.relevance import rules as relevance_rules
from captum_vit.attr.rules import mode
from captum_vit.attr.rules.registration import shown

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")  # it says that it is old

GOOD = {rules.register_rule: rules.plain, relevance.register_rule: relevance.passes}


@pytest.fixture(autouse=True)
def own_rules(monkeypatch):
    monkeypatch.setattr(mode, "_registered", {})
    monkeypatch.setattr(relevance_rules, "_RULES", dict(relevance_rules._RULES))


@pytest.fixture(params=GOOD, ids=["gradient rules", "relevance rules"])
def register(request):
    return request.param


SUBJECTS = {
    "an autograd.Function": (
        lambda: Hidden,
        r"no call of an autograd\.Function, got Hidden\. Give the rule to the class",
    ),
    "its apply": (lambda: Hidden.apply, r"no call of an autograd\.Function, got Hidden"),
    "a scripted function": (scripted, "no call of a scripted function, got 'gelu'"),
    "a scripted module": (
        scripted_module,
        "a rule is for a class of modules, got a module: write RecursiveScriptModule",
    ),
    "the class of scripted modules": (lambda: type(scripted_module()), "all scripted modules are of one class"),
    "a module": (lambda: nn.GELU(), "a rule is for a class of modules, got a module: write GELU"),
    "another class": (lambda: dict, "a function or for a class of nn.Module, got the class dict"),
    "a name": (lambda: "gelu", "a function or for a class of nn.Module, got 'gelu'"),
    "nothing": (lambda: None, "a function or for a class of nn.Module, got None"),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_what_can_have_no_rule_is_refused(register, name):
    subject, message = SUBJECTS[name]
    with pytest.raises(TypeError, match=message):
        register(subject(), GOOD[register])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("passes", r"a rule must be a function rule\(function, \*args, \*\*kwargs\), got 'passes'"),
        (relevance.passes, r"got passes, which takes other arguments\. .*can't stand for each other"),
        (lambda function: function, r"got .*<lambda>, which takes other arguments"),
        (torch.relu, "which takes other arguments"),
    ],
)
def test_what_is_no_gradient_rule_is_refused(rule, message):
    with pytest.raises(TypeError, match=message):
        rules.register_rule(torch.erf, rule)
    assert not mode._registered


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("passes", r"a rule must be a function rule\(call\), got 'passes'"),
        (rules.plain, "got plain, which takes other arguments"),
        (rules.gated(slope=1.0), r"got gated\.<locals>\.rule, which takes other arguments"),
        (lambda: None, r"got .*<lambda>, which takes other arguments"),
    ],
)
def test_what_is_no_relevance_rule_is_refused(rule, message):
    with pytest.raises(TypeError, match=message):
        relevance.register_rule(torch.erf, rule)
    assert torch.erf not in relevance_rules._RULES


def test_a_second_rule_must_be_meant(register):
    register(torch.erf, GOOD[register])
    register(HiddenGELU, GOOD[register])
    for subject, name in ((torch.erf, r"torch\.erf"), (HiddenGELU, r"hidden_calls\.HiddenGELU"), (F.gelu, "gelu")):
        with pytest.raises(ValueError, match=rf"{name} has a rule already; to exchange it, say replace=True"):
            register(subject, GOOD[register])
        register(subject, GOOD[register], replace=True)


def test_all_or_none_of_several_are_registered():
    with pytest.raises(ValueError, match="gelu has a rule already"):
        relevance.register_rule([torch.erf, F.gelu], relevance.passes)
    assert torch.erf not in relevance_rules._RULES
    relevance.register_rule([torch.erf, torch.Tensor.erf], relevance.passes)
    assert relevance_rules.rule_of(torch.Tensor.erf) is relevance.passes


def test_a_subclass_has_no_rule_of_its_class():
    class Other(HiddenGELU):
        pass

    rules.register_rule(HiddenGELU, rules.plain)
    relevance.register_rule(HiddenGELU, relevance.passes)
    with rules.BackwardRules("a test", rules.LIBRA), pytest.raises(RuntimeError, match=r"register_rule\(Other, rule\)"):
        Other()(torch.ones(2, requires_grad=True))
    assert relevance_rules.rule_of(Other) is None


def test_operators_are_named_as_code_would():
    assert shown(torch.ops.aten.sin) == "torch.ops.aten.sin"
    assert shown(torch.ops.aten.sin.default) == "torch.ops.aten.sin.default"
    assert shown(torch.sin) == "torch.sin"
