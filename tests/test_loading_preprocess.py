"""How the images of a model are prepared, read off the model, and turned back into images to show."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode

from grad_cam.errors import GradCamError
from grad_cam.loading import ImageError, Preprocessing, preprocessing
from grad_cam.loading.preprocess import IMAGENET_MEAN, IMAGENET_STD

from .test_loading_images import photo, pixels
from .test_loading_processors import Told

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
    if getattr(transform.transforms[0], "interpolation", InterpolationMode(interpolation)).value != interpolation:
        pytest.skip("this version of timm resizes for an oblong input bilinearly, whatever is asked for")
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


SEGMENTERS = ["deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "fcn_resnet101", "lraspp_mobilenet_v3_large"]


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters_see_what_torchvision_shows_them(name: str) -> None:
    """Their shorter edge is 520 and nothing is cut off, with any number of classes; a size that is given wins."""
    from torchvision import models

    with torch.device("meta"):
        model = models.get_model(name, weights=None, weights_backbone=None, num_classes=5)
    transform = models.get_model_weights(name).DEFAULT.transforms()
    prepare = preprocessing(model)
    for image in (photo(660, 540), photo(300, 440)):
        tensor, view = prepare(image)
        assert torch.equal(tensor[0], transform(image))
        assert min(view.size) == 520 and view.size == tensor.shape[:1:-1]
        assert prepare.used_box(image) == (0, 0, *image.size) and prepare.frame(image) == (0, 0, *image.size)
        assert prepare.used_note(image) is None and prepare.whole(image).picture is None
        geometry = prepare.geometry(image)
        assert (geometry.start, geometry.stop) == ((0, 0), (image.height, image.width))
    assert preprocessing(model, 130)(photo(660, 540))[0].shape == (1, 3, 130, 158)
    assert preprocessing(model, (128, 96))(photo(660, 540))[0].shape == (1, 3, 128, 96)
    assert preprocessing(model, crop=False) == prepare
    with pytest.raises(GradCamError, match="the view is 224 x 300"):
        prepare.tensor(photo(300, 224))


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
    if name.startswith("maxvit") and not hasattr(model, "img_size"):
        pytest.skip("this version of timm keeps the size of a MaxViT nowhere")
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


# --- views and batches ------------------------------------------------------------------------------------------------


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


# --- how much of an image is used -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.8, 1.0, 1.15])
@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (301, 40), (64, 64), (500, 333)])
def test_the_part_that_is_used(mode: str, crop_pct: float, shape: tuple[int, int]) -> None:
    """The box is what reaches the view: drawn over, nothing of it is seen; left alone, nothing else is."""
    prepare = Preprocessing((64, 48), interpolation="box", crop_pct=crop_pct, crop_mode=mode, mean=(0.0,) * 3)
    black = Image.new("RGB", shape)
    left, top, right, bottom = prepare.used_box(black)
    outside, inside = Image.new("RGB", shape, "white"), Image.new("RGB", shape)
    margin = max(2, -(-max(shape) // 20))  # of pixels that share the edge
    outside.paste("black", (left - margin, top - margin, right + margin, bottom + margin))
    assert pixels(prepare.view(outside)).max() == 0
    for box in ((left, top, left + 1, bottom), (right - 1, top, right, bottom), (left, bottom - 1, right, bottom)):
        inside.paste("white", box)
        assert pixels(prepare.view(inside)).max() > 0
        inside.paste("black", box)
    fraction = (right - left) * (bottom - top) / (shape[0] * shape[1])
    assert prepare.used_fraction(black) == pytest.approx(fraction) and 0 < fraction <= 1


def test_a_wide_photo() -> None:
    """A photo of 8:1 is used by an eighth, and the note says so; without the crop all of it is used, padded."""
    model, wide = nn.Sequential(nn.Conv2d(3, 4, 3)), photo(1600, 200)
    found = preprocessing(model)
    assert found.used_box(wide) == (700, 0, 900, 200) and found.used_fraction(wide) == 0.125
    assert found.used_note(wide) == "12 % of the photo was used"
    whole = preprocessing(model, crop=False)
    tensor, view = whole(wide)
    assert tensor.shape == (1, 3, 224, 224) and whole.used_fraction(wide) == 1
    assert whole.used_note(wide) == "the whole photo was used, padded to 224 x 224"
    expected = wide.resize((224, 28), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels(view)[98:126], pixels(expected))
    assert (pixels(view)[:98] == np.round(np.multiply(IMAGENET_MEAN, 255))).all()


def test_the_whole_photo_with_the_unused_part_dimmed() -> None:
    """What is used keeps its brightness, what is cut off is darker; where all is used there is no picture."""
    prepare, wide = Preprocessing(), Image.new("RGB", (1600, 200), (200, 100, 50))
    picture, note = prepare.whole(wide)
    assert note == "12 % of the photo was used"
    shown = pixels(picture)
    assert shown.shape == (112, 900, 3)  # at most 900 pixels wide
    assert (shown[5:-5, 400:500] == (200, 100, 50)).all()
    assert (shown[:, :390] <= (90, 45, 25)).all() and (shown[:, -390:] <= (90, 45, 25)).all()
    assert prepare.whole(Image.new("RGB", (50, 50))) == (None, "")
    padded = preprocessing(nn.Sequential(nn.Conv2d(3, 4, 3)), crop=False).whole(wide)
    assert padded == (None, "the whole photo was used, padded to 224 x 224")


@pytest.mark.parametrize("size", [(2000, 1), (1, 2000), (3, 1), (5000, 30)])
def test_the_whole_of_a_thread_of_a_photo(size: tuple[int, int]) -> None:
    """However thin a photo is, the part that is used has a pixel of its own."""
    picture, note = Preprocessing((32, 32)).whole(Image.new("RGB", size, "white"))
    assert note.endswith("% of the photo was used") and pixels(picture).max() == 255
    assert max(picture.size) == min(max(size), 900) and min(picture.size) >= 1


def test_what_is_kept_whole_anyway() -> None:
    """Where nothing is cut off, `crop=False` changes nothing, and a photo in the model's proportions needs no note."""
    squash = Preprocessing(crop_mode="squash")
    assert squash.uncropped() is squash and Preprocessing().uncropped().crop_mode == "border"
    assert squash.used_note(photo(400, 200)) == (
        "the whole photo was used, resized without keeping its proportions to 224 x 224"
    )
    assert squash.used_note(photo(300, 300)) is None and Preprocessing().used_note(photo(50, 50)) is None
    cropped = Preprocessing(crop_mode="squash", crop_pct=0.5)
    assert cropped.used_fraction(photo(400, 200)) == pytest.approx(0.25, abs=0.01)
    assert cropped.uncropped().used_fraction(photo(400, 200)) == 1
    model = nn.Identity()
    model.preprocessing = Preprocessing((32, 40), crop_pct=0.875)
    assert preprocessing(model, crop=False) == Preprocessing((32, 40), crop_mode="border")
