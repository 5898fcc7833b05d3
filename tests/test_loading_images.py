"""Reading images from files, PIL images and arrays."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from grad_cam.loading import ImageError, ImageWarning, load_image, read_image, samples

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def photo(width: int = 90, height: int = 60, seed: int = 0) -> Image.Image:
    """A picture with smooth and sharp parts, different in every channel and corner."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


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


@pytest.mark.parametrize(
    ("suffix", "said"), [(".gif", "3 frames"), (".webp", "3 frames"), (".png", "3 frames"), (".tif", "3 pages")]
)
def test_the_first_frame_of_an_animation(suffix: str, said: str, tmp_path: Path) -> None:
    """Of several frames or pages the first is read, and a warning says so."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    path = tmp_path / f"several{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(ImageWarning, match=rf"several\{suffix} has {said}: (frame|page) 1 was read"):
        assert np.abs(np.subtract(load_image(path).getpixel((4, 4)), (255, 0, 0))).max() < 5
    with Image.open(path) as opened:
        opened.seek(1)
        image, notes = read_image(opened)
    assert np.abs(np.subtract(image.getpixel((4, 4)), (0, 0, 255))).max() < 5
    assert len(notes) == 1 and notes[0].endswith(" 2 was read") and "the given image" in notes[0]


def test_images_without_anything_to_note(tmp_path: Path) -> None:
    """Files of one frame, phone photos with a preview, and full 16 bits give no warning."""
    photo().save(tmp_path / "one.png")
    photo().save(tmp_path / "phone.mpo", format="MPO", save_all=True, append_images=[photo(45, 30)])
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("one.png", "phone.mpo", "deep.png"):
            assert read_image(tmp_path / name)[1] == ()
            load_image(tmp_path / name)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_few_bits_of_sixteen(bits: int, tmp_path: Path) -> None:
    """10, 12 or 14 bits in a 16-bit file or array are shown from their own lowest to highest value, with a note."""
    values = (200 + RAMP.astype(np.float64) / 255 * (2**bits - 1 - 200)).round().astype(np.uint16)
    for suffix in (".png", ".tif"):
        Image.fromarray(values).save(tmp_path / f"scan{suffix}")
        with pytest.warns(ImageWarning, match=f"values from 200 to {2**bits - 1} in 16 bits: 200 is shown black"):
            read = load_image(tmp_path / f"scan{suffix}")
        assert np.abs(pixels(read)[..., 0].astype(int) - RAMP).max() <= 1
    image, notes = read_image(values)
    assert np.abs(pixels(image)[..., 1].astype(int) - RAMP).max() <= 1 and "the given array" in notes[0]
    colours = np.stack([values, values // 2, values // 4], -1)
    assert int(pixels(read_image(colours)[0]).max()) == 255
    alpha = np.concatenate([colours, np.full((16, 16, 1), 2**bits - 1, np.uint16)], 2)
    assert np.array_equal(pixels(read_image(alpha)[0]), pixels(read_image(colours)[0]))


def test_flat_sixteen_bits() -> None:
    """An image of one value keeps its brightness, and has no range to note."""
    for value, shown in ((0, 0), (4095, 16), (65535, 255)):
        image, notes = read_image(np.full((4, 4), value, np.uint16))
        assert pixels(image).max() == pixels(image).min() == shown and notes == ()


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


# --- bad images -------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ImageError, match="the given image"):
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
        assert "given image" in str(error)


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
        (np.array([["a"]]), "not an image"),
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


def test_the_sample_photos() -> None:
    """The photos that come with the package are read."""
    assert {name: load_image(path).size for name, path in samples().items()} == {
        "espresso": (600, 400),
        "cat": (451, 300),
    }
