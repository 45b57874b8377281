from __future__ import annotations

import pytest

from captum_vit.evaluation.specs import Spec, parse_spec, split_specs, unknown


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("legrad", "legrad", {}),
        (" legrad ( ) ", "legrad", {}),
        ("insertion(steps=28, patch='grid')", "insertion", {"steps": 28, "patch": "grid"}),
        ("captum:occlusion(strides=(3, 8, -8))", "captum:occlusion", {"strides": (3, 8, -8)}),
        ("captum:noise-tunnel(method='gmar(norm=1)')", "captum:noise-tunnel", {"method": "gmar(norm=1)"}),
    ],
)
def test_a_name_with_options(text, name, options):
    spec = parse_spec(text)
    assert spec == Spec(name, options)
    assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("insertion(28)", r"options must be named, such as steps=28 or method='legrad', got 'insertion\(28\)'"),
        ("insertion(**{})", r"options must be named"),
        ("insertion(steps=)", r"options must be Python literals, .*got 'insertion\(steps=\)'"),
        ("insertion(steps=open('x'))", r"options must be Python literals, .*got"),
        ("two words", r"must be a name, .*got 'two words'"),
        ("insertion(steps=2", r"must be a name, .*got 'insertion\(steps=2'"),
        ("", r"must be a name, .*got ''"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_spec(text)


def test_commas_inside_of_brackets_and_quotation_marks_do_not_split():
    text = "legrad, gmar(norm='l2', start_block=1),captum:occlusion(strides=(3, 8, 8)) , a(b='x),y'),"
    expected = ["legrad", "gmar(norm='l2', start_block=1)", "captum:occlusion(strides=(3, 8, 8))", "a(b='x),y')"]
    assert split_specs(text) == expected


@pytest.mark.parametrize("text", ["a(b=1", "a(b='x)", "a)b("])
def test_what_is_left_open_is_refused(text):
    with pytest.raises(ValueError, match=r"brackets and quotation marks must be closed, got"):
        split_specs(text)
    assert split_specs("") == []


def test_an_unknown_name_comes_with_the_nearest():
    error = unknown("method", "Le_Grad", ["gmar", "legrad", "raw-attention"])
    assert str(error) == "no method is called 'Le_Grad'. Did you mean legrad? Known: gmar, legrad, raw-attention."
    assert "Did you mean" not in str(unknown("method", "zzz", ["gmar"]))
