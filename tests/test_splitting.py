"""chain and split: the composition is the model, cuts are where they are said to be, errors say what to do."""

from __future__ import annotations

import copy
import gc
import io
import operator
import pickle
import random
import threading
import weakref
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import grad_cam
from grad_cam.splitting import Split, SplitError, layer_table


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """The model's own answer in eval mode."""
    with torch.no_grad():
        return model(x.clone())


def test_stages_are_the_top_level_children(cnn: nn.Module) -> None:
    """The chain of depth 1 has one stage per child, and they are the user's own modules."""
    chain = grad_cam.chain(cnn, (64, 64))
    assert chain.names == ("conv", "relu", "layer1", "down", "layer2", "pool", "dropout", "fc")
    assert chain["layer1"] is cnn.layer1
    assert chain["conv"] is cnn.conv


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_chain_is_the_model_at_any_batch_size(cnn: nn.Module, vit: nn.Module, size: int) -> None:
    """Composition of the stages equals the model bit for bit, whatever the batch size."""
    x = torch.randn(size, 3, 64, 64)
    for model in (cnn, vit):
        for depth in (1, 2, 3):
            with torch.no_grad():
                assert torch.equal(grad_cam.chain(model, (64, 64), depth)(x.clone()), logits(model, x))


def test_every_layer_idx_and_path_is_exact(cnn: nn.Module, vit: nn.Module, batch: Tensor) -> None:
    """classifier(extractor(x)) equals the model at every cut there is, in residual branches too."""
    for model in (cnn, vit):
        chain = grad_cam.chain(model, (64, 64))
        cuts: list[int | str] = list(range(1, len(chain)))
        cuts += [name for name, _ in model.named_modules() if name]
        exact = 0
        for cut in cuts:
            try:
                extractor, classifier = chain.split(cut)
            except ValueError as error:
                assert "not called" in str(error) or "logits" in str(error) or "handed on" in str(error), error
                continue
            with torch.no_grad():
                assert torch.equal(classifier(extractor(batch.clone())), logits(model, batch)), cut
            exact += 1
        assert exact > 20


def test_layer_idx_counts_the_stages_of_the_classifier(cnn: nn.Module) -> None:
    """layer_idx is the number of stages left to the classifier."""
    cut = grad_cam.split(cnn, 3, (64, 64))
    assert (cut.name, cut.layer_idx, len(cut.extractor), len(cut.classifier)) == ("layer2", 3, 5, 3)
    assert isinstance(cut, Split)
    assert grad_cam.split(cnn, "layer2", (64, 64)).layer_idx == 3
    assert grad_cam.split(cnn, cnn.layer2, (64, 64)).name == "layer2"
    assert grad_cam.split(cnn, "layer2.1", (64, 64)).layer_idx == 3


def test_cut_in_a_residual_branch_hands_over_context(cnn: nn.Module, vit: nn.Module, batch: Tensor) -> None:
    """Inside a branch the shortcut travels along, and the gradient there is what a hook would see."""
    for model, path in ((cnn, "layer2.1.conv1"), (vit, "blocks.2.norm1")):
        cut = grad_cam.split(model, path, (64, 64))
        assert cut.context == 1
        seen: dict[str, Tensor] = {}
        handle = model.get_submodule(path).register_forward_hook(lambda m, i, o, seen=seen: seen.update(out=o))
        score = model(batch.clone())[:, 1].sum()
        handle.remove()
        (wanted,) = torch.autograd.grad(score, seen["out"])
        with torch.no_grad():
            activation, context = cut.extractor(batch.clone())
        leaf = activation.clone().requires_grad_()
        (got,) = torch.autograd.grad(cut.classifier((leaf * 1, context.clone()))[:, 1].sum(), leaf)
        assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-7)


def test_depth_opens_stages_into_blocks(cnn: nn.Module, vit: nn.Module) -> None:
    """Larger depths name the blocks by their paths; residual blocks stay whole."""
    assert "layer1.0" in grad_cam.chain(cnn, (64, 64), 2).names
    assert grad_cam.chain(cnn, (64, 64), 3).names == grad_cam.chain(cnn, (64, 64), 2).names
    assert "blocks.2" in grad_cam.chain(vit, (64, 64), 2).names


def test_state_dict_of_a_deep_chain_has_the_models_keys(vit: nn.Module) -> None:
    """The stages carry module paths as names, so the chain's parameters are named as the model's."""
    chain = grad_cam.chain(vit, depth=2)
    assert set(chain.state_dict()) >= {"blocks.0.norm1.weight", "head.weight"}


class TwoStreams(nn.Module):
    """Two tensors are alive between its children, and it joins them at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 5, 2, 2)
        self.c = nn.Conv2d(4, 4, 3, 2, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        left, right = self.a(x), self.b(x)
        return self.fc(self.c(left * right).mean((2, 3)))


def test_children_that_share_no_border_are_joined() -> None:
    """Children between which no single tensor can be handed over form one stage named after both."""
    chain = grad_cam.chain(TwoStreams().eval(), (32, 32))
    assert chain.names == ("a+b + mul", "c", "fc")


class Reordered(nn.Module):
    """Its forward runs the children in another order than they were registered, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)
        self.act = nn.ReLU(inplace=True)
        self.second, self.first = nn.Conv2d(6, 6, 3, 2, 1), nn.Conv2d(3, 6, 3, 2, 1)
        self.unused = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        batch = x.shape[0]
        x = self.act(self.first(x)) * self.scale.expand(len(x), -1, -1, -1)
        if x.shape[2] > 1:
            x = self.act(self.second(x))
        return self.head(x.view(batch, 6, -1).mean(-1))


def test_order_and_glue_come_from_forward_not_from_registration() -> None:
    """Reordered, repeated and unused children, parameters in forward and shape arithmetic are all followed."""
    model = Reordered().eval()
    chain = grad_cam.chain(model, (32, 32))
    assert chain.names == ("first", "act@1", "second", "act", "head")
    for size in (1, 4):
        x = torch.randn(size, 3, 32, 32)
        for k in range(1, 5):
            extractor, classifier = chain.split(k)
            with torch.no_grad():
                assert torch.equal(classifier(extractor(x.clone())), logits(model, x))


class Swinging(nn.Module):
    """Branches on the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.conv(x)
        if x.abs().sum() > 0:
            x = x * 2
        return self.fc(x.mean((2, 3)))


class Counting(nn.Module):
    """Uses the number of images in a way that is no multiple of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        count = 1 / float(str(int(x.shape[0])))
        x = self.conv(x)
        return self.fc(x.mean((2, 3)) * count)


def test_data_dependent_python_is_refused_with_the_modules_name() -> None:
    """A forward that branches on the picture cannot be one chain: the error says which module and why."""
    with pytest.raises(SplitError, match=r"own forward cannot be followed.*Python values"):
        grad_cam.chain(Swinging().eval(), (16, 16))


def test_numbers_that_are_no_multiple_of_the_batch_are_refused() -> None:
    """Two records cannot tell how a number depends on the batch unless it is a multiple: the operation is named."""
    with pytest.raises(SplitError, match=r"another number of images.*'mul'") as caught:
        grad_cam.chain(Counting().eval(), (16, 16))
    assert "gradient methods" in caught.value.remedy
    x = torch.randn(3, 3, 16, 16)
    model = Counting().eval()
    assert torch.equal(grad_cam.explain(model, x, layer="conv").logits, logits(model, x))


class Noisy(nn.Module):
    """Adds noise in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.fc(self.conv(x).mean((2, 3)) + torch.randn(1))


def test_a_random_forward_is_named_and_leaves_the_generator_alone() -> None:
    """Logits that differ from run to run cannot be checked; the global generator is left as it was."""
    model = Noisy().eval()
    before = torch.get_rng_state()
    with pytest.raises(SplitError, match=r"draws random numbers.*randn"):
        grad_cam.chain(model, (16, 16))
    assert torch.equal(torch.get_rng_state(), before)


class BesideAnotherThread(nn.Module):
    """Another thread draws a random number during its forward; `used` says whether that goes into the logits."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.conv, self.fc, self.used = nn.Conv2d(3, 4, 3, stride=4), nn.Linear(4, 5), used

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        drawn: list[float] = []
        other = threading.Thread(target=lambda: drawn.append(random.random()))
        other.start()
        other.join()
        return self.fc(self.conv(x).mean((2, 3)) + (drawn[0] if self.used else 0))


def test_random_numbers_of_another_thread_are_not_the_models() -> None:
    """A server draws random numbers while a model is opened; a forward that uses such a number is still refused."""
    assert len(grad_cam.chain(BesideAnotherThread(False).eval(), (16, 16))) == 2
    with pytest.raises(SplitError, match="draws random numbers"):
        grad_cam.chain(BesideAnotherThread(True).eval(), (16, 16))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (0, "use 1..7"),
        (-1, "use 1..7"),
        (8, "nothing to extract from: TinyNet has 8 stages"),
        (99, "grad_cam.chain"),
        ("layer3", "closest: layer"),
        ("2", r"text; a layer_idx is a number\); layer=2"),
        ("fc", "gives the logits"),
        ("layer1.0.bnn", "closest: layer1.0.bn"),
    ],
)
def test_layers_that_are_not_there(cnn: nn.Module, layer: int | str, message: str) -> None:
    """Wrong layers raise ValueError with the range or the closest names."""
    with pytest.raises(ValueError, match=message):
        grad_cam.split(cnn, layer, (64, 64))


def test_wrong_types_are_named(cnn: nn.Module) -> None:
    """What is not a model, a layer, a depth or an example is refused."""
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        grad_cam.chain("resnet18")
    with pytest.raises(TypeError, match="layer_idx"):
        grad_cam.split(cnn, 2.5, (64, 64))
    with pytest.raises(TypeError, match="layer_idx"):
        grad_cam.split(cnn, True, (64, 64))
    with pytest.raises(ValueError, match="not a module inside"):
        grad_cam.split(cnn, nn.Linear(2, 2), (64, 64))
    with pytest.raises(ValueError, match="depth=0"):
        grad_cam.chain(cnn, (64, 64), 0)
    with pytest.raises(ValueError, match="batch"):
        grad_cam.chain(cnn, torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match=r"refuses a batch of shape \(2, 4, 64, 64\)"):
        grad_cam.chain(cnn, torch.zeros(2, 4, 64, 64))
    with pytest.raises(ValueError, match=r"refuses.*64x64"):
        grad_cam.chain(
            timm.models.VisionTransformer(img_size=64, patch_size=16, embed_dim=24, depth=1, num_heads=2), 48
        )


def test_the_record_is_kept_and_renewed_when_the_model_changes(cnn: nn.Module, batch: Tensor) -> None:
    """The same model is recorded once; weights changed in place are seen, exchanged modules recorded anew."""
    first = grad_cam.chain(cnn, (64, 64))
    assert grad_cam.chain(cnn, (64, 64)).cutter.record is first.cutter.record
    with torch.no_grad():
        cnn.fc.weight.mul_(2)
        assert torch.equal(grad_cam.chain(cnn, (64, 64))(batch.clone()), logits(cnn, batch))
    assert torch.allclose(grad_cam.explain(cnn, batch).logits, logits(cnn, batch), atol=1e-6)
    cnn.fc = nn.Linear(12, 3)
    assert grad_cam.chain(cnn, (64, 64)).cutter.record is not first.cutter.record
    assert grad_cam.explain(cnn, batch).logits.shape == (3, 3)
    cnn.double()
    assert grad_cam.chain(cnn, (64, 64))(batch.double()).dtype == torch.float64


def test_a_model_that_is_gone_is_not_kept_alive(batch: Tensor) -> None:
    """What is remembered of a model goes with it."""
    model = timm.models.VisionTransformer(img_size=64, patch_size=16, embed_dim=24, depth=2, num_heads=2).eval()
    gone = weakref.ref(model)
    grad_cam.explain(model, batch)
    grad_cam.split(model, "blocks.1.norm1")
    grad_cam.sweep(model, batch, layers="blocks")
    del model
    gc.collect()
    assert gone() is None


def test_the_model_is_left_as_found(cnn: nn.Module) -> None:
    """Recording and cutting leave flags, attributes, hooks and buffers of every module alone."""
    cnn.train()
    cnn.layer1.eval()
    cnn.fc.weight.requires_grad_(False)
    before = {n: (m.training, set(m.__dict__), list(m._forward_hooks)) for n, m in cnn.named_modules()}
    state = {k: v.clone() for k, v in cnn.state_dict().items()}
    grad_cam.chain(cnn, (64, 64), 2).split("layer2.0.conv1")
    after = {n: (m.training, set(m.__dict__), list(m._forward_hooks)) for n, m in cnn.named_modules()}
    assert after == before
    assert all(torch.equal(v, state[k]) for k, v in cnn.state_dict().items())
    assert not cnn.fc.weight.requires_grad
    assert cnn.conv.weight.requires_grad


def test_wrappers_are_looked_through(cnn: nn.Module, batch: Tensor) -> None:
    """DataParallel and torch.compile wrappers give the chain of the model inside."""
    for wrapped in (nn.DataParallel(cnn), torch.compile(cnn)):
        assert grad_cam.chain(wrapped, (64, 64)).names == grad_cam.chain(cnn, (64, 64)).names


def test_print_shows_what_one_needs_to_choose(vit: nn.Module) -> None:
    """The printed chain has layer_idx, names, shapes, layouts, grids, and why no map can be drawn."""
    text = str(grad_cam.chain(vit))
    assert "layer_idx" in text
    assert "17x24" in text
    assert "tokens+1" in text
    assert "4x4" in text
    assert "gradient at the patches is zero" in text
    assert "no spatial axes" in text
    assert "PatchEmbed" in str(grad_cam.chain(vit).split(3).extractor)


def test_default_split_is_the_last_map_with_a_gradient(cnn: nn.Module, vit: nn.Module) -> None:
    """The last feature map of a CNN, the cut before the last block of a class-token ViT, the norm before a mean."""
    assert grad_cam.chain(cnn, (64, 64)).default_split().name == "layer2"
    assert grad_cam.chain(vit).default_split().name == "blocks.1"
    pooled = timm.models.VisionTransformer(
        img_size=64,
        patch_size=16,
        embed_dim=24,
        depth=2,
        num_heads=2,
        num_classes=3,
        class_token=False,
        global_pool="avg",
    )
    assert grad_cam.chain(pooled).default_split().name in ("norm", "blocks")


def test_a_head_of_zeros_does_not_hide_the_dead_cuts(vit: nn.Module) -> None:
    """With a zero-initialised head every gradient is zero; the default layer is found all the same."""
    nn.init.zeros_(vit.head.weight)
    assert grad_cam.chain(vit).default_split().name == "blocks.1"


def test_non_square_inputs_and_half_precision(cnn: nn.Module) -> None:
    """The size may be rectangular, and device and dtype follow the model."""
    assert grad_cam.chain(cnn, (64, 96)).stages[4].layout.grid == (8, 12)
    chain = grad_cam.chain(cnn.to(torch.bfloat16), (64, 64))
    x = torch.randn(2, 3, 64, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(chain(x.clone()), logits(cnn, x))


class _Pooled(nn.Module):
    """Operations between its modules, among them one that torch defines inside another function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.full((), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.first(x).relu() * self.scale, 2)
        return self.head((x[..., 1:, 1:] + self.second(functional.pad(x, (0, 1, 0, 1)))).mean((2, 3)))


def _through(how: str, value: Any) -> Any:
    if how == "deepcopy":
        return copy.deepcopy(value)
    if how == "pickle":
        return pickle.loads(pickle.dumps(value))
    memory = io.BytesIO()
    torch.save(value, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=False)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("name", ["pooled", "resnet10t", "vit_tiny_patch16_224"])
def test_chains_and_halves_survive_being_saved(name: str, how: str) -> None:
    """Chains, splits and halves give the same logits, bit for bit, after a round trip, and can still be cut."""
    torch.manual_seed(0)
    model = (_Pooled() if name == "pooled" else timm.create_model(name, num_classes=5)).eval()
    images = torch.randn(2, 3, 224 if "vit" in name else 64, 224 if "vit" in name else 64)
    with torch.no_grad():
        made = grad_cam.chain(model, images)
        halves = grad_cam.split(model, 1 if name == "pooled" else 2, images)
        wanted, handed = made(images), halves.extractor(images)
        again = _through(how, made)
        assert torch.equal(again(images), wanted)
        assert str(again) == str(made)
        assert again.names == made.names
        assert again.model is not model
        assert torch.equal(again.split(1).classifier(again.split(1).extractor(images)), wanted)
        cut = _through(how, halves)
        assert repr(cut) == repr(halves)
        assert "\n" not in repr(cut)
        assert torch.equal(cut.classifier(cut.extractor(images)), wanted)
        extractor, classifier = _through(how, halves.extractor), _through(how, halves.classifier)
        first = handed if isinstance(handed, Tensor) else handed[0]
        got = extractor(images)
        assert torch.equal(got if isinstance(got, Tensor) else got[0], first)
        assert torch.equal(classifier(handed), wanted)


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
def test_a_chain_with_a_nameless_output_says_why_it_cannot_be_saved(how: str) -> None:
    """A lambda cannot be found again by its name; a copy, which needs no name, still works."""
    model, images = _Pooled().eval(), torch.randn(2, 3, 32, 32)
    made = grad_cam.chain(model, images, output=lambda out: out)
    with pytest.raises(SplitError, match="output function") as caught:
        _through(how, made)
    assert "lambda" in caught.value.given
    assert caught.value.remedy
    assert torch.equal(_through("deepcopy", made)(images), made(images))
    named = _through(how, grad_cam.chain(model, images, output=operator.pos))
    assert named.output is operator.pos
    assert torch.equal(named.split(1).extractor(images), made.split(1).extractor(images))


def test_the_layer_table_lists_layers_of_a_model_that_cannot_be_cut() -> None:
    """Every row that carries a map can be explained by its name, also where `chain` refuses the model."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            if float(x.mean()) > 100:
                x = x * 2
            return self.head(self.second(x).mean((2, 3)))

    model, images = Branching().eval(), torch.randn(2, 3, 32, 32)
    with pytest.raises(grad_cam.SplitError):
        grad_cam.chain(model, images)
    rows = layer_table(model, images)
    named = [row.name for row in rows if row.layout is not None and not row.note]
    assert named
    for name in named:
        assert torch.isfinite(grad_cam.explain(model, images, layer=name).map).all()
    resnet = timm.create_model("resnet10t", num_classes=5)
    flat = layer_table(resnet, (64, 64))
    assert flat == grad_cam.chain(resnet, (64, 64)).stages
    deep = layer_table(resnet, (64, 64), 2)  # the blocks have no number but where a stage ends
    assert {row.layer_idx for row in deep} - {None} == {row.layer_idx for row in flat} and len(deep) > len(flat)


_SEEN: list[int] = []


def _see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    _SEEN.append(len(args[0]))


@pytest.mark.parametrize("name", ["pit_ti_224", "cait_xxs24_224", "gmlp_ti16_224", "vit_tiny_patch16_224"])
def test_a_first_explanation_runs_the_images_through_the_model_once(name: str) -> None:
    """The default cut is found and differentiated on what the one recorded pass left, also with a head of zeros."""
    model = timm.create_model(name, num_classes=5).eval()
    next(m for m in model.modules() if isinstance(m, nn.Conv2d)).register_forward_pre_hook(_see)
    _SEEN.clear()
    grad_cam.explain(model, torch.randn(1, 3, 224, 224), method="grad_cam")
    assert _SEEN == [1]


class HandedOn(nn.Module):
    """Additions in place in the forward itself, between modules that hand on what they get, as MobileOne's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.drop, self.attention, self.act = nn.Identity(), nn.Identity(), nn.ReLU()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        y += self.two(x)
        y = self.drop(y)
        y += 0  # where a branch is missing
        return self.head(self.act(self.attention(y)))


def test_one_tensor_under_several_names() -> None:
    """Cuts at the same tensor are met in one run, and their maps are the same."""
    torch.manual_seed(0)
    model, images = HandedOn().eval(), torch.randn(2, 3, 8, 8)
    chain = grad_cam.chain(model, (8, 8), depth=4)
    names = [info.name for info in chain.stages]
    assert names[:3] == ["one+two + add", "drop", "attention"]
    for _ in range(2):  # the second call runs the model's forward
        both = grad_cam.explain(model, images, layer=[*names[:2], "act"], target=1, method="grad_cam")
        maps = [one.map for one in both]
        assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])
        alone = grad_cam.explain(model, images, layer="drop", target=1, method="grad_cam")
        assert torch.equal(alone.map, maps[1])
