"""The command line beyond classifiers: boxes of a detector, a segmenter, and folders of Hugging Face."""

from __future__ import annotations

import json
import pathlib

import pytest
from PIL import Image
from typer.testing import CliRunner

from grad_cam.interfaces.cli import app

from . import hugging_face
from .tiny.shapes import scene


@pytest.fixture
def street(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A drawn scene as a photo, in a folder from which the tiny nets can be named."""
    monkeypatch.chdir(pathlib.Path(__file__).parents[1])
    path = tmp_path / "street.png"
    Image.fromarray(scene(5, 128, most=5, least=5).picture).save(path)
    return path


DETECTOR = "tests.tiny.vision:detector"


def run(*arguments: object) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_boxes(street: pathlib.Path) -> None:
    """A figure for every box, named after its class, and one with all; a single one by number or place."""
    out, weights = street.parent / "out", pathlib.Path("tests/tiny/detector.safetensors")
    model = ("-m", DETECTOR, "--checkpoint", weights)
    run("explain", street, *model, "--boxes", "top:5", "-o", out)
    names = sorted(path.name for path in out.iterdir())
    assert len(names) == 6 and any("classes" in name for name in names) and any("disc" in name for name in names)
    how = (*model, "--boxes", "0", "--boxes", "39,38,71,70", "--score", "edge", "-o", street.parent / "b", "--json")
    found = json.loads(run("explain", street, *how))["images"][0]["explanations"]
    assert len(found) == 2 and all("edges of" in json.dumps(one) for one in found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--boxes", "left"), "give top:5"), (("--boxes", "top:0"), "give top:5"), (("--boxes", "1,2"), "give top:5"),
        (("--boxes", "top:2", "--boxes", "1"), "give top:5"), (("--score", "edge"), "--score needs --boxes"),
        (("--boxes", "1", "--top", "3"), "contradict"),
    ],
)  # fmt: skip
def test_boxes_that_are_none(street: pathlib.Path, options: tuple[str, ...], says: str) -> None:
    """What is no box is refused before a model is loaded."""
    result = CliRunner().invoke(app, ["explain", str(street), "-m", "nothing:there", *options])
    assert result.exit_code == 2 and says in " ".join(result.output.replace("│", " ").split())


def test_a_segmenter(street: pathlib.Path) -> None:
    """A class by name, where it is predicted."""
    weights = pathlib.Path("tests/tiny/segmenter.safetensors")
    model = ("-m", "tests.tiny.vision:segmenter", "--checkpoint", weights)
    printed = run("explain", street, *model, "-c", "disc", "-x", "hires_cam", "-o", street.parent / "s.png")
    assert "hires_cam at" in printed and (street.parent / "s.png").exists()


@pytest.mark.parametrize("kind", ["classifier", "detector", "segmenter"])
def test_a_folder_of_hugging_face(street: pathlib.Path, kind: str) -> None:
    """`hf:./folder` with a configuration, weights and a processor, end to end: the class that was saved is opened."""
    hf = pytest.importorskip("transformers")
    folder, options = street.parent / kind, []
    if kind == "classifier":
        names = {i: name for i, name in enumerate(("cup", "plate", "fork"))}
        config = hf.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32,
            patch_size=8, id2label=names, label2id={v: k for k, v in names.items()},
        )  # fmt: skip
        model, processor = hf.ViTForImageClassification(config), hf.ViTImageProcessor(size={"height": 32, "width": 32})
        options = ["--class", "plate"]
    elif kind == "segmenter":
        model = hugging_face.segmenter(3)
        processor = hf.SegformerImageProcessor(size={"height": 64, "width": 64})
    else:
        config = hf.YolosConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=[64, 64],
            patch_size=16, num_detection_tokens=5, num_labels=4,
        )  # fmt: skip
        model = hf.YolosForObjectDetection(config)
        processor = hf.ViTImageProcessor(size={"height": 64, "width": 64})
        options = ["--boxes", "top:2"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    out = street.parent / "found"
    printed = run("explain", street, "-m", f"hf:{folder}", *options, "-o", out)
    assert "grad_cam at" in printed and list(out.glob("street-*.png"))
    if kind == "classifier":
        assert any("plate" in path.name for path in out.iterdir())
