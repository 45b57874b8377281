from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hatchling.builders.wheel import WheelBuilder
from report_folders import METHODS, write_results

import captum_vit
from captum_vit.evaluation import NoResultsError, Store, stored, write_report
from captum_vit.evaluation.report.charts import Line, chart

VOID = {"meta", "input", "wbr"}
EVIL = '</script><script>alert(1)</script><b title="x\'">&amp;'


class Reader(HTMLParser):
    """What a page holds: elements with their attributes and texts, as a browser would take them apart."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.headings, self.rows = [], [], {}, [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append((tag, dict(attributes).get("id")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, name = self.open[-1] if self.open else ("", None)
        self.texts.setdefault(name or tag, []).append(data)
        if any(each in ("th", "td") for each, _ in self.open):
            self.rows[-1][-1] += data

    @property
    def data(self):
        return json.loads("".join(self.texts["data"]))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def read(folder):
    return Reader(write_report(folder).read_text("utf-8"))


@pytest.fixture
def results(tmp_path):
    return write_results(tmp_path / "results")


def test_the_table_has_the_numbers_of_the_result(results):
    page, table = read(results), stored(results).result.table().set_index(["method", "metric"])
    head, *rows = page.rows[:3]
    assert head[:3] == ["method", "insertion(steps=2) ↑more is better", "pointing-game ↑more is better"]
    assert head[3:] == [
        "deletion(steps=2) ↓less is better", "maps", "blank maps", "without a value", "ms per map", "peak MB"
    ]  # fmt: skip
    for method, row in zip(METHODS, rows, strict=True):
        value, low, high = table.loc[(method, "insertion(steps=2)"), ["value", "low", "high"]]
        assert row[:2] == [method, f"{value:.3f} {low:.3f} to {high:.3f}"]
    assert [row[4:] for row in rows] == [["4", "0", "0", "100.0", "–"], ["3", "1", "0", "100.0", "–"]]
    assert page.texts["strong"] == ["0.500", "0.500", "0.053"]  # the best of each column


def test_every_table_has_a_caption_and_headers_that_say_what_they_head(results):
    page = read(results)
    assert len(page.all("table")) == len(page.all("caption")) == 4
    assert {each["scope"] for each in page.all("th")} == {"col", "row"}
    assert all(each.get("aria-label") for each in page.all("svg") if each.get("role") == "img")


def test_every_control_has_a_label(results):
    text = write_report(results).read_text("utf-8")
    page = Reader(text)
    inside = "".join(re.findall(r"<label[^>]*>.*?</label>", text, re.DOTALL))
    for tag in ("input", "select"):
        assert len(page.all(tag)) == inside.count(f"<{tag}")


def test_the_curves_are_means_over_the_maps(results):
    curves = stored(results).result.curves().set_index(["metric", "method"])
    found = curves.loc[("insertion(steps=2)", "legrad")]
    assert found["fraction"].tolist() == [0, 0.5, 1]
    assert found["value"].tolist() == pytest.approx([0, 0.5, 1])  # 0.2 + 0.4 + 0.6 + 0.8, four maps
    other = curves.loc[("insertion(steps=2)", "captum:input-x-gradient"), "value"]
    assert other.tolist() == pytest.approx([0, 1.6 / 30, 3.2 / 30])  # without the blank one
    assert "pointing-game" not in curves.index.get_level_values(0)
    titles = [each["aria-label"] for each in read(results).all("svg") if each.get("role") == "img"]
    assert [each.split(":")[0] for each in titles] == ["insertion(steps=2)", "deletion(steps=2)"]


def test_the_data_of_the_gallery(results):
    data = read(results).data
    assert [each["name"] for each in data["methods"]] == list(METHODS)
    assert [each["signed"] for each in data["methods"]] == [False, True]
    assert [(each["name"], each["better"]) for each in data["scores"]] == [
        ("insertion(steps=2)", 1), ("pointing-game", 1), ("deletion(steps=2)", -1)
    ]  # fmt: skip
    assert data["classes"] == ["cat", "dog"]
    assert [each["id"] for each in data["samples"]] == [f"image-{k}" for k in range(4)]
    assert base64.b64decode(data["samples"][0]["image"]).startswith(b"\xff\xd8")
    first, second, *_ = data["cases"]
    assert (first["sample"], first["class"], first["asked"]) == (0, 0, None)
    assert sum(first["mask"]) == 30 * 40
    assert first["maps"][0]["scores"] == [0.2, 0.0, 0.2]
    assert first["maps"][1]["low"] == -2
    assert second["maps"][1] == {"scores": [None, None, None], "blank": "the map is zero everywhere"}
    assert {len(each) for each in data["colours"].values()} == {64 * 6}


def test_what_a_map_is_of_where_that_is_not_the_class(tmp_path):
    store = Store(write_results(tmp_path, samples=2, done=0))
    other = {"region": 0, "method": "legrad", "seconds": 1.0, "bytes": None, "blank": "zero"}
    store.append(0, 0, [{"sample": "a", "label": 1, "target": 0, **other}])
    store.append(0, 1, [{"sample": "b", "label": None, "target": 7, **other}])
    data = read(tmp_path).data
    named = [(data["classes"][each["class"]], each["asked"]) for each in data["cases"]]
    assert named == [("dog", "output 0"), ("output 7", None)]


def test_the_page_needs_nothing_and_runs_nothing_else(results):
    text = write_report(results).read_text("utf-8")
    page = Reader(text)
    assert not [each for _, each in page.tags if {"src", "srcset", "style", "onclick", "onload"} & set(each)]
    assert all(each["href"].startswith("#") for each in page.all("a"))
    assert page.all("link") == []
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    rules = dict(each.split(" ", 1) for each in policy.split("; "))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    assert (rules["base-uri"], rules["form-action"]) == ("'none'", "'none'")
    for name, element in (("style-src", "style"), ("script-src", "script")):
        inside = "".join(page.texts[element])
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
    assert "url(" not in text
    assert "innerHTML" not in text


def test_names_with_markup_are_text(tmp_path):
    write_results(tmp_path, names=EVIL + "{}", classes=(EVIL, "dog"), methods=(EVIL, "legrad"), model=EVIL, data=EVIL)
    store = Store(tmp_path)
    store.append(0, 4, [{"sample": EVIL, "skipped": EVIL}])
    configured = json.loads((tmp_path / "config.json").read_text("utf-8"))
    configured["about"]["unsupported"] = {EVIL: EVIL}
    (tmp_path / "config.json").write_text(json.dumps(configured), "utf-8")
    page = read(tmp_path)
    assert len(page.all("script")) == 2
    assert page.all("b") == []
    assert page.data["classes"][0] == page.data["methods"][0]["name"] == EVIL
    assert page.data["samples"][0]["id"] == f"{EVIL}0"
    assert page.texts["h1"] == [f"{EVIL} on {EVIL}"]
    assert page.texts["dt"] == page.texts["dd"] == [EVIL, EVIL]
    assert EVIL in [each[0] for each in page.rows]


def test_an_unfinished_run_says_so_at_the_top(tmp_path):
    page = read(write_results(tmp_path, done=3))
    assert page.texts["strong"][0] == "Unfinished."
    assert " Samples: 3 of 4, skipped among them: 0. All numbers are of these alone." in page.texts["p"][0]
    assert len(page.data["cases"]) == 3
    assert read(write_results(tmp_path)).texts["p"][0] == "Samples: 4 of 4, skipped among them: 0."


def test_without_maps_the_page_says_how_to_get_them(tmp_path):
    page = read(write_results(tmp_path, maps=False))
    assert page.texts["p"][1] == "Maps were kept for 0 of 4 samples. The same "
    assert page.texts["code"] == ["captum-vit evaluate", "--keep-maps"]
    assert "image" not in page.data["samples"][0]


def test_the_fingerprint_of_the_blocks(results):
    (results / "layers.csv").write_text(
        "class,block,value,low,high,maps\nall,0,0.1,0.05,0.2,4\nall,1,0.96,0.9,1.0,4\n<i>,0,,,,1\n<i>,1,1.0,,,1\n",
        "utf-8",
    )
    page = read(results)
    assert ["class", "block 0", "block 1", "maps"] in page.rows
    assert ["all", "0.10", "0.96", "4"] in page.rows
    assert ["<i>", "–", "1.00", "1"] in page.rows
    assert [each["class"] for each in page.all("td") if "class" in each] == ["heat h1", "heat h10", "heat h10"]
    (results / "layers.csv").write_text("a,b\n1,2\n", "utf-8")
    with pytest.raises(NoResultsError, match=r"layers\.csv does not hold what captum-vit evaluate --layers writes"):
        write_report(results)


def test_points_without_a_number_are_left_out_of_a_line():
    page = Reader(chart({"<a>": Line([0, 1, 2], [0.0, float("nan"), 1.0])}, title="t", x="x", y="y"))
    assert page.all("polyline")[0]["points"].split() == ["56.0,216.0", "468.0,12.0"]
    assert page.texts["li"] == ["<a>"]


@pytest.mark.parametrize("values", [[], [0.5], [3.0, 3.0], [-1e-9, 1e-9], [0.0, 12345.0]])
def test_a_chart_of_any_numbers_has_ticks_around_them(values):
    drawn = chart({"a": Line(list(range(len(values))), values)}, title="t", x="x", y="y")
    assert "nan" not in drawn
    assert Reader(drawn).all("figure")


def broken(folder, what):
    folder.mkdir()
    if what != "empty":
        write_results(folder, done=0 if what == "nothing done" else 2)
    if what == "foreign":
        (folder / "config.json").unlink()
    elif what == "other json":
        (folder / "config.json").write_text("[1]")
    elif what == "no json":
        (folder / "config.json").write_text("{")
    elif what == "other metric":
        text = (folder / "config.json").read_text().replace("pointing-game", "pointing-gun")
        (folder / "config.json").write_text(text)
    elif what == "other lines":
        (folder / "results-00000.jsonl").write_text("5\n")
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("empty", "is empty: captum-vit evaluate -o has not written there"),
        ("foreign", "holds no config.json: captum-vit evaluate -o has not written there"),
        ("no json", "that captum-vit evaluate wrote: JSONDecodeError: Expecting property name"),
        ("other json", "that captum-vit evaluate wrote: TypeError"),
        ("other metric", "no metric is called 'pointing-gun'. Did you mean pointing-game"),
        ("other lines", "results-00000.jsonl, line 1, must be a record of captum-vit evaluate"),
        ("nothing done", "holds no result yet: no unit of 1 samples is finished"),
    ],
)
def test_a_folder_without_results_says_what_is_missing(tmp_path, what, message):
    folder = broken(tmp_path / "results", what)
    with pytest.raises(NoResultsError, match=f"^{re.escape(str(folder))} .*{re.escape(message)}"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_place_that_is_no_folder_of_one_evaluation(tmp_path):
    with pytest.raises(NoResultsError, match=r"nowhere does not exist\."):
        write_report(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NoResultsError, match="file must be a folder that captum-vit evaluate wrote, got a file"):
        write_report(tmp_path / "file")
    for name in ("one", "two"):
        write_results(tmp_path / name)
    with pytest.raises(NoResultsError, match="holds 2 evaluations in folders of their own: one, two"):
        write_report(tmp_path)


def test_style_and_script_are_shipped():
    root = captum_vit.__path__[0]
    files = {each.distribution_path for each in WheelBuilder(f"{root}/..").recurse_included_files()}
    assert {f"captum_vit/evaluation/report/assets/report.{kind}" for kind in ("css", "js")} <= files


def test_a_folder_in_which_every_sample_was_skipped(tmp_path):
    write_results(tmp_path, samples=2, done=0)
    for number in range(2):
        Store(tmp_path).append(0, number, [{"sample": f"image-{number}", "skipped": "cut off"}])
    with pytest.raises(
        NoResultsError, match=r"holds no map: all 2 samples were skipped\. image-0: cut off; image-1: c"
    ):
        write_report(tmp_path)


def test_a_method_whose_maps_are_all_blank(tmp_path):
    store = Store(write_results(tmp_path, samples=1, done=0))
    record = {"sample": "a", "region": 0, "label": 0, "target": 0, "method": "legrad", "seconds": 1.0, "bytes": None}
    store.append(0, 0, [record | {"blank": "zero"}])
    page = read(tmp_path)
    assert page.rows[1] == ["legrad", "–", "–", "–", "0", "1", "0", "1000.0", "–"]
    assert page.data["cases"][0]["maps"][0]["blank"] == "zero"
    assert ["legrad", "–", "–", "–"] in page.rows  # the numbers of a curve


def test_a_map_that_was_kept_with_too_few_values_is_refused(tmp_path):
    write_results(tmp_path)
    path = tmp_path / "maps-00000.jsonl"
    path.write_text(path.read_text("utf-8").replace('"grid": [2, 3]', '"grid": [4, 3]', 1), "utf-8")
    with pytest.raises(NoResultsError, match="the map of legrad on image-0 that was kept must have 12 values, got 6"):
        write_report(tmp_path)
