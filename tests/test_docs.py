"""The documentation runs: code blocks, what they print, links, generated tables."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from excused import EXCUSED

from captum_vit import METHODS
from captum_vit.adapters import registry
from captum_vit.attr import WRAPPERS
from captum_vit.attr.relevance import rules
from captum_vit.cli import app
from captum_vit.cli.demonstration.scores import MODELS

ROOT = Path(__file__).parents[1]
OF_ALL = {ROOT / "docs" / "metrics" / f"{name}.md" for name in ("index", "every-method")}
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PRINT = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def named(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, language):
    """Code of each fenced block, below as many empty lines as bring it to its line number in the page."""
    text = page.read_text(encoding="utf-8")
    return [
        "\n" * (text[: each.start()].count("\n") + 1) + each[2] for each in FENCE.finditer(text) if each[1] == language
    ]


def prose(page):
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def targets(page):
    """Relative links of a page, as (path, anchor)."""
    links = [link for link in LINK.findall(prose(page)) if not link.startswith(("https://", "http://", "mailto:"))]
    for link in links:
        path, _, anchor = link.partition("#")
        yield (page.parent / path).resolve() if path else page, anchor


def anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def generate(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", [each for each in PAGES if blocks(each, "python")], ids=named)
def test_python_blocks_run_and_print_what_they_say(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    namespace = {"__name__": "__main__"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for code in blocks(page, "python"):
            exec(compile(code, str(page), "exec"), namespace)
            assert capsys.readouterr().out.splitlines() == PRINT.findall(code)


def check_captum_vit(name, *arguments):
    typer.main.get_command(app).commands[name].make_context(name, list(arguments))  # parses, and runs nothing


def check_make(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def check_pip(command, *arguments):
    metadata = (ROOT / "pyproject.toml").read_text("utf-8")
    assert command == "install"
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
        assert all(re.search(rf"^{each} = \[", metadata, re.MULTILINE) for each in extra.split(",")), extra


def check_script(script, *arguments):
    source = (ROOT / script).read_text("utf-8")
    assert [each for each in arguments if each.startswith("--") and f'"{each}"' not in source] == []


def check_python(*arguments):
    if arguments[:2] != ("-m", "venv"):
        check_script(*arguments)


def check_torchrun(processes, number, *arguments):
    assert processes == "--nproc-per-node"
    assert number.isdecimal()
    if arguments[:2] != ("-m", "captum_vit.cli"):
        check_script(*arguments)
    elif "..." not in arguments:
        check_captum_vit(*arguments[2:])


def check_jupyter(command, notebook):
    assert command == "lab"
    assert (ROOT / notebook).exists()


COMMANDS = {
    ".": lambda script: None,
    "captum-vit": check_captum_vit,
    "jupyter": check_jupyter,
    "make": check_make,
    "pip": check_pip,
    "pytest": lambda *arguments: None,
    "python": check_python,
    "python3": check_python,
    "torchrun": check_torchrun,
}


@pytest.mark.parametrize("page", [each for each in PAGES if blocks(each, "bash")], ids=named)
def test_commands_exist_and_have_the_options_that_they_are_given(page):
    for line in "\n".join(blocks(page, "bash")).splitlines():
        for each in line.split(" #")[0].split("&&"):
            if words := shlex.split(each):
                assert words[0] in COMMANDS, f"{named(page)} runs {words[0]!r}, which nothing here checks"
                if words != ["captum-vit"]:
                    COMMANDS[words[0]](*words[1:])


@pytest.mark.parametrize("page", [each for each in PAGES if blocks(each, "py")], ids=named)
def test_blocks_that_need_a_download_compile(page):
    for code in blocks(page, "py"):
        compile(code, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_fence_names_a_language_alone(page):
    text = page.read_text("utf-8")
    fences = FENCE.findall(text)
    assert text.count("```") == 2 * len(fences), (
        "a fence is indented, not closed, or has more than a language behind it"
    )
    assert {language for language, _ in fences} <= {"python", "py", "bash", "math", "text"}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_resolve(page):
    for path, anchor in targets(page):
        assert path.exists(), f"{named(page)} links to {path}, which does not exist"
        assert not anchor or anchor in anchors(path), f"{named(page)} links to #{anchor} of {named(path)}"


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page.suffix == ".md" and page not in reached:
            reached.add(page)
            waiting += [path for path, _ in targets(page)]
    assert {named(page) for page in PAGES} - {named(page) for page in reached} == set()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_generated_parts_are_current(page, generate):
    assert page.read_text("utf-8") == generate.generated(page), "run `python docs/generate.py`"


def test_method_tables_and_pages_cover_every_method():
    for page in (ROOT / "README.md", ROOT / "docs" / "choose-a-method.md"):
        assert "<!-- methods:begin -->" in page.read_text("utf-8")
    for name in (*METHODS, *WRAPPERS):
        page = ROOT / "docs" / "methods" / f"{name}.md"
        assert f"<!-- facts:{name}:begin -->" in page.read_text("utf-8")


@pytest.mark.parametrize("name", [*METHODS, "background-suppression", "libragrad"])
def test_every_method_has_a_picture_and_says_when_it_misleads(name):
    text = (ROOT / "docs" / "methods" / f"{name}.md").read_text("utf-8")
    assert f"](../images/methods/{name}.png)" in text
    assert "\n## When it misleads\n" in text


def test_every_paper_that_is_named_is_in_the_bibliography(generate):
    sources = [*(ROOT / "captum_vit").rglob("*.py"), *PAGES]
    named = set().union(*(generate.named(each.read_text("utf-8")) for each in sources))
    assert len(named) > 40
    assert named - set(generate.papers()) == set()


def test_methods_that_random_maps_equal_say_why_on_their_page(generate):
    found: dict[tuple[str, str], set[str]] = {}
    for model, method, metric in generate.scenes_numbers():
        specific = method not in METHODS or METHODS[method].class_specific  # wrappers go around methods that are
        if method == "random" or not specific or metric not in ("pointing game", "deletion"):
            continue
        if not generate.beats_random(model, method, metric):
            found.setdefault((method, model), set()).add(metric)
    lacking = {pair: metrics - EXCUSED.get(pair, set()) for pair, metrics in found.items()}
    assert {pair: metrics for pair, metrics in lacking.items() if metrics} == {}
    assert {method for method, _ in EXCUSED} == {method for method, _ in found}
    for method in {method for method, _ in EXCUSED}:
        page = (ROOT / "docs" / "methods" / f"{method}.md").read_text("utf-8")
        reason = page.partition("## On the scenes\n")[2].partition("\n## ")[0]
        assert f"<!-- scenes:{method}:begin -->" in reason
        assert " why" in " ".join(reason.split()), method


def test_the_table_of_the_scenes_has_every_method(generate):
    numbers = generate.scenes_numbers()
    for model in MODELS:
        lacking = {name for name in METHODS if (model, name, "deletion") not in numbers}
        assert lacking == ({"text-span"} if model == "scenes:siglip" else set())


def test_every_metric_has_a_page(generate):
    pages = generate.metric_classes()
    assert f"{sum(map(len, pages.values()))} [metrics](docs/metrics/index.md)" in PAGES[0].read_text("utf-8")
    for name, classes in pages.items():
        text = (ROOT / "docs" / "metrics" / f"{name}.md").read_text("utf-8")
        assert f"<!-- metrics:{name}:begin -->" in text
        assert [each.__name__ for each in classes if f"`{each.__name__}`" not in text] == []


@pytest.mark.parametrize("page", sorted(set((ROOT / "docs" / "metrics").glob("*.md")) - OF_ALL), ids=named)
def test_every_page_of_metrics_has_a_picture_a_formula_when_it_misleads_and_its_api(page):
    text = page.read_text("utf-8")
    assert f"](../images/metrics/{page.stem}.png)" in text
    assert "```math" in text or "\n## Formula\n" in text
    assert re.search(r"^##+ .*[Ww]hen (it|they) mislead", text, re.MULTILINE)
    assert "\n## Degenerate cases\n" in text
    assert "<!-- api: captum_vit.metrics." in text


def test_models_page_names_every_family():
    page = (ROOT / "docs" / "models-and-adapters.md").read_text("utf-8")
    built_in = {each.rpartition(".")[2] for each in registry._BUILT_IN}
    assert [each for each in sorted(built_in) if f"`{each}`" not in page] == []


def test_pages_named_in_error_messages_exist():
    sources = (ROOT / "captum_vit").rglob("*.py")
    mentioned = {each for source in sources for each in re.findall(r"docs/[\w/-]+\.md", source.read_text("utf-8"))}
    assert mentioned
    assert [each for each in sorted(mentioned) if not (ROOT / each).exists()] == []
