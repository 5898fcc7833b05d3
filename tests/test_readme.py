"""The README: its examples run, and what it prints is what the package prints."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import timm
from matplotlib.figure import Figure

import grad_cam
from grad_cam import loading as zoo
from grad_cam.interfaces.cli import app, methods_table

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_examples_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every python example runs, one after another as a reader would type them, with random weights and no network."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **kw: create(name, **kw))
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", "dog.jpg"):
        pathlib.Path(name).write_bytes(zoo.samples()["cat"].read_bytes())
    room: dict[str, Any] = {"__name__": "readme"}
    examples = [code for language, code in BLOCKS if language == "python"]
    assert len(examples) >= 6
    for code in examples:
        exec(compile(code, "README.md", "exec"), room)
    assert room["heatmap"].shape == (224, 224)
    assert room["result"].map.shape == (1, 3, 14, 14)
    assert isinstance(room["sweep"].figure(), Figure)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"cat-cam.png", "cat-cam-overlapped.png", "second-class.png", "cat-layers.gif", "cat.html"} <= made


def test_layer_table_is_printed_so() -> None:
    """The layer table is what `print(grad_cam.chain(model))` prints."""
    (table,) = (text for language, text in BLOCKS if language == "text")
    assert table.strip() == str(grad_cam.chain(timm.create_model("resnet34")))


def test_default_layers_are_said_right() -> None:
    """The layers that the README names for the transformers are the ones taken."""
    for name, layer in (("vit_small_patch16_224", "blocks.10"), ("swin_tiny_patch4_window7_224", "norm")):
        assert re.search(rf'"{name}".*\n.*# at {re.escape(layer)}$', TEXT, re.MULTILINE)
        assert grad_cam.chain(timm.create_model(name)).default_split().name == layer


def test_methods_table_is_the_registry() -> None:
    """The table of methods is the one made from METHODS."""
    shown = re.search(r"^<!-- methods: .*? -->\n(.*?)^<!-- /methods -->$", TEXT, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert shown[1] == methods_table(), "run `grad-cam methods --markdown` and put its output into README.md"


def test_commands_exist() -> None:
    """Every `grad-cam` command that the README shows is one, with options it has."""
    import typer.main

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^(?:.*&& )?grad-cam (\w+)(.*?)(?:  +#.*)?$", TEXT, re.MULTILINE)
    assert len(lines) >= 8
    for name, rest in lines:
        known = {flag for option in commands[name].params for flag in (*option.opts, *option.secondary_opts)}
        assert set(re.findall(r"(?<=\s)--?[a-z-]+", rest)) <= known, (name, rest)


def test_links_and_pictures_exist() -> None:
    """Files and headings that the README links to are there, and its pictures are small."""
    headings = {
        re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        if link.startswith("#"):
            assert link[1:] in headings
        elif not link.startswith("https://"):
            assert (ROOT / link).exists(), link
    for picture in re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", TEXT):
        assert (ROOT / picture).stat().st_size < 300_000
