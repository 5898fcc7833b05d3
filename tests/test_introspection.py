"""What is read off a model: wrappers, input size and channels, prefix tokens, classes, device and dtype."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from grad_cam import introspection
from grad_cam.introspection import (
    as_size,
    class_count,
    declared_channels,
    declared_class_count,
    declared_size,
    device_and_dtype,
    input_channels,
    input_channels_source,
    input_description,
    input_size,
    input_size_source,
    prefix_tokens,
    torchvision_weights,
    unwrap,
)
from grad_cam.loading import Preprocessing, preprocessing


def made(name: str, **settings: object) -> nn.Module:
    """A timm model without memory for its weights."""
    with torch.device("meta"):
        return timm.create_model(name, **settings)


def torchvision_model(name: str, **settings: object) -> nn.Module:
    """A torchvision model without memory for its weights."""
    from torchvision import models

    with torch.device("meta"):
        return models.get_model(name, weights=None, **settings)


def hugging_face(kind: str, **settings: object) -> nn.Module:
    """A Hugging Face classifier of a kind, without memory for its weights."""
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        return getattr(transformers, f"{kind}ForImageClassification")(
            getattr(transformers, f"{kind}Config")(**settings)
        )


class Around(nn.Module):
    """A classifier of one's own around a network."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(8, 2)


class Configured(nn.Module):
    """A module with a configuration and no layers."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.config = config


# ------------------------------------------------------------------------------------------------------------ wrappers


def test_unwrap_in_any_nesting(cnn: nn.Module) -> None:
    """Every kind of wrapper is looked through, one in another too."""
    averaged = torch.optim.swa_utils.AveragedModel(cnn)
    wrappers = [nn.DataParallel(cnn), torch.compile(cnn), nn.DataParallel(torch.compile(cnn))]
    assert all(unwrap(wrapper) is cnn for wrapper in wrappers)
    assert unwrap(averaged) is averaged.module
    assert unwrap(torch.compile(nn.DataParallel(averaged))) is averaged.module


def test_unwrap_leaves_other_modules(cnn: nn.Module) -> None:
    """A module of one's own with a child called `module` is no wrapper, and neither is any other."""
    own = nn.Module()
    own.module = cnn
    assert unwrap(own) is own and unwrap(cnn) is cnn


def test_unwrap_timms_averages(cnn: nn.Module) -> None:
    """timm's moving average of a model gives the averaged model."""
    ema = timm.utils.ModelEmaV3(cnn)
    assert unwrap(ema) is ema.module


# ---------------------------------------------------------------------------------------------------------- input size


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (96, (96, 96)), ((96, 64), (96, 64)), ([96, 64], (96, 64)), ((3, 96, 64), (96, 64)), ([96], (96, 96)),
        ({"height": 96, "width": 64}, (96, 64)), ({"shortest_edge": 96}, (96, 96)),
        (None, None), (0, None), (True, None), ("96", None), ((), None), ({}, None), (96.0, None), ((96, 0), None),
        ((1, 3, 96, 64), None),
    ],
)  # fmt: skip
def test_as_size(value: object, size: tuple[int, int] | None) -> None:
    """All the ways in which configurations write a size are read, and nothing else is taken for one."""
    assert as_size(value) == size


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_b2", "inception_v3", "vit_small_patch14_dinov2"])
def test_size_of_timm_models(name: str) -> None:
    """timm's configuration, or what the patch embedding was built for, says the size."""
    model = made(name)
    assert input_size(model) == tuple(model.pretrained_cfg["input_size"][1:])
    assert input_size_source(model).endswith(("pretrained_cfg", "patch_embed.img_size"))


def test_size_of_timm_models_set_to_another() -> None:
    """What a model was built for or set to wins over its configuration."""
    model = made("vit_tiny_patch16_224", img_size=(96, 64), depth=1)
    assert input_size(model) == (96, 64) and input_size_source(model) == "model.patch_embed.img_size"
    with torch.device("meta"):
        model.set_input_size(img_size=128)
    assert input_size(model) == (128, 128)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("efficientnet_b1", 240), ("efficientnet_b3", 300), ("efficientnet_b7", 600), ("efficientnet_v2_s", 384),
        ("swin_v2_t", 256), ("inception_v3", 299), ("resnet50", 224), ("vit_b_32", 224), ("maxvit_t", 224),
    ],
)  # fmt: skip
def test_size_of_torchvision_models(name: str, side: int) -> None:
    """torchvision's weights of the architecture say the size, recognised without the name and with other classes."""
    for model in (torchvision_model(name), torchvision_model(name, num_classes=5)):
        assert input_size(model) == (side, side) == preprocessing(model).size
        assert "Weights." in input_size_source(model) or input_size_source(model) == "model.image_size"


def test_size_of_a_torchvision_model_built_for_another() -> None:
    """A torchvision ViT says itself what it was built for."""
    model = torchvision_model("vit_b_16", image_size=64)
    assert input_size(model) == (64, 64) and input_size_source(model) == "model.image_size"


def test_a_torchvision_network_without_its_last_layer() -> None:
    """A network whose classifier was taken off, inside another, still says what it was made for."""
    backbone = torchvision_model("efficientnet_b3")
    backbone.classifier[1] = nn.Identity()
    assert input_size(Around(backbone)) == (300, 300)
    assert [str(each) for each in torchvision_weights(backbone)] == ["EfficientNet_B3_Weights.IMAGENET1K_V1"]


def test_torchvision_where_it_cannot_be_told() -> None:
    """Networks of one's own depth and parts declare a size only where all weights agree."""
    from torchvision.models import efficientnet_b0, resnet

    shallow = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1])
    assert input_size(shallow) == (224, 224) and "each of torchvision's weights" in input_size_source(shallow)
    changed = efficientnet_b0()
    changed.features[1] = nn.Identity()
    for model in (changed, nn.Sequential(efficientnet_b0().features)):
        assert input_size(model) == (224, 224) and input_size_source(model) is None


HUGGING_FACE = [
    ("ViT", {"image_size": 64}, (64, 64), "model.config.image_size"),
    ("PvtV2", {"image_size": (64, 96)}, (64, 96), "model.config.image_size"),
    ("Hiera", {"image_size": [64, 64]}, (64, 64), "model.config.image_size"),
    ("CLIP", {"vision_config": {"image_size": 96}}, (96, 96), "model.config.vision_config.image_size"),
    ("Siglip", {"vision_config": {"image_size": 64}}, (64, 64), "model.config.vision_config.image_size"),
]


@pytest.mark.parametrize(("kind", "settings", "size", "source"), HUGGING_FACE)
def test_size_of_hugging_face_models(kind: str, settings: dict, size: tuple[int, int], source: str) -> None:
    """The configuration of a Hugging Face model, or the one of vision inside it, says the size."""
    model = hugging_face(kind, **settings)
    assert input_size(model) == size and input_size_source(model) == source
    assert preprocessing(model).size == size


@pytest.mark.parametrize(
    ("config", "size", "source"),
    [
        (SimpleNamespace(image_size={"height": 48, "width": 32}), (48, 32), "model.config.image_size"),
        (SimpleNamespace(a_config={"b_config": {"image_size": 48}}), (48, 48),
         "model.config.a_config.b_config.image_size"),
        (SimpleNamespace(a_config=SimpleNamespace(image_size=32), vision_config={"image_size": 48}), (48, 48),
         "model.config.vision_config.image_size"),
        ({"img_size": [48, 32]}, (48, 32), "model.config.img_size"),
        (SimpleNamespace(text_config={"image_size": 48}), (224, 224), None),
        (SimpleNamespace(image_size=None), (224, 224), None),
        (SimpleNamespace(model_type="perceiver", image_size=56), (224, 224), None),
        (None, (224, 224), None),
    ],
)  # fmt: skip
def test_nested_configurations(config: object, size: tuple[int, int], source: str | None) -> None:
    """Configurations are searched to any depth, those of vision first and those of text not at all."""
    model = Configured(config)
    assert (input_size(model), input_size_source(model)) == (size, source)


def test_configurations_in_a_circle() -> None:
    """A configuration that holds itself ends the search."""
    config = SimpleNamespace()
    config.inner_config = config
    assert declared_size(Configured(config)) is None


def test_a_processor_wins_over_the_configuration() -> None:
    """What an image processor makes is what the model sees."""
    model = Configured(SimpleNamespace(image_size=224))
    model.image_processor = SimpleNamespace(size={"shortest_edge": 256}, crop_size=[96, 64], do_center_crop=True)
    assert input_size(model) == (96, 64) and input_size_source(model) == "model.image_processor"
    model.image_processor.do_center_crop = False
    assert input_size(model) == (256, 256)


def test_the_users_preprocessing_wins() -> None:
    """`model.preprocessing` says size and channels, set on the model, on a wrapper or on a part."""
    model = made("resnet18")
    model.preprocessing = Preprocessing((32, 40), (0.1,), (0.2,), channels=1)
    wrapper = nn.DataParallel(made("resnet18"))
    wrapper.preprocessing = model.preprocessing
    for each in (model, wrapper, nn.DataParallel(model), Around(model)):
        assert input_size(each) == (32, 40) and input_size_source(each).endswith("preprocessing")
    assert input_channels(model) == input_channels(wrapper) == 1
    assert input_channels_source(model) == "model.preprocessing"


def test_a_known_network_inside_ones_own() -> None:
    """The first part that declares a size speaks for a model that does not; the path of the part is given."""
    model = Around(made("tf_efficientnet_b2", num_classes=0))
    assert input_size(model) == (260, 260) and input_size_source(model) == "model.backbone.pretrained_cfg"
    model.img_size = 64
    assert input_size(model) == (64, 64) and input_size_source(model) == "model.img_size"


@pytest.mark.filterwarnings("ignore")
def test_unusual_modules() -> None:
    """Scripted, traced, lazy and quantised models are read like others, or give the defaults."""
    from torchvision.models import resnet18

    plain = nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU()).eval()
    lazy = resnet18()
    lazy.fc = nn.LazyLinear(5)
    for model, channels in (
        (torch.jit.script(plain), 4),
        (torch.jit.trace(plain, torch.zeros(1, 4, 8, 8)), 3),
        (torch.fx.symbolic_trace(plain), 4),
        (lazy, 3),
        (nn.Sequential(torch.ao.nn.quantized.Conv2d(4, 5, 3)), 4),
    ):
        assert input_size(model) == (224, 224) and input_channels(model) == channels
        assert prefix_tokens(model) is None and declared_class_count(model) is None and unwrap(model) is model
        assert device_and_dtype(model) == (torch.device("cpu"), torch.float32)


def test_models_that_declare_no_size(cnn: nn.Module) -> None:
    """A default is returned, and said to be one."""
    for model in (cnn, nn.Identity(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())):
        assert input_size(model) == (224, 224) and input_size_source(model) is None


# ------------------------------------------------------------------------------------------------------------ channels


@pytest.mark.parametrize("channels", [1, 3, 4, 12, 48])
@pytest.mark.parametrize("kind", ["timm", "vit", "own", "adapter"])
def test_channels(kind: str, channels: int) -> None:
    """Models of any number of channels say so, by an attribute or by their first convolution."""
    models = {
        "timm": lambda: made("resnet18", in_chans=channels),
        "vit": lambda: made("vit_tiny_patch16_224", in_chans=channels, depth=1),
        "own": lambda: nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)),
        "adapter": lambda: nn.Sequential(nn.Conv2d(channels, 3, 1), nn.Conv2d(3, 4, 3)),
    }
    model = models[kind]()
    assert input_channels(model) == channels == preprocessing(model).channels
    assert input_channels_source(model) in ("model.in_chans", "model.conv1", "model.0")


def test_channels_of_a_changed_torchvision_model() -> None:
    """A first convolution that was exchanged counts, whatever the weights are for."""
    model = torchvision_model("resnet18")
    model.conv1 = nn.Conv2d(4, 64, 7)
    assert declared_channels(model) == introspection.Declared(4, "model.conv1")


@pytest.mark.parametrize(
    ("config", "channels"),
    [(SimpleNamespace(num_channels=13), 13), (SimpleNamespace(vision_config=SimpleNamespace(num_channels=4)), 4)],
)
def test_channels_of_configurations(config: object, channels: int) -> None:
    """`num_channels` is found at any depth."""
    assert input_channels(Configured(config)) == channels


def test_channels_of_nested_hugging_face_models() -> None:
    """CLIP's vision configuration says the number of channels."""
    model = hugging_face("CLIP", vision_config={"num_channels": 4})
    assert declared_channels(model) == introspection.Declared(4, "model.config.vision_config.num_channels")


def test_folded_pixels() -> None:
    """A stem that folds pixels into channels takes as many as the picture has."""
    for channels in (1, 3, 4):
        model = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(16 * channels, 8, 3))
        assert declared_channels(model) == introspection.Declared(channels, "model.1 after PixelUnshuffle")
    tresnet = made("tresnet_m", in_chans=4)
    del tresnet.in_chans
    assert input_channels(tresnet) == 4


def test_convolutions_registered_out_of_order() -> None:
    """Where the first convolution registered takes features and another takes a picture, that one counts."""

    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.stem = nn.Conv2d(64, 10, 1), nn.Conv2d(3, 64, 3)

    assert declared_channels(Headed()) == introspection.Declared(3, "model.stem")


def test_channels_without_a_convolution() -> None:
    """A model without a convolution is taken to see colours, and nothing is said to say so."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    assert input_channels(model) == 3 and input_channels_source(model) is None
    assert input_channels(nn.Sequential(nn.LazyConv2d(4, 3))) == 3


def test_description() -> None:
    """The clause for error messages names what says what, and is empty where nothing does."""
    assert input_description(made("tf_efficientnet_b2")) == (
        "model.pretrained_cfg says 260x260, model.in_chans says 3 channels"
    )
    assert input_description(nn.Sequential(nn.Conv2d(1, 4, 3))) == "model.0 says 1 channel"
    assert input_description(nn.Identity()) == ""


# -------------------------------------------------------------------------------------------------- tokens and classes


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vit_tiny_patch16_224", 1), ("deit_tiny_distilled_patch16_224", 2), ("vit_small_patch14_reg4_dinov2", 5),
        ("eva02_tiny_patch14_224", 1), ("pit_ti_distilled_224", 2), ("vit_medium_patch16_gap_240", 0),
        ("resnet18", None), ("swin_tiny_patch4_window7_224", None),
    ],
)  # fmt: skip
def test_prefix_tokens_of_timm_models(name: str, count: int | None) -> None:
    """Class, distillation and register tokens of timm's models are counted, also inside another model."""
    model = made(name)
    assert prefix_tokens(model) == prefix_tokens(nn.DataParallel(Around(model))) == count


@pytest.mark.parametrize(
    ("kind", "count"), [("ViT", 1), ("DeiT", 2), ("Dinov2WithRegisters", 5), ("CLIP", 1), ("ResNet", None)]
)
def test_prefix_tokens_of_hugging_face_models(kind: str, count: int | None) -> None:
    """The tokens that Hugging Face models learn are counted."""
    assert prefix_tokens(hugging_face(kind)) == count


def test_prefix_tokens_of_torchvision_and_own_models() -> None:
    """torchvision's ViT has a class token; a model of one's own is read by the names of its parameters."""
    assert prefix_tokens(torchvision_model("vit_b_32")) == 1
    own = nn.Module()
    own.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
    own.register_tokens = nn.Parameter(torch.zeros(1, 4, 8))
    own.mask_token = nn.Parameter(torch.zeros(1, 1, 8))
    own.dist_token = None
    assert prefix_tokens(own) == 5


def test_declared_class_count(cnn: nn.Module) -> None:
    """Only what a model declares counts; no classifier is 0."""
    assert declared_class_count(made("resnet18", num_classes=7)) == 7
    assert declared_class_count(nn.DataParallel(made("resnet18", num_classes=0))) == 0
    assert declared_class_count(torchvision_model("vit_b_32", num_classes=6)) == 6
    assert declared_class_count(cnn) is None


def test_declared_class_count_of_hugging_face_models() -> None:
    """`num_labels` counts for a classifier, not for a network without one, whose configuration says 2."""
    transformers = pytest.importorskip("transformers")
    assert declared_class_count(hugging_face("ViT", num_labels=9)) == 9
    with torch.device("meta"):
        assert declared_class_count(transformers.ViTModel(transformers.ViTConfig())) is None


def test_class_count_where_none_is_declared(cnn: nn.Module) -> None:
    """The outputs of the last layer count where nothing is declared; a model without a classifier has none."""
    assert class_count(nn.DataParallel(cnn)) == cnn(torch.zeros(1, 3, 32, 32)).shape[1]
    assert class_count(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())) == 4
    assert class_count(made("resnet18", num_classes=7)) == 7
    assert class_count(made("resnet18", num_classes=0)) is None and class_count(nn.Identity()) is None


# --------------------------------------------------------------------------------------------------------------- place


def test_device_and_dtype(cnn: nn.Module) -> None:
    """The first floating point parameter or buffer decides, in whatever precision."""
    cpu = torch.device("cpu")
    assert device_and_dtype(cnn) == (cpu, torch.float32)
    assert device_and_dtype(cnn.double()) == (cpu, torch.float64)
    assert device_and_dtype(cnn.bfloat16()) == (cpu, torch.bfloat16)
    assert device_and_dtype(nn.BatchNorm2d(3, affine=False).half()) == (cpu, torch.float16)
    assert device_and_dtype(nn.Identity()) == (cpu, torch.float32)
    assert device_and_dtype(made("resnet18")) == (torch.device("meta"), torch.float32)


def test_device_and_dtype_of_unusual_parameters() -> None:
    """Integers, 8-bit floats and sparse weights."""
    model = nn.Module()
    model.register_buffer("count", torch.zeros(1, dtype=torch.long))
    assert device_and_dtype(model) == (torch.device("cpu"), torch.float32)
    model.packed = nn.Parameter(torch.zeros(4).to(torch.float8_e4m3fn), requires_grad=False)
    assert device_and_dtype(model) == (torch.device("cpu"), torch.float32)
    model.weight = nn.Parameter(torch.eye(3, dtype=torch.float64).to_sparse())
    assert device_and_dtype(model) == (torch.device("cpu"), torch.float64)
