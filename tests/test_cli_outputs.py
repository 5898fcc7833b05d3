"""The command line beyond classifiers: boxes, segmenters, videos and volumes, and folders of Hugging Face."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from grad_cam import loading
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


def test_places_of_boxes_are_those_of_the_photo(street: pathlib.Path) -> None:
    """In a photo of another size than the detector sees, a box is named and told in pixels of the photo."""
    wide = Image.open(street).crop((0, 0, 128, 96)).resize((384, 288))
    wide.save(street.parent / "wide.png")
    how = ("-m", DETECTOR, "--checkpoint", "tests/tiny/detector.safetensors", "-x", "hires_cam", "--json")
    drawn = 3 * scene(5, 128, most=5, least=5).boxes
    which = int((drawn[:, 3] < 270).nonzero()[0])
    place = ",".join(f"{v:g}" for v in drawn[which].tolist())
    found = run("explain", street.parent / "wide.png", *how, "--boxes", place, "-o", street.parent / "w")
    (one,) = json.loads(found)["images"][0]["explanations"]
    assert np.abs(np.array(one["box"]) - drawn[which].numpy()).max() < 15
    say = CliRunner().invoke(app, ["explain", str(street), *how, "--boxes", "-9,-9,-1,-1"])
    assert say.exit_code and "holds nothing of the photo" in " ".join(say.output.split())


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


def test_a_wide_photo_in_a_segmenter(tmp_path: pathlib.Path) -> None:
    """It keeps its proportions, a point at its edge is seen, and the map lies in the whole of it."""
    Image.fromarray(scene(5, 96).picture[:64]).save(tmp_path / "wide.png")
    model = ("-m", "torchvision/lraspp_mobilenet_v3_large", "--no-pretrained", "--input-size", 64)
    how = ("--point", "94,30", "-x", "hires_cam", "-o", tmp_path / "out", "--json", "--original", "npy")
    found = json.loads(run("explain", tmp_path / "wide.png", *model, *how))["images"][0]["explanations"][0]
    high, wide = len(found["map"]), len(found["map"][0])
    assert wide == pytest.approx(1.5 * high, abs=1)
    (written,) = (tmp_path / "out").glob("*-original.npy")
    assert np.load(written).shape == (64, 96)


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


def _saved(kind: str, folder: pathlib.Path) -> None:
    """A small random model of Hugging Face with what belongs to it, as one saves it."""
    hf = pytest.importorskip("transformers")
    small = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision, text = {**small, "image_size": 32, "patch_size": 8}, {**small, "vocab_size": 8, "eos_token_id": 7}
    labels = {"id2label": dict(enumerate(("walk", "jump", "wave"))), "label2id": {"walk": 0, "jump": 1, "wave": 2}}
    if kind in ("VideoMAE", "Timesformer", "Vivit"):
        tubes = {"VideoMAE": {"tubelet_size": 2}, "Timesformer": {}, "Vivit": {"tubelet_size": [2, 8, 8]}}[kind]
        config = getattr(hf, f"{kind}Config")(num_frames=6, **vision, **tubes, **labels)
        getattr(hf, f"{kind}ForVideoClassification")(config).save_pretrained(folder)
        processor = hf.VivitImageProcessor if kind == "Vivit" else hf.VideoMAEImageProcessor
        processor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
        return
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: n for n, word in enumerate(("[PAD]", "[UNK]", "a", "red", "cup", "blue", "disc", "[EOS]"))}
    known = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    known.post_processor = processors.TemplateProcessing(single="$A [EOS]", special_tokens=[("[EOS]", 7)])
    text |= {"max_position_embeddings": 8, "bos_token_id": 1, "pad_token_id": 0}
    more = {"projection_dim": 12} if kind == "CLIP" else {}
    getattr(hf, f"{kind}Model")(getattr(hf, f"{kind}Config")(text_config=text, vision_config=vision, **more)
                                ).save_pretrained(folder)  # fmt: skip
    hf.PreTrainedTokenizerFast(
        tokenizer_object=known, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]", model_max_length=8
    ).save_pretrained(folder)
    getattr(hf, f"{kind}ImageProcessor")(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["VideoMAE", "Timesformer", "Vivit"])
def test_a_video_classifier_of_hugging_face(clip: pathlib.Path, kind: str) -> None:
    """`hf:./folder` reads a video as the model's own processor does, explains it, and lays the map over its frames."""
    hf = pytest.importorskip("transformers")
    folder, out = clip.parent / kind, clip.parent / "out"
    _saved(kind, folder)
    how = ("-m", f"hf:{folder}", "-c", "jump", "-x", "hires_cam", "--original", "npy")
    (found,) = json.loads(run("explain", clip, *how, "-o", out, "--json"))["images"]
    assert np.shape(found["explanations"][0]["map"])[1:] == (4, 4) and found["explanations"][0]["class"] == "jump"
    assert {p["class"] for p in found["predictions"]} == {"walk", "jump", "wave"}
    assert {path.suffix for path in out.iterdir()} == {".png", ".gif", ".npy"}
    frames = loading.load_frames(clip, count=6)
    seen, _ = loading.clip_tensor(loading.load(f"hf:{folder}"), frames)
    theirs = hf.AutoImageProcessor.from_pretrained(folder)(list(frames), return_tensors="pt")["pixel_values"]
    assert torch.equal(seen, theirs)
    refused = CliRunner().invoke(app, ["explain", str(clip), *map(str, how), "--frames", "5", "-o", str(out / "b")])
    assert refused.exit_code and "model.config.num_frames says 6 frames" in " ".join(refused.output.split())


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_a_model_of_image_and_text_of_hugging_face(street: pathlib.Path, kind: str) -> None:
    """`hf:./folder` with its tokenizer takes texts; without a text, or a tokenizer, it says what is missing."""
    folder, out = street.parent / kind, street.parent / "out"
    _saved(kind, folder)
    how = ("-m", f"hf:{folder}", "-x", "hires_cam")
    texts = ("--text", "a red cup", "--text", "a blue disc")
    (found,) = json.loads(run("explain", street, *how, *texts, "-o", out, "--json"))["images"]
    assert [e["target"] for e in found["explanations"]] == [f'similarity to "{text}"' for text in texts[1::2]]
    assert found["explanations"][0]["map"] != found["explanations"][1]["map"] and found["predictions"] == []
    assert len(list(out.glob("*.png"))) == 3
    refused = CliRunner().invoke(app, ["explain", str(street), *how, "-o", str(out / "b")])
    assert refused.exit_code and "--text" in refused.output
    for path in folder.glob("tokenizer*"):
        path.unlink()
    refused = CliRunner().invoke(app, ["explain", str(street), *how, *texts, "-o", str(out / "c")])
    assert refused.exit_code and "tokenizer" in refused.output and "Traceback" not in refused.output


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
