"""Reading videos and volumes, and putting maps back over them."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import grad_cam
from grad_cam.loading import ImageError, Preprocessing
from grad_cam.loading.clips import clip_tensor, load_frames, load_volume, volume_tensor

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
av = pytest.importorskip("av")


def _frames(count: int = 12) -> list[Image.Image]:
    """Grey frames that get lighter."""
    return [Image.new("RGB", (32, 24), (10 * t + 20,) * 3) for t in range(count)]


def test_frames_from_every_source(tmp_path: pathlib.Path) -> None:
    """A video, an animation, a TIFF, a folder and a list give the same frames, evenly spread."""
    frames = _frames()
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    (tmp_path / "folder").mkdir()
    for t, frame in enumerate(frames):
        frame.save(tmp_path / "folder" / f"{t:03d}.png")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    wanted = [10 * t + 20 for t in (1, 4, 7, 10)]
    for source in (frames, tmp_path / "pages.tif", tmp_path / "folder", tmp_path / "clip.mp4"):
        found = load_frames(source, count=4)
        assert found.shape == (4, 24, 32, 3) and found.dtype == np.uint8
        np.testing.assert_allclose(found.mean((1, 2, 3)), wanted, atol=4)
    assert len(load_frames(tmp_path / "pages.tif", count=None)) == 12


@pytest.mark.parametrize(("turn", "bright"), [(90, np.s_[:, :, :8]), (-90, np.s_[:, :, -8:]), (180, np.s_[:, -8:])])
def test_a_video_of_a_turned_phone_is_upright(tmp_path: pathlib.Path, turn: int, bright: tuple[slice, ...]) -> None:
    """The turn that is stored beside the frames is made: what is at the top of them comes to the side, or below."""
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16] = 255
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV writes no turn")
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.set_display_rotation(turn)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored)))
        container.mux(stream.encode())
    found = load_frames(tmp_path / "clip.mp4", count=2)
    assert found.shape == ((2, 32, 48, 3) if turn == 180 else (2, 48, 32, 3))
    assert found[bright].mean() > 240 and found.mean() < 140


class _Late(nn.Module):
    """Brightness in the second half of a video, at the left."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv3d(3, 1, 1, bias=False)
        nn.init.constant_(self.features.weight, 1.0)
        self.head = nn.Linear(1, 1)

    def forward(self, clip: Tensor) -> Tensor:
        found: Tensor = self.head(
            self.features(clip)[:, :, clip.shape[2] // 2 :, :, : clip.shape[4] // 2].mean((2, 3, 4))
        )
        return found.abs()


def test_a_clip_and_back() -> None:
    """Frames are prepared as pictures are; a map returns to the frames, in time and place."""
    model = _Late().eval()
    model.preprocessing = Preprocessing(size=(16, 16), mean=(0,) * 3, std=(1,) * 3, crop_mode="squash")  # type: ignore[assignment]
    frames = np.full((6, 24, 32, 3), 200, np.uint8)
    clip, where = clip_tensor(model, frames, name="clip.mp4")
    assert clip.shape == (1, 3, 6, 16, 16) and where.original == (6, 24, 32)
    found = grad_cam.explain(model, clip, layer="features", method="hires_cam", geometry=where).to_original()
    assert found.values.shape == (6, 24, 32)
    seen = np.abs(found.values) > 0.5 * np.abs(found.values).max()
    t, _, x = np.nonzero(seen)
    assert t.min() == 3 and x.max() <= 16


def _stored(path: pathlib.Path, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """Writes a NIfTI volume in some orientation; its values and matrix."""
    values = np.random.default_rng(0).normal(size=(6, 8, 10)).astype(np.float32)
    image = nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0]))
    target = nibabel.orientations.axcodes2ornt(tuple(codes))
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), target))
    nibabel.save(turned, path)
    return np.asarray(turned.get_fdata(), np.float32), turned.affine


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
def test_nifti_in_any_orientation(tmp_path: pathlib.Path, codes: str) -> None:
    """However it is stored, slices are the same; a map saved over it has its axes, matrix and values."""
    plain, _ = load_volume(_path(tmp_path / "ras.nii.gz", "RAS"))
    stored, matrix = _stored(tmp_path / "other.nii.gz", codes)
    volume, where = load_volume(tmp_path / "other.nii.gz")
    np.testing.assert_allclose(volume, plain)
    assert volume.shape == (10, 8, 6)
    back = where.restore(volume)
    np.testing.assert_allclose(back, stored, rtol=1e-5)
    tensor, place = volume_tensor(volume, where, (10, 8, 6), window=(-3, 3))
    assert tensor.shape == (1, 1, 10, 8, 6) and float(tensor.min()) >= 0
    model = nn.Sequential(nn.Conv3d(1, 2, 1), nn.ReLU(), nn.Conv3d(2, 1, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    result = grad_cam.explain(model.eval(), tensor, layer="0", target=0, geometry=place)
    written = nibabel.load(result.to_original().save(tmp_path / "map.nii.gz"))
    assert written.shape == stored.shape
    np.testing.assert_allclose(written.affine, matrix, atol=1e-5)


def _path(path: pathlib.Path, codes: str) -> pathlib.Path:
    _stored(path, codes)
    return path


def _dicom(path: pathlib.Path, number: int, place: float, series: str = "1.2.3") -> None:
    one = pydicom.dataset.FileDataset(str(path), {}, preamble=b"\0" * 128)
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.SOPClassUID, one.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"{series}.{number + 1}"
    one.SeriesInstanceUID, one.InstanceNumber = series, number
    one.ImagePositionPatient, one.ImageOrientationPatient = [0.0, 0.0, place], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    one.PixelSpacing, one.SliceThickness = [0.5, 0.7], 2.0
    one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = 4, 5, 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    one.RescaleSlope, one.RescaleIntercept = 2.0, -1000.0
    one.PixelData = np.full((4, 5), int(place), np.uint16).tobytes()
    one.save_as(path, enforce_file_format=True)


def test_a_dicom_series(tmp_path: pathlib.Path) -> None:
    """Slices are sorted by where they are, values rescaled, and the matrix counts to the right and front."""
    for number, place in enumerate((6.0, 2.0, 4.0)):
        _dicom(tmp_path / f"{number}.dcm", number, place)
    (tmp_path / "notes.txt").write_text("no image")
    volume, where = load_volume(tmp_path)
    assert volume.shape == (3, 4, 5)
    np.testing.assert_allclose(volume[:, 0, 0], [2 * v - 1000 for v in (2, 4, 6)])
    assert where.affine is not None
    corner = np.array(where.affine) @ [1, 2, 3, 1]
    np.testing.assert_allclose(corner[:3], [-3 * 0.7, -2 * 0.5, 4.0])
    _dicom(tmp_path / "other.dcm", 9, 8.0, "9.9")
    with pytest.raises(ImageError, match="2 series"):
        load_volume(tmp_path)


def test_pages_as_a_volume(tmp_path: pathlib.Path) -> None:
    """A TIFF of several pages is a volume of its grey values."""
    pages = [Image.fromarray(np.full((5, 6), 10 * n, np.uint8)) for n in range(4)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    volume, where = load_volume(tmp_path / "stack.tif")
    np.testing.assert_allclose(volume[:, 0, 0], [0, 10, 20, 30])
    assert where.stored == (4, 5, 6)


def test_what_cannot_be_read_is_refused(tmp_path: pathlib.Path) -> None:
    """Each refusal is an ImageError with what was looked at."""
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "bad.nii.gz").write_bytes(b"no volume")
    (tmp_path / "empty").mkdir()
    for call in (
        lambda: load_frames(tmp_path / "bad.mp4"), lambda: load_frames(tmp_path / "empty"),
        lambda: load_frames(tmp_path / "none.mp4"), lambda: load_volume(tmp_path / "bad.nii.gz"),
        lambda: load_volume(tmp_path / "empty"), lambda: load_volume(tmp_path / "none.nii"),
        lambda: load_frames([Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))]),
    ):  # fmt: skip
        with pytest.raises(ImageError):
            call()
    volume, where = np.zeros((2, 3, 4), np.float32), grad_cam.loading.Geometry.whole(2, 3, 4)
    with pytest.raises(ImageError, match="window"):
        volume_tensor(volume, where, (2, 3, 4), window=(1, 0))
    assert bool(torch.isfinite(volume_tensor(volume, where, (2, 3, 4))[0]).all())
