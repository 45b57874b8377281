"""Writes the generated parts of README.md and docs/: run ``python docs/generate.py``.

A generated part stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``. Its text comes from the code (class
attributes, signatures, docstrings, pyproject.toml) or from what ``make demo`` measured, so that no fact is written
twice; tests/test_docs.py fails where a page is out of date.
"""

from __future__ import annotations

import csv
import inspect
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from math import isinf
from pathlib import Path

from costs import cost_rows, memory, models
from papers import named, named_on, papers
from torchmetrics import Metric
from wrapper_tables import wrapped_calls, wrapped_methods

from captum_vit import METHODS, ViTAttribution, metrics
from captum_vit.attr import WRAPPERS
from captum_vit.cli.demonstration.scores import averaged
from captum_vit.cli.demonstration.tables import counted, markdown_table, read_csv
from captum_vit.evaluation.protocols import KINDS, PROTOCOLS
from captum_vit.zoo.scene_models import SCENE_MODELS, weight_file

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

TESTED = {
    "torch": "2.15",
    "torchvision": "0.29",
    "captum": "0.9",
    "timm": "1.0.31",
    "transformers": "5.23",
    "open_clip_torch": "3.3",
    "numpy": "2.4",
}
"""Versions that this release was tested with."""

_PART = re.compile(r"(<!-- ([\w:-]+):begin -->\n).*?(<!-- \2:end -->)", re.DOTALL)
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5})")
_DOI = re.compile(r"doi:([\w./]+\w)")
_OPEN_REVIEW = re.compile(r"openreview:([\w-]+)")


def method_table(page: Path) -> str:
    """Every method and wrapper with its facts, linked from ``page`` to its own page."""
    rows = []
    for name, method in {**METHODS, **WRAPPERS}.items():
        link = os.path.relpath(ROOT / "docs" / "methods" / f"{name}.md", page.parent).replace(os.sep, "/")
        rows.append(
            [
                f"[`{method.__name__}`]({link})",
                _first_line(method),
                _yes(getattr(method, "class_specific", None)),
                _yes(getattr(method, "signed", None)),
                method.passes,
                _linked(method.reference),
            ]
        )
    return _table(["method", "what its map shows", "per target", "signed", "cost of a map", "formula from"], rows)


def facts(name: str, method: type[ViTAttribution]) -> str:
    """The class attributes of one method, its options with their defaults, and its picture."""
    facts_rows = [
        ["class", f"`captum_vit.{method.__name__}`"],
        ["name", method.get_name()],
        ["depends on the target", _yes(getattr(method, "class_specific", None))],
        ["can be negative", _yes(getattr(method, "signed", None))],
        ["cost of a map", method.passes],
        ["memory", memory(method)],
        ["supported models", models(method)],
        ["formula from", _linked(method.reference)],
    ]
    table = _table(["fact", "value"], [*facts_rows, ["options", _options(method) or "none"]])
    return "\n\n".join([table, *_picture(name, method), f"<!-- api: {method.__module__} -->"])


def metric_classes() -> dict[str, list[type[Metric]]]:
    """Every public metric class, by the name of its page."""
    classes = [getattr(metrics, name) for name in metrics.__all__]
    pages: dict[str, list[type[Metric]]] = {}
    for each in classes:
        if inspect.isclass(each) and issubclass(each, Metric):
            pages.setdefault(each.__module__.rpartition(".")[2].replace("_", "-"), []).append(each)
    return dict(sorted(pages.items()))


def metric_table() -> str:
    """Every metric with its facts, linked to its page; for docs/metrics/index.md, beside these pages."""
    rows = []
    for page, classes in metric_classes().items():
        for each in classes:
            rows.append([f"[`{each.__name__}`]({page}.md)", _first_line(each), *_metric_facts(each)])
    return _table(["metric", "what it measures", "better", "range", "needs beside maps"], rows)


def metric_options(classes: Sequence[type[Metric]]) -> str:
    """The classes of one page with their facts and their options with defaults."""
    rows = [[f"`{each.__name__}`", *_metric_facts(each), _options(each) or "none"] for each in classes]
    return _table(["class", "better", "range", "needs beside maps", "options"], rows)


def protocol_table() -> str:
    """Every protocol: what it compares, on which data, and where it is printed."""
    rows = []
    for name, protocol in PROTOCOLS.items():
        kinds = dict.fromkeys(" or ".join(run.kinds) for run in protocol.runs)
        rows.append([f"`{name}`", protocol.title, ", ".join(kinds), _linked(protocol.reference)])
    return _table(["protocol", "what it compares", "datasets", "printed in"], rows)


def dataset_kinds() -> str:
    """What stands for each kind of dataset in a protocol."""
    return _table(["kind", "dataset"], [[f"`{kind}`", how] for kind, how in KINDS.items()])


def bibliography(pages: Mapping[str, type[ViTAttribution]]) -> str:
    """Every paper: the methods that are made from it first, then those that only pages name."""
    methods: dict[str, list[str]] = {}
    for name, method in pages.items():
        for paper in sorted(named(method.reference)):
            methods.setdefault(paper, []).append(f"[{method.get_name()}](methods/{name}.md)")
    mentions: dict[str, list[str]] = {}
    for page in sorted((ROOT / "docs").rglob("*.md")):
        if page.parent.name != "methods" and page.name != "bibliography.md":
            title = page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            link = f"[{title}]({page.relative_to(ROOT / 'docs').as_posix()})"
            for paper in named_on(page):
                mentions.setdefault(paper, []).append(link)
    known = sorted(papers().values(), key=lambda each: (each.fields["author"].split(" and ")[0].split()[-1], each.key))
    first = [f"- {each.citation} *{', '.join(methods[each.id])}*" for each in known if each.id in methods]
    others = [
        " ".join([f"- {each.citation}", *([f"*{', '.join(mentions[each.id])}*"] if each.id in mentions else [])])
        for each in known
        if each.id not in methods
    ]
    return "\n".join(["## Methods", "", *first, "", "## Metrics, data and background", "", *others])


def requirements() -> str:
    """The libraries that matter for results: oldest version taken, and version tested."""
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    rows = []
    for library, tested in TESTED.items():
        found = re.search(rf'"{library}>=([\d.]+)"', metadata)
        if found is None:
            raise ValueError(f"pyproject.toml must give a lower bound for {library}, got none.")
        rows.append([library, found[1], tested])
    return _table(["library", "at least", "tested with"], rows)


def demo_table() -> str:
    """The numbers that ``captum-vit demo`` wrote, as the mean over its models."""
    rows = read_csv(ROOT / "docs" / "images" / "demo.csv")
    return f"{markdown_table(averaged(rows))}\n\nMean over the three models: {counted(rows)}."


def every_metric() -> str:
    """What ``benchmarks/every_metric.py`` measured: a line per metric, a column per method."""
    path = ROOT / "benchmarks" / "results" / "every_metric.csv"
    cells: dict[str, dict[str, str]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            cell = f"{float(line['value']):.3f}"
            if float(line["error"]):
                cell += f" ± {float(line['error']):.3f}"
            if int(line["excluded"]) and cell != "nan":
                cell += f" ({line['excluded']} left out)"
            cells.setdefault(line["metric"], {})[line["map"]] = cell
    measured = {each for row in cells.values() for each in row}
    maps = [each for each in [*METHODS, "random", "theory", "constant", "perfect"] if each in measured]
    return _table(["metric", *maps], [[name, *(row.get(each, "") for each in maps)] for name, row in cells.items()])


def peer_maps(package: str) -> str:
    """What ``benchmarks/peer_maps.py`` measured of one package."""
    with (ROOT / "benchmarks" / "results" / "peer_maps.csv").open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["package"] == package]
    calls: dict[tuple[str, str], dict[str, str]] = {}
    for line in lines:
        calls.setdefault((f"`{line['theirs']}`", f"`{line['ours']}`"), {})[line["version"]] = line["difference"]
    repairs = list(dict.fromkeys(line["version"] for line in lines if line["version"] != "as it is"))
    versions = ["as it is", *repairs]
    rows = [[*call, *(found.get(version, "") for version in versions)] for call, found in calls.items()]
    return _table([package, "here", "difference", *(f"{each} there" for each in repairs)], rows)


def speed() -> str:
    """The latest run of ``benchmarks/speed.py`` on a CPU: each package's time and memory beside the forward pass."""
    run = _latest_run("speed.csv", "cpu")
    cases: dict[str, dict[str, dict[str, str]]] = {}
    for line in run:
        if line["kind"] == "speed" and line["median_s"]:
            images = "1 image" if line["batch"] == "1" else f"{line['batch']} images"
            prompts = "1 prompt" if line["prompts"] == "1" else f"{line['prompts']} prompts"
            case = f"{images} of {line['image_size']} pixels, {prompts}"
            cases.setdefault(case, {})[line["subject"]] = line
    peer = next(line["legrad_torch"] for line in run if line["legrad_torch"])
    rows = [
        [
            case,
            f"{float(found['forward']['median_s']):.2f} s",
            *(
                f"{float(found[name]['median_s']):.2f} s, {float(found[name]['peak_mb']):,.0f} MB"
                if name in found
                else "one image at a time"
                for name in ("captum_vit", "legrad_torch")
            ),
        ]
        for case, found in cases.items()
    ]
    table = _table([f"LeGrad, {run[0]['model']}", "forward pass", "captum_vit", f"legrad_torch {peer}"], rows)
    where = f"{run[0]['machine']}, {run[0]['threads']} threads, torch {run[0]['torch']}, {run[0]['dtype']}"
    return f"{table}\n\nMedian time, and peak memory over the loaded model; {where}. From `make bench`."


def _latest_run(name: str, device: str) -> list[dict[str, str]]:
    with (ROOT / "benchmarks" / "results" / name).open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["device"] == device]
    return [line for line in lines if line["date"] == lines[-1]["date"]]


SCENES_TABLE = ROOT / "benchmarks" / "results" / "scenes_table.csv"
SCENES_METRICS = {
    "pointing game": "↑",
    "foreground IoU": "↑",
    "energy inside": "↑",
    "insertion": "↑",
    "deletion": "↓",
}


@cache
def scenes_numbers() -> dict[tuple[str, str, str], dict[str, str]]:
    """What ``benchmarks/scenes_table.py`` wrote, by model, method and metric."""
    with SCENES_TABLE.open(newline="", encoding="utf-8") as file:
        return {(line["model"], line["method"], line["metric"]): line for line in csv.DictReader(file)}


def beats_random(model: str, method: str, metric: str) -> bool:
    """Whether a method's interval lies wholly on the better side of that of random maps."""
    numbers = scenes_numbers()
    own, noise = numbers[model, method, metric], numbers[model, "random", metric]
    if SCENES_METRICS[metric] == "↓":
        own, noise = noise, own
    return float(own["low"]) > float(noise["high"])


def scenes_table(model: str) -> str:
    """Every method on one of the shipped models, with confidence intervals."""
    numbers = scenes_numbers()
    rows = []
    for method in dict.fromkeys(method for of, method, _ in numbers if of == model):
        lines = [numbers[model, method, metric] for metric in SCENES_METRICS]
        sizes = ["/".join(dict.fromkeys(line[each] for line in lines)) for each in ("scenes", "objects")]
        cells = [_scenes_cell(model, method, metric) for metric in SCENES_METRICS]
        rows.append([f"`{method}`", *cells, *sizes, lines[0]["seconds_per_map"]])
    head = [f"{metric} {better}" for metric, better in SCENES_METRICS.items()]
    return _table(["method", *head, "scenes", "objects", "s per map"], rows)


def scenes_of(method: str) -> str:
    """One method beside random maps on the shipped models."""
    compared = ["pointing game", "deletion"]
    rows = [
        [f"`{model}`", *(_scenes_cell(model, each, metric) for metric in compared for each in (method, "random"))]
        for model in (f"scenes:{name}" for name in SCENE_MODELS)
    ]
    head = [each for metric in compared for each in (f"{metric} {SCENES_METRICS[metric]}", "random maps")]
    return _table(["model", *head], rows)


def _scenes_cell(model: str, method: str, metric: str) -> str:
    """A value with its interval, and a mark where it is not better than that of random maps."""
    line = scenes_numbers()[model, method, metric]
    value, low, high = (f"{float(line[each]):.2f}" for each in ("value", "low", "high"))
    compared = method != "random" and metric in ("pointing game", "deletion")
    return f"{value} ({low}–{high})" + (" †" if compared and not beats_random(model, method, metric) else "")


def scenes_run() -> str:
    """Where and with what the tables of the scenes were measured."""
    line = next(iter(scenes_numbers().values()))
    libraries = ", ".join(f"{each} {line[each]}" for each in ("captum_vit", "torch", "timm", "open_clip_torch"))
    return (
        f"Measured {line['date']} at commit {line['commit']} on {line['machine']}, {line['threads']} thread: "
        f"{libraries}, Python {line['python']}."
    )


def model_cards() -> str:
    """Size, training and scores of the shipped models, from the cards beside their weights."""
    cards = [json.loads(weight_file(name).with_suffix(".json").read_text(encoding="utf-8")) for name in SCENE_MODELS]
    rows = [
        ["size", *(f"{card['bytes'] / 1e6:.1f} MB" for card in cards)],
        ["parameters stored", *(f"{card['parameters'] / 1e6:.2f} M" for card in cards)],
        ["steps of its run", *(f"{card['recipe']['steps']} of {card['recipe']['batch']} images" for card in cards)],
        ["begins with", *(card["recipe"]["start"] or "random weights" for card in cards)],
        *([score, *(f"{card['scores'][score]:.3f}" for card in cards)] for score in cards[0]["scores"]),
    ]
    return _table(["", *(f"`{card['model']}`" for card in cards)], rows)


def generated(page: Path) -> str:
    """The text of ``page`` with every generated part up to date.

    Raises:
        KeyError: a part that nothing generates.
    """
    parts: dict[str, Callable[[], str]] = {
        "demo": demo_table,
        "every-metric": every_metric,
        "methods": partial(method_table, page),
        "costs": lambda: _table(["method", "memory", "models"], cost_rows()),
        "model-cards": model_cards,
        "dataset-kinds": dataset_kinds,
        "protocols": protocol_table,
        "requirements": requirements,
        "speed": speed,
        "wrapped-calls": lambda: _table(*wrapped_calls()),
        "wrapped-methods": lambda: _table(*wrapped_methods()),
        "scenes-run": scenes_run,
        **{f"scenes-table:{name}": partial(scenes_table, f"scenes:{name}") for name in SCENE_MODELS},
    }
    pages: dict[str, type[ViTAttribution]] = {**METHODS, **WRAPPERS}
    packages = ("vit-explain", "Transformer-Explainability", "Transformer-MM-Explainability")
    parts |= {f"peer-maps:{each}": partial(peer_maps, each) for each in packages}
    parts |= {f"peer-maps:{each}": partial(peer_maps, each) for each in ("pytorch-grad-cam", "legrad_torch", "lxt")}
    parts["bibliography"] = partial(bibliography, pages)
    parts |= {f"scenes:{name}": partial(scenes_of, name) for name in METHODS}
    parts |= {f"facts:{name}": partial(facts, name, method) for name, method in pages.items()}
    parts["metrics"] = metric_table
    parts |= {f"metrics:{name}": partial(metric_options, classes) for name, classes in metric_classes().items()}
    return _PART.sub(lambda found: f"{found[1]}{parts[found[2]]()}\n{found[3]}", page.read_text(encoding="utf-8"))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _picture(name: str, method: type[ViTAttribution]) -> list[str]:
    """What ``docs/method_pictures.py`` drew, and what is to be seen there; nothing where it drew nothing."""
    if not (ROOT / "docs" / "images" / "methods" / f"{name}.png").exists():
        return []
    texts = ["The objects of a scene, on the [models that come with the package](../scenes.md)."]
    if getattr(method, "class_specific", True):
        texts.append("What each map was asked for stands above it, and is outlined.")
    else:
        texts.append("The maps can't tell which object they were asked for, which is outlined.")
    if getattr(method, "signed", False) is True:
        texts.append("Orange speaks for it, purple against it.")
    alt = f"A scene with two objects, and {method.get_name()} asked about each of them"
    return [f"![{alt}](../images/methods/{name}.png)", f"*{' '.join(texts)} From `python docs/method_pictures.py`.*"]


def _first_line(documented: type) -> str:
    return (inspect.getdoc(documented) or "").split("\n")[0].rstrip(".")


def _options(configured: type) -> str:
    """The keyword arguments that have defaults, with these."""
    return ", ".join(
        f"`{each.name}={_default(each.default)}`"
        for each in inspect.signature(configured).parameters.values()
        if each.kind is inspect.Parameter.KEYWORD_ONLY and each.default is not inspect.Parameter.empty
    )


def _default(value: object) -> str:
    return value.__name__ if inspect.isfunction(value) else repr(value)


def _metric_facts(metric: type[Metric]) -> list[str]:
    low, high = metric.range
    interval = f"{'(' if isinf(low) else '['}{low:g}, {high:g}{')' if isinf(high) else ']'}"
    better = "higher" if metric.higher_is_better else "lower"
    return [better, interval.replace("inf", "∞").replace("-", "−"), ", ".join(metric.needs) or "nothing"]


def _linked(reference: str) -> str:
    linked = _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", reference)
    linked = _DOI.sub(r"[doi:\1](https://doi.org/\1)", linked)
    return _OPEN_REVIEW.sub(r"[OpenReview \1](https://openreview.net/forum?id=\1)", linked)


def _yes(fact: bool | None) -> str:
    """A fact; a wrapper's class has none of its own."""
    return "as the method inside" if fact is None else "yes" if fact else "no"


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(generated(each), encoding="utf-8")
