"""Reading pictures, and feeding them as the model says."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image, ImageCms
from torch import nn

from grad_cam import zoo
from grad_cam.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageError,
    Preprocessing,
    load_image,
    looks_unnormalised,
    normalisation_note,
    preprocessing,
)

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def photo(width: int = 90, height: int = 60, seed: int = 0) -> Image.Image:
    """A picture with smooth and sharp parts, different in every channel and corner."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "text", "picture", "array"])
def test_reads_every_kind_of_source(kind: str, tmp_path: Path) -> None:
    """A path, its text, a PIL picture and an array of the same picture give the same pixels."""
    image = photo()
    path = tmp_path / "ä picture.png"
    image.save(path)
    source = {"path": path, "text": str(path), "picture": image, "array": pixels(image)}[kind]
    read = load_image(source)
    assert read.mode == "RGB" and np.array_equal(pixels(read), pixels(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_the_picture_as_the_camera_noted(orientation: int, tmp_path: Path) -> None:
    """All eight EXIF orientations come out upright, from a file and from an opened picture."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    upright = photo()
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(pixels(load_image(tmp_path / "turned.png")), pixels(upright))
    with Image.open(tmp_path / "turned.png") as opened:
        assert np.array_equal(pixels(load_image(opened)), pixels(upright))


def test_damaged_exif_does_not_lose_the_picture(tmp_path: Path) -> None:
    """EXIF data that cannot be understood is passed over."""
    photo().save(tmp_path / "odd.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert load_image(tmp_path / "odd.jpg").size == (90, 60)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "PA", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_every_mode_looks_as_it_does(mode: str) -> None:
    """A grey ramp stays that ramp, whatever mode it is stored in (colour spaces within rounding)."""
    ramp = Image.fromarray(RAMP)
    image = {
        "RGBa": lambda: ramp.convert("RGBA").convert("RGBa"),
        "HSV": lambda: ramp.convert("RGB").convert("HSV"),
        "PA": lambda: ramp.convert("P").convert("PA"),
        "RGBX": lambda: ramp.convert("RGB").convert("RGBX"),
        "YCbCr": lambda: ramp.convert("RGB").convert("YCbCr"),
        "CMYK": lambda: ramp.convert("RGB").convert("CMYK"),
    }.get(mode, lambda: ramp.convert(mode))()
    assert image.mode == mode
    read = pixels(load_image(image)).astype(int)
    assert np.abs(read - RAMP[..., None]).max() <= 1


def test_one_bit_is_black_and_white() -> None:
    """A 1-bit picture has 0 and 255, not 0 and 1."""
    image = Image.fromarray(RAMP > 127)
    assert image.mode == "1" and set(np.unique(pixels(load_image(image)))) == {0, 255}


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_files(suffix: str, tmp_path: Path) -> None:
    """CMYK files are not inverted: a light picture stays light, a red one red."""
    Image.new("RGB", (32, 32), (230, 40, 40)).convert("CMYK").save(tmp_path / f"ink{suffix}")
    assert np.abs(pixels(load_image(tmp_path / f"ink{suffix}")).astype(int) - (230, 40, 40)).max() <= 4


def test_transparency_is_shown_over_white(tmp_path: Path) -> None:
    """Half-transparent black is grey and transparent red white, not black."""
    alpha = np.zeros((2, 2, 4), np.uint8)
    alpha[0, 0] = (0, 0, 0, 255)
    alpha[0, 1] = (0, 0, 0, 127)
    alpha[1, 0] = (255, 0, 0, 0)
    alpha[1, 1] = (255, 0, 0, 255)
    wanted = np.array([[[0] * 3, [128] * 3], [[255] * 3, [255, 0, 0]]])
    assert np.array_equal(pixels(load_image(Image.fromarray(alpha))), wanted)
    assert np.array_equal(pixels(load_image(alpha)), wanted)
    assert np.array_equal(pixels(load_image(alpha.astype(np.uint16) * 257)), wanted)
    Image.fromarray(alpha).save(tmp_path / "alpha.webp", lossless=True, exact=True)
    assert np.array_equal(pixels(load_image(tmp_path / "alpha.webp")), wanted)


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palette_with_a_transparent_colour(suffix: str, tmp_path: Path) -> None:
    """The transparent entry of a palette is white, the others keep their colours."""
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    image.putpixel((1, 1), 1)
    image.putpixel((2, 2), 2)
    image.save(tmp_path / f"p{suffix}", transparency=0)
    read = load_image(tmp_path / f"p{suffix}")
    assert read.getpixel((0, 0)) == (255, 255, 255)
    assert read.getpixel((1, 1)) == (10, 200, 10) and read.getpixel((2, 2)) == (10, 10, 200)


def test_palette_with_many_alphas(tmp_path: Path) -> None:
    """A PNG palette with an alpha for each entry is blended entry by entry."""
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png", transparency=bytes([255, 128]))
    read = load_image(tmp_path / "p.png")
    assert read.getpixel((0, 0)) == (0, 0, 0) and read.getpixel((1, 0)) == (127, 127, 127)


@pytest.mark.parametrize(("mode", "transparency"), [("RGB", (9, 9, 9)), ("L", 9)])
def test_a_colour_declared_transparent(mode: str, transparency: object, tmp_path: Path) -> None:
    """A PNG that declares one colour transparent shows white there."""
    Image.new(mode, (4, 4), transparency).save(tmp_path / "key.png", transparency=transparency)
    assert np.all(pixels(load_image(tmp_path / "key.png")) == 255)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_not_clipped(suffix: str, tmp_path: Path) -> None:
    """0..65535 becomes 0..255 over its whole range."""
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / f"deep{suffix}")
    assert np.array_equal(pixels(load_image(tmp_path / f"deep{suffix}"))[..., 0], RAMP)
    assert np.array_equal(pixels(load_image(RAMP.astype(np.uint16) * 257))[..., 2], RAMP)


def test_sixteen_bits_in_either_byte_order() -> None:
    """Big-endian 16-bit pictures and arrays are read like little-endian ones."""
    raw = (RAMP.astype(">u2") * 257).tobytes()
    image = Image.frombytes("I;16B", (16, 16), raw)
    assert np.array_equal(pixels(load_image(image))[..., 0], RAMP)
    assert np.array_equal(pixels(load_image(np.frombuffer(raw, ">u2").reshape(16, 16)))[..., 0], RAMP)


@pytest.mark.parametrize("scale", [1, 257, 65537])
def test_32_bit_integers(scale: int) -> None:
    """Integers of 8, 16 and more bits keep their ramp."""
    read = pixels(load_image(Image.fromarray(RAMP.astype(np.int32) * scale)))
    assert np.array_equal(read[..., 0], RAMP)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (0, 65535), (-3, 5), (0, 1e9)])
def test_float_pictures(low: float, high: float, tmp_path: Path) -> None:
    """A float TIFF keeps its ramp, whatever its range."""
    Image.fromarray((low + (high - low) * (RAMP / 255)).astype(np.float32)).save(tmp_path / "float.tif")
    assert np.abs(pixels(load_image(tmp_path / "float.tif"))[..., 0].astype(int) - RAMP).max() <= 1


def test_a_flat_deep_picture() -> None:
    """A picture of one value outside the usual ranges is black, not an error."""
    assert pixels(load_image(Image.fromarray(np.full((4, 4), -7, np.int32)))).max() == 0


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    """Of several frames the first is read."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif").getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.bool_])
def test_array_types(dtype: type) -> None:
    """Floats in 0..1 and booleans are read by their own scale."""
    array = (RAMP > 127).astype(dtype)
    for shaped in (array, array[..., None], np.stack([array] * 3, -1)):
        assert np.array_equal(pixels(load_image(shaped))[..., 1], (RAMP > 127) * 255)


def test_arrays_that_are_views() -> None:
    """Strided and mirrored arrays are read as they look, and are not written to."""
    array = pixels(photo())[::-2, ::3]
    before = array.copy()
    load_image(array).putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(pixels(load_image(array)), before) and np.array_equal(array, before)


def test_the_given_picture_is_not_changed() -> None:
    """Drawing on what is returned leaves the picture that was given alone."""
    image = photo()
    before = pixels(image).copy()
    load_image(image).putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(pixels(image), before)


# --- bad pictures ----------------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    """The name is in the error."""
    with pytest.raises(ImageError, match=r"no file .*nothing\.png"):
        load_image(tmp_path / "nothing.png")


def test_a_directory(tmp_path: Path) -> None:
    """A directory is told from a missing file."""
    with pytest.raises(ImageError, match="directory"):
        load_image(tmp_path)


def test_a_broken_link(tmp_path: Path) -> None:
    """A link that leads nowhere is said to be that."""
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="nowhere"):
        load_image(tmp_path / "link.png")


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    """A named pipe is refused, not waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="regular file"):
        load_image(tmp_path / "pipe")


def test_names_that_no_file_can_have() -> None:
    """Names that are too long, hold a zero byte or are an address give the same kind of error."""
    for name in ("x" * 5000, "a\0b", "https://example.org/cat.jpg", ""):
        with pytest.raises(ImageError):
            load_image(name)


def test_an_empty_file(tmp_path: Path) -> None:
    """Zero bytes are said to be zero bytes."""
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match="0 bytes"):
        load_image(tmp_path / "empty.jpg")


@pytest.mark.parametrize("content", [b"hello, I am text\n" * 9, b"\x89PNG\r\n\x1a\n", b"<svg></svg>", b"\xff\xd8\xff"])
def test_not_a_picture(content: bytes, tmp_path: Path) -> None:
    """A file that is no picture, or only begins like one, is named."""
    (tmp_path / "notes.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"notes\.jpg"):
        load_image(tmp_path / "notes.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp", ".gif"])
def test_cut_short(suffix: str, tmp_path: Path) -> None:
    """A file of which the end is missing is refused, also when it was opened before."""
    photo(300, 200).save(tmp_path / f"cut{suffix}")
    whole = (tmp_path / f"cut{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut\."):
        load_image(tmp_path / f"cut{suffix}")
    try:
        opened = Image.open(io.BytesIO(whole[: len(whole) // 2]))
    except OSError:
        return
    with pytest.raises(ImageError, match="the given picture"):
        load_image(opened)


def test_damaged_in_the_middle(tmp_path: Path) -> None:
    """Any damage gives a picture or an ImageError, never another error."""
    buffer = io.BytesIO()
    photo().save(buffer, "PNG")
    whole = bytearray(buffer.getvalue())
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = whole.copy()
        for place in generator.integers(0, len(whole), 4):
            damaged[place] = generator.integers(0, 256)
        (tmp_path / "damaged.png").write_bytes(damaged)
        try:
            assert load_image(tmp_path / "damaged.png").mode == "RGB"
        except ImageError as error:
            assert "damaged.png" in str(error)


def _png(width: int, height: int) -> bytes:
    """A PNG of one colour whose header announces any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [13_500, 50_000])
def test_a_bomb_is_not_unpacked(side: int, tmp_path: Path) -> None:
    """A small file that announces a huge picture is refused by its header."""
    (tmp_path / "bomb.png").write_bytes(_png(side, side))
    with pytest.raises(ImageError, match=r"bomb\.png is too large"):
        load_image(tmp_path / "bomb.png")


def test_the_users_own_limits(tmp_path: Path) -> None:
    """`max_pixels` holds for files, pictures and arrays, and a warning made an error by the user is still explained."""
    photo().save(tmp_path / "large.png")
    for source in (tmp_path / "large.png", photo(), pixels(photo())):
        with pytest.raises(ImageError, match="at most 1,000"):
            load_image(source, max_pixels=1000)
    (tmp_path / "bomb.png").write_bytes(_png(10_000, 10_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="too large"):
            load_image(tmp_path / "bomb.png")


def test_drawings_are_not_run(tmp_path: Path) -> None:
    """PostScript is refused before an interpreter could be started."""
    photo().convert("L").save(tmp_path / "drawing.eps")
    with pytest.raises(ImageError, match="EPS"):
        load_image(tmp_path / "drawing.eps")


def test_a_mode_that_cannot_be_shown() -> None:
    """A colour space that Pillow does not convert gives an ImageError, or the picture."""
    lab = ImageCms.applyTransform(
        photo(),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    try:
        assert load_image(lab).mode == "RGB"
    except ImageError as error:
        assert "given picture" in str(error)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 8, 8), np.uint8), "transpose"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"array\[0\]"),
        (np.zeros((8, 8, 2), np.uint8), r"\(8, 8, 2\)"),
        (np.zeros(8, np.uint8), r"\(8,\)"),
        (np.zeros((0, 8), np.uint8), "no pixels"),
        (np.zeros((8, 8), np.int64), "int64"),
        (np.zeros((8, 8), complex), "complex"),
        (np.array([["a"]]), "not a picture"),
        (np.full((8, 8), 7.0), "from 7 to 7"),
        (np.full((8, 8), -0.1), "from 0 to 1"),
        (np.full((8, 8), np.nan), "NaN"),
        (np.array([[0.5, np.inf]]), "NaN"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray, said: str) -> None:
    """The error says what the array is and what is wanted."""
    with pytest.raises(ImageError, match=said):
        load_image(array)


def test_nan_in_a_float_picture() -> None:
    """A float picture with NaN is refused."""
    with pytest.raises(ImageError, match="finite"):
        load_image(Image.fromarray(np.array([[np.nan, 1.0]], np.float32)))


@pytest.mark.parametrize("source", [None, 3, b"bytes", [1, 2], torch.zeros(1, 3, 8, 8)])
def test_things_that_are_no_source(source: object) -> None:
    """Any other type is a TypeError that names it."""
    with pytest.raises(TypeError, match=type(source).__name__):
        load_image(source)  # type: ignore[arg-type]


# --- what the model sees ---------------------------------------------------------------------------------------------

SHAPES = [(90, 60), (60, 90), (57, 57), (301, 40), (20, 20), (224, 224), (500, 333)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize(
    ("size", "crop_pct"), [((64, 64), 0.875), ((56, 56), 0.9), ((64, 48), 1.0), ((48, 80), 0.95), ((64, 64), 1.15)]
)
def test_same_numbers_as_timm(
    size: tuple[int, int], crop_pct: float, mode: str, interpolation: str, shape: tuple[int, int]
) -> None:
    """The tensor equals timm's evaluation transform bit for bit, for every kind of resizing and proportion."""
    mean, std = (0.48, 0.46, 0.4), (0.27, 0.26, 0.28)
    transform = timm.data.create_transform(
        (3, *size), mean=mean, std=std, interpolation=interpolation, crop_pct=crop_pct, crop_mode=mode
    )
    image = photo(*shape)
    tensor, view = Preprocessing(size, mean, std, interpolation, crop_pct, mode)(image)
    assert view.size == size[::-1]
    assert torch.equal(tensor[0], transform(image))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "tf_efficientnet_lite0", "tf_efficientnet_b2"])
def test_timm_models_are_fed_as_timm_feeds_them(name: str) -> None:
    """What a timm model's own configuration says is what it gets."""
    with torch.device("meta"):
        model = timm.create_model(name)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    image = photo(400, 310)
    tensor, _ = preprocessing(model)(image)
    assert torch.equal(tensor[0], transform(image))


def test_every_timm_configuration_is_understood() -> None:
    """Each of timm's pretrained configurations gives the values that timm itself resolves."""

    class Configured(nn.Module):
        pretrained_cfg: dict

    for name in timm.list_pretrained()[::7]:
        model = Configured()
        model.pretrained_cfg = timm.get_pretrained_cfg(name).to_dict()
        found, told = preprocessing(model), timm.data.resolve_model_data_config(model)
        assert (found.size, found.mean, found.std) == (told["input_size"][1:], told["mean"], told["std"]), name
        assert (found.interpolation, found.crop_pct, found.crop_mode) == (
            told["interpolation"],
            told["crop_pct"],
            told["crop_mode"],
        ), name


def test_timm_models_built_for_another_size() -> None:
    """`img_size` and `set_input_size` are seen, without `input_size`."""
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", img_size=(96, 64), depth=1)
        assert preprocessing(model).size == (96, 64)
        model.set_input_size(img_size=128)
    assert preprocessing(model).size == (128, 128)


TORCHVISION = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b1", "googlenet", "inception_v3", "maxvit_t",
    "mnasnet0_75", "mobilenet_v3_large", "regnet_y_400mf", "resnet18", "resnet50", "shufflenet_v2_x1_5",
    "squeezenet1_1", "swin_s", "swin_v2_t", "vgg11", "vit_b_16", "wide_resnet50_2", "efficientnet_v2_s",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_models_are_fed_as_torchvision_feeds_them(name: str) -> None:
    """Recognised without its name, a torchvision model gets the transforms of its default weights, bit for bit."""
    from torchvision import models

    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # RegNet computes its widths with tensors
        model = models.get_model(name, weights=None)
    transform = models.get_model_weights(name).DEFAULT.transforms()
    image = photo(400, 310)
    tensor, _ = preprocessing(model)(image)
    assert torch.equal(tensor[0], transform(image))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "resized"), [("resnet50", 232), ("squeezenet1_0", 256), ("vit_b_16", 256)])
def test_torchvision_models_with_other_classes(name: str, resized: int) -> None:
    """A changed classifier does not change how the model is fed."""
    from torchvision import models

    with torch.device("meta"):
        model = models.get_model(name, weights=None, num_classes=7)
    found = preprocessing(model)
    assert found.size == (224, 224) and found._resized(300, 300) == (resized, resized)
    assert found.interpolation == "bilinear"


def test_torchvision_models_of_ones_own_shape() -> None:
    """A torchvision class with another depth, for which there are no weights, gets the usual 256/224."""
    from torchvision.models.resnet import BasicBlock, ResNet

    assert preprocessing(ResNet(BasicBlock, [1, 1, 1, 1]))._resized(300, 400) == (256, 341)


def test_any_other_model() -> None:
    """A model that tells nothing gets 224 x 224 and ImageNet's mean and standard deviation."""
    found = preprocessing(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
    assert (found.size, found.mean, found.std) == ((224, 224), IMAGENET_MEAN, IMAGENET_STD)


def test_the_users_own_preprocessing_wins() -> None:
    """`model.preprocessing` is used, also through wrappers; another attribute of that name is not."""
    own = Preprocessing((32, 40), (0.1,) * 3, (0.2,) * 3)
    model = timm.create_model("resnet18")
    model.preprocessing = own
    assert preprocessing(model) is own and preprocessing(nn.DataParallel(model)) is own
    assert preprocessing(torch.compile(model)) is own
    assert preprocessing(model, 64).size == (64, 64) and preprocessing(model, 64).mean == own.mean
    model.preprocessing = "something else"
    assert preprocessing(model).size == (224, 224)


@pytest.mark.parametrize(("given", "size"), [(96, (96, 96)), ((96, 64), (96, 64)), ([64, 96], (64, 96))])
def test_another_input_size(given: object, size: tuple[int, int]) -> None:
    """An input size replaces the model's own; the rest stays."""
    model = timm.create_model("resnet18")
    found = preprocessing(model, given)  # type: ignore[arg-type]
    assert found.size == size and found.crop_pct == preprocessing(model).crop_pct
    assert found(photo())[0].shape == (1, 3, *size)


@pytest.mark.parametrize(
    "given", [np.int64(96), np.array(96), torch.tensor(96), np.array([96, 96]), [np.int32(96), 96]]
)
def test_input_sizes_of_any_kind(given: object) -> None:
    """Whole numbers of numpy and torch are sizes."""
    assert preprocessing(nn.Identity(), given).size == (96, 96)  # type: ignore[arg-type]
    assert Preprocessing(channels=np.int64(3)).channels == 3


@pytest.mark.parametrize("given", [0, -1, (0, 5), (1, 2, 3), "224", 3.5, (2.5, 2), True, 10**9, ()])
def test_impossible_input_sizes(given: object) -> None:
    """Anything that is no size is refused, with what was given."""
    with pytest.raises(ValueError, match="input size"):
        preprocessing(nn.Identity(), given)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["timm", "torchvision", "own"])
def test_models_of_one_channel(model: str) -> None:
    """A model of one channel is fed grey, and its view is shown grey."""
    if model == "timm":
        network = timm.create_model("resnet18", in_chans=1)
    elif model == "torchvision":
        from torchvision.models import resnet18

        network = resnet18()
        network.conv1 = nn.Conv2d(1, 64, 7)
    else:
        network = nn.Sequential(nn.Conv2d(1, 2, 3))
    found = preprocessing(network, 48)
    tensor, view = found(photo())
    assert tensor.shape == (1, 1, 48, 48)
    assert found.mean == (pytest.approx(np.mean(IMAGENET_MEAN)),)
    shown = pixels(view)
    assert np.array_equal(shown[..., 0], shown[..., 1]) and np.array_equal(shown[..., 0], shown[..., 2])
    assert np.array_equal(found.pictures(tensor)[0], shown)
    assert torch.allclose(tensor[0, 0] * found.std[0] + found.mean[0], torch.tensor(shown[..., 0]) / 255, atol=1e-6)


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def _processor(name: str, **settings: object) -> object:
    return getattr(pytest.importorskip("transformers"), name)(**settings)


class Told(nn.Module):
    """Stands for a Hugging Face model: a configuration and a processor."""

    def __init__(self, processor: object = None, **config: object) -> None:
        super().__init__()
        self.config = type("Config", (), {"model_type": "any", **config})()
        if processor is not None:
            self.image_processor = processor


PROCESSORS = {
    "vit": ("ViTImageProcessor", {}),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
    "convnext-384": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "beit": ("BeitImageProcessor", {"size": {"height": 256, "width": 256}, "do_center_crop": True}),
    "bit": ("BitImageProcessor", {"size": {"shortest_edge": 256}, "image_mean": [0.4, 0.5, 0.6]}),
    "segformer": ("SegformerImageProcessor", {"size": {"height": 128, "width": 96}}),
    "mobilevit": (
        "MobileViTImageProcessor",
        {"size": {"shortest_edge": 288}, "crop_size": {"height": 256, "width": 256}},
    ),
    "efficientnet": ("EfficientNetImageProcessor", {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_hugging_face_processors(name: str) -> None:
    """The tensor is the processor's own, within what differs between resizing pictures and tensors."""
    kind, settings = PROCESSORS[name]
    processor = _processor(kind, **settings)
    found = preprocessing(Told(processor))
    image = photo(500, 333)
    tensor, _ = found(image)
    theirs = torch.as_tensor(np.asarray(processor(image, return_tensors="pt")["pixel_values"]))
    assert theirs.shape == tensor.shape
    step = 1 / 255 / min(found.std)  # one level of brightness
    assert (theirs - tensor).abs().max() < 2.1 * step and (theirs - tensor).abs().mean() < 0.3 * step


@pytest.mark.parametrize("size", [64, [64, 48], (64, 48)])
def test_hugging_face_models_without_a_processor(size: object) -> None:
    """Size and channels come from the configuration."""
    found = preprocessing(Told(image_size=size, num_channels=1))
    assert found.size == ((64, 64) if size == 64 else (64, 48)) and found.channels == 1
    assert preprocessing(Told()).size == (224, 224)


def test_hugging_face_types_that_are_known() -> None:
    """Without a processor a ViT is fed -1..1, another type ImageNet's normalisation, marked as assumed."""
    vit, other = preprocessing(Told(model_type="vit")), preprocessing(Told(model_type="resnet"))
    assert vit.mean == vit.std == (0.5,) * 3 and not vit.assumed
    assert other.mean == IMAGENET_MEAN and other.assumed


@pytest.mark.parametrize("kind", ["hugging face", "timm", "own"])
def test_models_of_many_channels(kind: str) -> None:
    """A model of more channels than a picture says so when fed one, and its batches are shown all the same."""
    model = {
        "hugging face": lambda: Told(num_channels=13),
        "timm": lambda: timm.create_model("resnet18", in_chans=13),
        "own": lambda: nn.Sequential(nn.Conv2d(13, 2, 3)),
    }[kind]()
    found = preprocessing(model)
    assert found.channels == 13
    with pytest.raises(ImageError, match=r"13 channels.*explain"):
        found(photo())
    assert found.pictures(torch.randn(2, 13, 8, 8)).shape == (2, 8, 8, 3)


def test_pixels_folded_into_channels_are_pictures() -> None:
    """A stem that turns 4x4 pixels into 48 channels still takes a picture of three."""
    assert preprocessing(nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 3))).channels == 3


@pytest.mark.parametrize("name", ["maxvit_tiny_rw_224", "mixer_s16_224", "visformer_tiny", "twins_pcpvt_small"])
def test_other_families_built_for_another_size(name: str) -> None:
    """The size a model was built for wins over its configuration, wherever the family keeps it."""
    with torch.device("meta"):
        model = timm.create_model(name, img_size=256)
    assert model.pretrained_cfg["input_size"][-1] == 224 and preprocessing(model).size == (256, 256)


def test_a_known_network_inside_ones_own() -> None:
    """A classifier of one's own around a timm network, or around one with a preprocessing set, is fed as that one."""

    class Own(nn.Module):
        def __init__(self, backbone: nn.Module) -> None:
            super().__init__()
            self.backbone, self.head = backbone, nn.Linear(8, 2)

    backbone = timm.create_model("tf_efficientnet_b2", num_classes=0)
    assert preprocessing(Own(backbone)) == preprocessing(backbone)
    backbone.preprocessing = Preprocessing((32, 40))
    assert preprocessing(nn.DataParallel(Own(backbone))) is backbone.preprocessing


def test_chains_are_fed_as_their_model() -> None:
    """A chain knows its model without owning it."""

    class Chain(nn.Sequential):
        @property
        def model(self) -> nn.Module:
            return self.__dict__["held"]

    chain = Chain()
    chain.__dict__["held"] = timm.create_model("tf_efficientnet_lite0")
    assert preprocessing(chain) == preprocessing(chain.model)


# --- views and batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pictures_undo_tensor(bgr: bool, dtype: torch.dtype) -> None:
    """What is shown of a batch is exactly the views it was made from."""
    prepare = Preprocessing((40, 56), bgr=bgr)
    pairs = [prepare(photo(seed=seed)) for seed in range(3)]
    shown = prepare.pictures(torch.cat([tensor for tensor, _ in pairs]).to(dtype))
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, np.stack([pixels(view) for _, view in pairs]))


def test_bgr_models_get_blue_first() -> None:
    """The order of the channels is changed for the model only."""
    tensor, view = Preprocessing((8, 8), (0,) * 3, (1,) * 3, bgr=True)(Image.new("RGB", (8, 8), (255, 0, 0)))
    assert tensor[0, :, 0, 0].tolist() == [0, 0, 1] and view.getpixel((0, 0)) == (255, 0, 0)


def test_pictures_are_clipped() -> None:
    """Values beyond black and white, infinities and NaN never wrap around."""
    values = torch.tensor([-9.0, 9.0, float("inf"), float("nan")])
    shown = Preprocessing((1, 4)).pictures(values.expand(1, 3, 1, 4))
    assert shown[0, 0, :, 0].tolist() == [0, 255, 255, 0]


def test_pictures_of_half_precision_and_other_sizes() -> None:
    """bfloat16 batches of any size can be shown."""
    assert Preprocessing().pictures(torch.zeros(2, 3, 5, 7, dtype=torch.bfloat16)).shape == (2, 5, 7, 3)
    with pytest.raises(ValueError, match=r"\(B,3,H,W\)"):
        Preprocessing().pictures(torch.zeros(3, 5, 7))


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_pictures_of_other_channels(channels: int) -> None:
    """The first three channels (or the first of fewer) are spread from lowest to highest, picture by picture."""
    batch = torch.randn(2, channels, 6, 7, generator=torch.Generator().manual_seed(0))
    batch[1] = batch[1] * 100 + 7
    shown = Preprocessing().pictures(batch)
    assert shown.shape == (2, 6, 7, 3)
    for picture, values in zip(shown, batch, strict=True):
        first = values[:3] if channels >= 3 else values[:1].expand(3, -1, -1)
        wanted = (first - first.min()) / (first.max() - first.min()) * 255
        assert np.abs(picture - wanted.permute(1, 2, 0).numpy()).max() <= 0.51
    assert Preprocessing().pictures(torch.full((1, channels, 2, 2), 3.0)).max() == 0


def test_pictures_of_one_channel_from_a_colour_model() -> None:
    """A grey batch is shown by the mean of the colours' normalisation."""
    shown = Preprocessing().pictures(torch.zeros(1, 1, 2, 2))
    assert np.all(shown == round(255 * float(np.mean(IMAGENET_MEAN))))


def test_pictures_of_an_unknown_normalisation() -> None:
    """Where the normalisation is a guess, a batch of 0..255 is still seen, and one that fits the guess is undone."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    found = preprocessing(model)
    assert found.assumed
    raw = torch.from_numpy(pixels(photo()).copy()).permute(2, 0, 1)[None].float()
    raw[0, 0, 0, 0], raw[0, 0, 0, 1] = 0, 255
    tensor, view = preprocessing(model, (60, 90))(photo())
    both = found.pictures(torch.cat([raw, tensor]))
    assert np.array_equal(both[0], raw[0].permute(1, 2, 0).numpy().astype(np.uint8))
    assert np.array_equal(both[1], pixels(view))


def test_the_tensor_of_a_foreign_view() -> None:
    """A picture that was not made by `view` is refused."""
    with pytest.raises(ValueError, match="60 x 90"):
        Preprocessing().tensor(photo())


def test_a_view_of_a_view_is_the_same() -> None:
    """With a crop of 1 a picture of the right size passes unchanged."""
    image = photo(64, 48)
    assert np.array_equal(pixels(Preprocessing((48, 64)).view(image)), pixels(image))


def test_elongated_pictures() -> None:
    """A line of pixels would become gigabytes: refused; squashed it is fine."""
    line = Image.new("RGB", (100_000, 1))
    with pytest.raises(ImageError, match="elongated"):
        Preprocessing().view(line)
    assert Preprocessing(crop_mode="squash").view(line).size == (224, 224)
    assert Preprocessing(crop_mode="border").view(line).size == (224, 224)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": (0.5,)}, {"std": (0.0, 1, 1)}, {"std": (float("nan"), 1, 1)}, {"interpolation": "cubic"},
        {"crop_mode": "middle"}, {"crop_pct": 0}, {"crop_pct": float("nan")}, {"size": (0, 1)}, {"channels": 2},
        {"channels": 0}, {"mean": (0.5,) * 3, "channels": 1},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(wrong: dict) -> None:
    """Each setting is checked when it is made, and the error shows the value."""
    with pytest.raises(ValueError):
        Preprocessing(**wrong)


# --- are the images normalised? --------------------------------------------------------------------------------------

HALF, PLAIN, BYTES = ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3), ((0.0,) * 3, (1 / 255,) * 3)
NORMALISATIONS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": HALF, "plain": PLAIN, "bytes": BYTES}


def photos(side: int = 96) -> torch.Tensor:
    """Crops of the sample photos, some darkened, brightened or of little contrast, (B,3,H,W) in 0..1."""
    crops = []
    for path in zoo.samples().values():
        image = load_image(path)
        for left, top, size in ((0, 0, 300), (60, 20, 200), (150, 100, 120), (100, 0, 250)):
            crop = image.crop((left, top, left + size, top + size)).resize((side, side))
            values = torch.from_numpy(pixels(crop).copy()).permute(2, 0, 1) / 255
            crops += [values, values * 0.4, (values * 1.8).clamp(max=1), values * 0.3 + 0.6, 1 - values]
    return torch.stack(crops)


def normalised(images: torch.Tensor, name: str) -> torch.Tensor:
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in NORMALISATIONS[name])
    return (images - mean) / std


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalised_images_raise_no_alarm(name: str) -> None:
    """Photos of any brightness, noise and images of one colour are never taken for images that were forgotten."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 3, 32, 32, generator=generator)
    given = normalised(photos(), name)
    assert looks_unnormalised(given, *NORMALISATIONS[name]) is None
    assert all(looks_unnormalised(one[None], *NORMALISATIONS[name]) is None for one in given)
    for images in (
        noise, noise * 3, noise.abs(), noise * 0.01, noise.clamp(-1, 1), noise * 0, noise * 0 + 1,
        torch.full((1, 3, 8, 8), 200.0), noise[:, :, :1, :1].expand(4, 3, 8, 8) * 100, noise.bfloat16(), noise.double(),
    ):  # fmt: skip
        assert looks_unnormalised(images, *NORMALISATIONS[name]) is None


@pytest.mark.parametrize("name", ["imagenet", "half"])
def test_images_from_0_to_1_are_seen(name: str) -> None:
    """Whole photos from 0 to 1, one by one and together, where a model expects them around zero."""
    images = torch.cat([Preprocessing(mean=PLAIN[0], std=PLAIN[1])(path)[0] for path in zoo.samples().values()])
    for each in (images, images[:1], images[1:], images.half()):
        assert looks_unnormalised(each, *NORMALISATIONS[name]) == "0..1"
    assert looks_unnormalised(images, *PLAIN) is None


@pytest.mark.parametrize("name", ["imagenet", "half", "plain"])
def test_images_from_0_to_255_are_seen(name: str) -> None:
    """Photos from 0 to 255, also one among others, and what was scaled twice, with the range they lie in."""
    images = photos()
    assert looks_unnormalised(images * 255, *NORMALISATIONS[name]) == "0..255"
    mixed = normalised(images, name)
    mixed[0] = images[0] * 255
    assert looks_unnormalised(mixed, *NORMALISATIONS[name]) is not None
    scaled = normalised(images, "imagenet") * 127 + 127
    assert looks_unnormalised(scaled, *NORMALISATIONS[name]) == f"{scaled.min():.4g}..{scaled.max():.4g}"


def test_images_with_nan_are_not_judged() -> None:
    """NaN and infinite values have an error of their own."""
    images = photos() * 255
    images[:, 0, 0, 0], images[:, 1, 0, 0] = float("nan"), float("inf")
    assert looks_unnormalised(images, *NORMALISATIONS["imagenet"]) is None


def test_notes_on_normalisation() -> None:
    """The note names the range, what the model expects, the arithmetic, and how to say that all is right."""
    model, images = timm.create_model("tf_efficientnet_b0"), photos()
    note = normalisation_note(nn.DataParallel(model), images * 255)
    for words in ("0..255", "EfficientNet", "(0.485, 0.456, 0.406)", "images / 255 - mean", "GradCAM", "model.prepro"):
        assert words in note
    assert "(images - mean) / std" in normalisation_note(model, images[::5])
    assert "mean (0.449)" in normalisation_note(timm.create_model("resnet18", in_chans=1), images[:, :1] * 255)
    assert normalisation_note(model, normalised(images, "imagenet")) is None
    model.preprocessing = Preprocessing(mean=PLAIN[0], std=PLAIN[1])
    assert normalisation_note(model, images) is None and "images / 255" in normalisation_note(model, images * 255)


def test_notes_only_where_a_model_declares_what_it_expects() -> None:
    """Models of one's own, also around a known network, and other numbers of channels are not judged."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model("resnet18")

    images = photos()
    for model in (Own(), nn.Sequential(nn.Conv2d(3, 4, 3)), Told(model_type="resnet")):
        assert normalisation_note(model, images * 255) is None
    assert normalisation_note(timm.create_model("resnet18", in_chans=4), torch.rand(1, 4, 8, 8) * 255) is None


def test_notes_on_models_with_another_classifier() -> None:
    """One that was trained anew may have been trained on images from 0 to 1, but hardly on 0 to 255."""
    from torchvision.models import resnet18

    images = photos()[::5]
    for published, own in (
        (timm.create_model("resnet18"), timm.create_model("resnet18", num_classes=5)),
        (resnet18(), resnet18(num_classes=5)),
    ):
        assert "0..1" in normalisation_note(published, images) and normalisation_note(own, images) is None
        assert "0..255" in normalisation_note(own, images * 255)
    told = Told(_processor("ViTImageProcessor"), image_size=224)
    assert "0..1" in normalisation_note(told, images)


def test_the_sample_photos() -> None:
    """The photos that come with the package are read."""
    assert {name: load_image(path).size for name, path in zoo.samples().items()} == {
        "espresso": (600, 400),
        "cat": (451, 300),
    }
