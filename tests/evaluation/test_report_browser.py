"""The page of a report in a real browser."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from PIL import Image
from report_folders import METHODS, write_results
from torch.nn.functional import interpolate

from captum_vit.evaluation import write_report
from captum_vit.viz import colour

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, such as Debian's package chromium")

ENTERED = {"DisclosureTriangle", "checkbox", "combobox", "searchbox", "slider", "spinbutton"}
"""Chromium's roles of what is changed or opened."""

EVIL = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"


@pytest.fixture(scope="module")
def browser():
    with Browser() as started:
        yield started


@pytest.fixture
def page(browser, tmp_path):
    browser.open(write_report(write_results(tmp_path)))
    yield browser
    assert browser.complaints == []


def texts(page, selector):
    return page.run(f"[...document.querySelectorAll({selector!r})].map((each) => each.textContent)")


def choose(page, name, value):
    """What a user does to a control."""
    script = f"(() => {{ const it = document.getElementById({name!r}); it.value = {value!r};"
    page.run(script + "it.dispatchEvent(new Event('input', { bubbles: true })); })()")


def samples(page):
    return [each.split(",")[0] for each in texts(page, "#cards > li > p")]


def painted(page):
    """After what is near the window was drawn."""
    page.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")


def pixel(page, canvas, x, y):
    found = f"document.querySelectorAll('#cards canvas')[{canvas}].getContext('2d')"
    return page.run(f"[...{found}.getImageData({x}, {y}, 1, 1).data]")


def test_the_gallery_shows_every_case(page):
    assert samples(page) == [f"image-{k}" for k in range(4)]
    assert texts(page, "#count") == ["4 of 4 cases, page 1 of 1"]
    assert texts(page, "#cards h3") == ["cat", "dog", "cat", "dog"]
    captions = texts(page, "#cards li:nth-child(2) figcaption")
    assert captions == ["image", "legrad: 0.4", "captum:input-x-gradient: –"]
    assert texts(page, "#cards .stack p") == ["no map: the map is zero everywhere"]
    assert page.run("[...document.images].every((each) => each.complete && each.naturalWidth === 40)")


def test_maps_have_the_colours_of_their_kind(page):
    painted(page)
    lowest, highest = pixel(page, 0, 0, 0), pixel(page, 0, 39, 29)
    assert lowest[:3] == pytest.approx([0, 0, 4], abs=3)  # inferno's ends
    assert highest[:3] == pytest.approx([252, 255, 164], abs=3)
    against, favour = pixel(page, 1, 0, 0), pixel(page, 1, 39, 29)
    assert against[2] > against[0]  # purple
    assert favour[0] > favour[2]  # orange
    names = page.run("[...document.querySelectorAll('#cards canvas')].map((each) => each.ariaLabel)")
    assert names[0] == "Map of legrad for cat on image-0, highest at the bottom right"
    assert all(names)


def test_a_map_is_upsampled_as_the_methods_do_it(page):
    """Against a scale of the values themselves: six patches, 2×3, on 30×40 pixels."""
    painted(page)
    values = torch.tensor([[0, 60, 120], [180, 240, 255]]).double()[None, None] / 255
    full = interpolate(values, size=(30, 40), mode="bilinear", align_corners=False)[0, 0].numpy()
    data = "document.querySelectorAll('#cards canvas')[0].getContext('2d').getImageData(0, 0, 40, 30).data"
    drawn = np.array(page.run(f"[...{data}]")).reshape(30, 40, 4)[..., :3]
    ramp = (colour(np.linspace(0, 1, 64)[None])[0] * 255).round()
    assert np.abs(drawn - ramp[np.round(full * 63).astype(int)]).max() <= 6  # a half shade


def test_the_outline_goes_around_the_mask(page):
    path = page.run("document.querySelector('.mask .over').getAttribute('d')")
    assert path.count("h1") == 2 * 20  # top and bottom of 20 pixels
    assert path.count("v1") == 2 * 2
    assert path.startswith("M10 10h1")


def test_the_slider_changes_the_opacity(page):
    style = "getComputedStyle(document.querySelector('#cards canvas')).opacity"
    assert page.run(style) == "0.7"
    page.run("document.getElementById('opacity').focus()")
    page.key("ArrowRight", 39)
    assert page.run(style) == "0.71"
    assert texts(page, "#opacity-shown") == ["71 %"]
    page.key("Home", 36)
    assert page.run(style) == "0"


def test_filters_and_orders(page):
    choose(page, "class", "1")
    assert samples(page) == ["image-1", "image-3"]
    assert texts(page, "#count") == ["2 of 4 cases, page 1 of 1"]
    choose(page, "order", "-1")
    assert samples(page) == ["image-3", "image-1"]
    assert texts(page, "#order option")[1:] == ["worst first", "best first"]
    choose(page, "class", "")
    choose(page, "judge", "1")
    assert samples(page) == ["image-3", "image-2", "image-0", "image-1"]  # without a value: at the end
    choose(page, "score", "2")  # of deletion, less is better
    assert samples(page) == ["image-0", "image-2", "image-3", "image-1"]
    choose(page, "order", "1")
    assert samples(page) == ["image-3", "image-2", "image-0", "image-1"]
    choose(page, "from", "0.05")
    assert samples(page) == ["image-3", "image-2"]
    choose(page, "to", "0.06")
    assert samples(page) == ["image-2"]
    choose(page, "find", "nothing")
    assert texts(page, "#count") == ["0 of 4 cases, page 1 of 1"]


def test_methods_are_switched_off_by_the_keyboard(page):
    page.run("document.querySelector('[name=method]').focus()")
    page.key("Space", 32, " ")
    assert texts(page, "#cards li:first-child figcaption") == ["image", "captum:input-x-gradient: 0.02"]
    assert page.run("document.querySelectorAll('#cards canvas').length") == 3


def test_every_control_is_reached_with_the_tab_key_and_shows_it(page):
    reached = []
    for _ in range(40):
        page.key("Tab", 9)
        reached.append(page.run("document.activeElement.id || document.activeElement.name || ''"))
        if reached[-1] == "outline":
            break
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    controls = ["method", "method", "class", "find", "score", "judge", "from", "to", "order", "opacity", "outline"]
    assert [each for each in reached if each][-len(controls) :] == controls


def test_what_a_screen_reader_stops_at_has_a_name_and_a_role(page):
    painted(page)
    heard = page.accessible()
    named = {"button", "form", "heading", "image", "link", "navigation", "region", "table"} | ENTERED
    assert [role for role, name in heard if role in named and not name] == []
    controls = {each for each in heard if each[0] in ENTERED}
    assert controls == {
        ("DisclosureTriangle", "Numbers of insertion(steps=2)"),
        ("DisclosureTriangle", "Numbers of deletion(steps=2)"),
        ("checkbox", "legrad"),
        ("checkbox", "captum:input-x-gradient"),
        ("combobox", "Class"),
        ("searchbox", "Sample"),
        ("combobox", "Score"),
        ("combobox", "Score of"),
        ("spinbutton", "Score from"),
        ("spinbutton", "Score to"),
        ("combobox", "Order"),
        ("slider", "Opacity"),
        ("checkbox", "Outline of the mask"),
    }
    assert ("form", "What is shown") in heard
    assert "status" in {role for role, _ in heard}


def test_the_focus_stays_on_the_pages_buttons(browser, tmp_path):
    browser.open(write_report(write_results(tmp_path, samples=30)))
    browser.run("document.getElementById('next').focus()")
    browser.key("Enter", 13, "\r")
    assert texts(browser, "#page") == ["2 of 2"]
    assert browser.run("document.getElementById('next').disabled") is True
    assert browser.run("document.activeElement.id") == "previous"
    assert browser.complaints == []


def test_markup_in_names_does_nothing(browser, tmp_path):
    folder = write_results(tmp_path, names=EVIL + "{}", classes=(EVIL, "dog"), methods=(EVIL, "legrad"), model=EVIL)
    browser.open(write_report(folder))
    assert browser.run("document.title") == f"{EVIL} on Listed: captum_vit report"
    assert texts(browser, "#cards h3")[0] == EVIL
    assert texts(browser, "#cards > li > p")[0] == f"{EVIL}0"
    assert texts(browser, "#cards figcaption")[1] == f"{EVIL}: 0.2"
    assert browser.run("document.scripts.length") == 2
    assert browser.complaints == []


def test_a_script_that_is_not_the_pages_own_is_kept_from_running(browser, tmp_path):
    path = write_report(write_results(tmp_path))
    added = "<script>document.title = 'run'</script><img src='http://localhost:9/x.png'></body>"
    path.write_text(path.read_text("utf-8").replace("</body>", added), "utf-8")
    browser.open(path)
    assert browser.run("document.title") == "scenes:vit on Listed: captum_vit report"
    assert len([each for each in browser.complaints if "Content Security Policy" in each]) == 2
    browser.complaints.clear()


def test_without_maps_there_are_scores_alone(browser, tmp_path):
    browser.open(write_report(write_results(tmp_path, maps=False)))
    assert texts(browser, "#cards li:first-child figcaption") == ["legrad: 0.2", "captum:input-x-gradient: 0.02"]
    assert browser.run("document.querySelectorAll('#cards canvas, #cards img').length") == 0
    assert browser.run("document.getElementById('opacity').checkVisibility()") is False
    assert browser.complaints == []


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_a_narrow_window_and_text_stands_out(browser, tmp_path, dark):
    browser.open(write_report(write_results(tmp_path)), width=360, dark=dark)
    painted(browser)
    assert browser.run("document.documentElement.scrollWidth") == 360
    browser.screenshot(tmp_path / "page.png")
    ground, text = browser.run(
        "[...(({ backgroundColor, color }) => [backgroundColor, color])(getComputedStyle(document.body))]"
    )
    levels = [sum(map(int, each.strip("rgb()").split(","))) / 3 for each in (ground, text)]
    assert (levels[0] < 50 < 200 < levels[1]) if dark else (levels[1] < 50 < 200 < levels[0])
    corner = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))[0, 0].mean()
    assert corner == pytest.approx(levels[0], abs=1)


def test_two_thousand_images_stay_responsive(browser, tmp_path):
    path = write_report(write_results(tmp_path, samples=2000, unit=500, methods=[*METHODS, "random", "gem"]))
    began = time.perf_counter()
    browser.open(path)
    assert texts(browser, "#count") == ["2000 of 2000 cases, page 1 of 84"]
    assert time.perf_counter() - began < 10
    for control, value in (("class", "1"), ("order", "1"), ("find", "99")):
        browser.run("window.began = performance.now()")
        choose(browser, control, value)
        assert browser.run("document.body.offsetHeight && performance.now() - window.began") < 1000
    assert browser.run("document.querySelectorAll('#cards li').length") == 24
    browser.run("document.getElementById('next').click()")
    assert browser.run("document.getElementById('cards').start") == 25
    assert texts(browser, "#page")[0].startswith("2 of ")
    assert browser.complaints == []
