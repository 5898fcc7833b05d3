"""Maps back over the original: where a pixel went, and what is written."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import grad_cam
from grad_cam.errors import GradCamError
from grad_cam.interfaces import cli
from grad_cam.loading import Geometry, Preprocessing, preprocessing
from grad_cam.rendering import OriginalMap


def _dot(size: tuple[int, int], x: int, y: int, radius: int = 9) -> Image.Image:
    """A grey photo with a white square around a pixel."""
    pixels = np.full((size[1], size[0], 3), 100, np.uint8)
    pixels[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = 255
    return Image.fromarray(pixels)


class _Bright(nn.Module):
    """Its only feature is brightness, which is also its score."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 1, 1)
        nn.init.constant_(self.features.weight, 1 / 3)
        nn.init.zeros_(self.features.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images).pow(3).mean((2, 3))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("shape", [(400, 260), (260, 400), (90, 70), (64, 64)])
@pytest.mark.parametrize("crop", [1.0, 0.8])
def test_a_spot_returns_to_where_it_was(mode: str, shape: tuple[int, int], crop: float) -> None:
    """Crop, resize and padding are undone to within a pixel of the input, whatever the proportions."""
    prepare = Preprocessing(size=(96, 80), crop_mode=mode, crop_pct=crop)
    x, y = shape[0] // 2 + 11, shape[1] // 2 - 8
    photo = _dot(shape, x, y, radius=5)
    tensor, _ = prepare(photo)
    back = prepare.geometry(photo).restore(tensor[0].mean(0))
    assert back.shape == (shape[1], shape[0])
    bright = np.nan_to_num(back, nan=-9) > np.nanmin(back) + 0.5 * (np.nanmax(back) - np.nanmin(back))
    rows, columns = np.nonzero(bright)
    scale = max(shape[0] / 80, shape[1] / 96)
    assert abs(columns.mean() - x) < 0.6 * scale + 0.5 and abs(rows.mean() - y) < 0.6 * scale + 0.5
    assert abs(bright.sum() / 11**2 - 1) < 0.35


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_what_was_not_seen_is_no_number(mode: str) -> None:
    """Outside the frame there is NaN, and the frame is the box that the model sees."""
    prepare = Preprocessing(size=(64, 64), crop_mode=mode, crop_pct=0.75)
    photo = _dot((300, 200), 150, 100)
    found = prepare.geometry(photo).restore(np.ones((4, 4)))
    rows, columns = np.flatnonzero(np.isfinite(found).any(1)), np.flatnonzero(np.isfinite(found).any(0))
    left, top, right, bottom = prepare.used_box(photo)
    got = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert np.abs(np.subtract(got, (left, top, right, bottom))).max() <= 1
    assert np.isfinite(found).all() == (prepare.used_fraction(photo) > 0.99)


def test_a_processor_is_measured() -> None:
    """What a Hugging Face processor cuts off and resizes is undone as well."""
    transformers = pytest.importorskip("transformers")
    processor = transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    crops = transformers.CLIPImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64})
    for one in (processor, crops):
        model = nn.Sequential(nn.Conv2d(3, 2, 3))
        model.image_processor = one  # type: ignore[assignment]
        model.config = type("Config", (), {"model_type": "vit"})()  # type: ignore[assignment]
        prepare = preprocessing(model)
        photo = _dot((300, 200), 170, 80)
        tensor, _ = prepare(photo)
        back = prepare.geometry(photo).restore(tensor[0].mean(0))
        bright = np.nan_to_num(back, nan=-9) > np.nanmin(back) + 0.5 * (np.nanmax(back) - np.nanmin(back))
        rows, columns = np.nonzero(bright)
        assert abs(columns.mean() - 170) < 4 and abs(rows.mean() - 80) < 4


def test_planted_truth_from_file_to_mask(tmp_path: pathlib.Path) -> None:
    """`GradCAM` leaves the geometry by itself: the mask covers the only bright square of a rotated photo."""
    photo = _dot((400, 240), 250, 60, radius=20)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    photo.save(tmp_path / "turned.png", exif=exif)
    model = _Bright()
    model.preprocessing = Preprocessing(size=(64, 64), crop_pct=0.9)  # type: ignore[assignment]
    found = grad_cam.GradCAM(model, tmp_path / "turned.png", "features").explanation.to_original()
    assert found.values.shape == (400, 240) and found.name == "turned.png"
    mask = found.mask(0.5)
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - 250) < 3 and abs(columns.mean() - (240 - 1 - 60)) < 3
    assert abs(mask.sum() / 41**2 - 1) < 0.3

    files = [found.save(tmp_path / f"map{suffix}") for suffix in (".npy", ".png", ".json")]
    assert np.array_equal(np.load(files[0]), found.values, equal_nan=True)
    assert np.array_equal(np.asarray(Image.open(files[1])) == 255, mask)
    coco = json.loads(files[2].read_text())
    (one,) = coco["annotations"]
    flat = np.repeat(np.arange(len(one["segmentation"]["counts"])) % 2, one["segmentation"]["counts"])
    assert np.array_equal(flat.reshape(240, 400).T.astype(bool), mask) and one["area"] == mask.sum()
    assert one["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert (coco["images"][0]["height"], coco["images"][0]["width"]) == (400, 240)
    with pytest.raises(FileExistsError):
        found.save(files[0])
    shown = found.overlay(grad_cam.loading.load_image(tmp_path / "turned.png"))
    assert shown.size == (240, 400) and "turned.png" in repr(found)


def test_command_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--original` writes a mask of the size of the photo beside the figure, and refuses to overwrite it."""
    monkeypatch.chdir(tmp_path)
    _dot((90, 60), 20, 30).save("spot.png")
    model = _Bright()
    model.preprocessing = Preprocessing(size=(32, 32), crop_mode="squash")  # type: ignore[assignment]
    monkeypatch.setattr(grad_cam.loading, "load", lambda name, **kw: model)
    words = ["explain", "spot.png", "-m", "resnet18", "-l", "features", "--original", "png", "-o", "out"]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    (mask,) = pathlib.Path("out").glob("*-original.png")
    rows, columns = np.nonzero(np.asarray(Image.open(mask)))
    assert Image.open(mask).size == (90, 60) and abs(columns.mean() - 20) < 3 and abs(rows.mean() - 30) < 3
    for path in set(pathlib.Path("out").iterdir()) - {mask}:
        path.unlink()
    again = CliRunner().invoke(cli.app, words)
    assert again.exit_code != 0 and not set(pathlib.Path("out").iterdir()) - {mask}


def test_axes_of_a_volume_are_put_back() -> None:
    """Order and direction of the stored axes are undone: each voxel gets the value of its own cell."""
    stored = (5, 7, 9)
    where = Geometry((9, 5, 7), (0, 0, 0), (9, 5, 7), order=(2, 0, 1), flipped=(True, False, False))
    assert where.stored == stored
    volume = np.random.default_rng(0).normal(size=stored)
    seen = np.flip(volume.transpose(2, 0, 1), 0)
    np.testing.assert_allclose(where.restore(seen), volume, rtol=1e-5)


def test_wrong_use_is_refused(tmp_path: pathlib.Path) -> None:
    """Without geometry, or with one that does not fit, there is an error that says what to give."""
    model, images = _Bright(), torch.rand(2, 3, 16, 16)
    with pytest.raises(GradCamError, match=r"geometry\(photo\)"):
        grad_cam.explain(model, images, layer="features").to_original()
    with pytest.raises(GradCamError, match="one Geometry for each of the 2 images"):
        grad_cam.explain(model, images, layer="features", geometry=Geometry.whole(20, 30))
    with pytest.raises(GradCamError, match="2 spatial axes"):
        grad_cam.explain(model, images, layer="features", geometry=[Geometry.whole(9, 20, 30)] * 2)
    for bad in ({"start": (0, 0), "stop": (0, 5)}, {"start": (9, 9), "stop": (12, 12)}, {"start": (0,), "stop": (5,)}):
        with pytest.raises(GradCamError):
            Geometry((8, 8), **bad)
    found = OriginalMap(np.full((4, 5), -1.0, np.float32), "cat")
    with pytest.raises(GradCamError, match="empty or everything"):
        found.mask()
    with pytest.raises(GradCamError, match="cannot tell a format"):
        found.save(tmp_path / "map.bmp")
    with pytest.raises(GradCamError, match="for volumes"):
        found.save(tmp_path / "map.nii.gz")
    with pytest.raises(GradCamError, match="not the one the map lies on"):
        found.overlay(Image.new("RGB", (9, 9)))


def test_every_image_of_a_batch_has_its_own() -> None:
    """A list of geometries goes with the images in order."""
    model = _Bright()
    prepare = Preprocessing(size=(32, 32))
    photos = [_dot((100, 60), 50, 30), _dot((60, 90), 30, 45)]
    images = torch.cat([prepare(photo)[0] for photo in photos])
    found = grad_cam.explain(model, images, layer="features", geometry=[prepare.geometry(p) for p in photos])
    assert [found.to_original(b).values.shape for b in range(2)] == [(60, 100), (90, 60)]
