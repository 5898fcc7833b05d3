"""The command line beyond classifiers: boxes, segmenters, videos and volumes, and folders of Hugging Face."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from grad_cam.interfaces.cli import app

from . import hugging_face
from .tiny.moving import clips
from .tiny.shapes import scene
from .tiny.volumes import volume


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


@pytest.fixture
def clip(street: pathlib.Path) -> pathlib.Path:
    """A folder with the frames of a disc that moves, in which a square flashes."""
    folder = street.parent / "clip"
    folder.mkdir()
    frames = (clips(12, 77)[0][7].permute(1, 2, 3, 0) * 255).byte().numpy()
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t:02d}.png")
    return folder


VIDEO = ("-m", "tests.tiny.moving:video", "--checkpoint", "tests/tiny/video.safetensors", "--input-size", "48")


def test_a_video(clip: pathlib.Path) -> None:
    """A folder of frames, an animation and a file give a strip and an animation for every class; raw maps, too."""
    out = clip.parent / "v"
    printed = run("explain", clip, *VIDEO, "--frames", "12", "-c", "1", "--save-raw", "--original", "npy", "-o", out)
    assert "map 12 × 12 × 12" in printed
    names = {"".join(path.suffixes) for path in out.iterdir()}
    assert names == {".png", ".gif", ".npy", ".json"} and len(list(out.iterdir())) == 5
    (original,) = out.glob("*original.npy")
    assert np.load(original).shape == (12, 48, 48)
    av = pytest.importorskip("av")
    with av.open(str(clip.parent / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for path in sorted(clip.iterdir()):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.open(path).convert("RGB"))))
        container.mux(stream.encode())
    how = (*VIDEO, "-c", "1", "-c", "0", "--json", "-o", clip.parent / "w")
    (found,) = json.loads(run("explain", clip.parent / "clip.mp4", *how))["images"]
    assert len(found["files"]) == 4 and np.shape(found["explanations"][0]["map"])[0] == 16


def test_a_volume(street: pathlib.Path) -> None:
    """NIfTI in, a strip of slices and NIfTI out; the evidence lies in the ball."""
    nibabel = pytest.importorskip("nibabel")
    drawn, middle = volume(3)
    path = street.parent / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(drawn[0, 0].numpy(), np.eye(4)), str(path))
    how = ("-m", "tests.tiny.volumes:finder", "--window", "0,1", "-l", "3", "-x", "hires_cam", "--original", "nii.gz")
    printed = run("explain", path, *how, "-o", street.parent / "s")
    assert "map 24 × 24 × 24" in printed
    (back,) = (street.parent / "s").glob("*.nii.gz")
    found = nibabel.load(str(back)).get_fdata()
    peak = np.unravel_index(found.argmax(), found.shape)
    assert max(abs(a - b) for a, b in zip(peak, middle, strict=True)) <= 2


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("clip.mp4", ("-m", DETECTOR), "is a video or a volume, and tests.tiny.vision:detector takes pictures"),
        ("scan.nii", VIDEO, "scan.nii is a volume of one channel, and tests.tiny.moving:video takes 3"),
        ("broken.mp4", VIDEO, "broken.mp4 cannot be decoded"), ("gone.mp4", VIDEO, "there is no file"),
        ("clip.mp4", (*VIDEO, "--window", "2,1"), "is no window"),
    ],
)  # fmt: skip
def test_clips_that_are_refused(street: pathlib.Path, name: str, options: tuple[str, ...], says: str) -> None:
    """A video for a model of pictures, a volume for one of colours, and files that cannot be read."""
    if name != "gone.mp4":
        (street.parent / name).write_bytes(b"nothing")
    result = CliRunner().invoke(app, ["explain", str(street.parent / name), *options])
    assert result.exit_code and says in " ".join(result.output.replace("│", " ").split())


SEGMENTER = ("-m", "tests.tiny.vision:segmenter", "--checkpoint", "tests/tiny/segmenter.safetensors")


def test_a_class_in_a_part(street: pathlib.Path) -> None:
    """A point of the photo takes the class predicted there; a mask that is painted on the photo takes its part."""
    drawn = scene(5, 128, most=5, least=5)
    shape = int((drawn.labels == 3).nonzero()[0, 0])
    left, top, right, bottom = (int(v) for v in drawn.boxes[shape])
    where = f"{(left + right) // 2},{(top + bottom) // 2}"
    how = (*SEGMENTER, "-x", "hires_cam", "--json")
    (found,) = json.loads(run("explain", street, *how, "--point", where, "-o", street.parent / "p"))["images"]
    assert [one["class"] for one in found["explanations"]] == ["triangle"]
    mask = Image.new("L", (128, 128))
    mask.paste(255, (left, top, right, bottom))
    mask.save(street.parent / "mask.png")
    how = (*how, "--mask", str(street.parent / "mask.png"), "-c", "triangle")
    (masked,) = json.loads(run("explain", street, *how, "-o", street.parent / "m"))["images"]
    map_ = np.array(masked["explanations"][0]["map"])
    inside = map_[top // 2 * len(map_) // 64 :, :][: (bottom - top) // 2 * len(map_) // 64 + 1]
    assert np.abs(inside).sum() > 0.6 * np.abs(map_).sum()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--point", "3"), "is no point"), (("--point", "200,3"), "beside the photo"),
        (("--point", "3,3", "--mask", "README.md"), "contradict"), (("--point", "3,3", "--top", "2"), "contradict"),
        (("--mask", "tests/nothing.png"), "there is no file"), (("--mask", "docs/espresso-layers.png"), "another size"),
    ],
)  # fmt: skip
def test_parts_that_are_refused(street: pathlib.Path, options: tuple[str, ...], says: str) -> None:
    """A part that lies nowhere, is no picture of this photo, or is said twice."""
    result = CliRunner().invoke(app, ["explain", str(street), *SEGMENTER, *options])
    assert result.exit_code and says in " ".join(result.output.replace("│", " ").split())
