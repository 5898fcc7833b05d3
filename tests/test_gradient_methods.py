"""Gradient methods, three ways: slow loops from the papers, equivalences, independent libraries."""

from __future__ import annotations

import types
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grad_cam.methods import METHODS, Method, MethodError, aug_smooth, eigen_smooth, find, fuse
from grad_cam.methods import gradient as methods
from grad_cam.methods.combinators import contributions

from . import reference

PLAIN = [m for m in METHODS.values() if m.kind == "gradient" and m.ingredients == ("activations", "gradients")]
plain = pytest.mark.parametrize("method", PLAIN, ids=lambda m: m.name)


def pair(batch: int = 3, channels: int = 6, height: int = 4, width: int = 5) -> tuple[Tensor, Tensor]:
    """Activations as after a ReLU, with one dead channel, and signed gradients."""
    generator = torch.Generator().manual_seed(1)
    activations = torch.randn(batch, channels, height, width, generator=generator).relu()
    activations[:, 2] = 0
    return activations, torch.randn(batch, channels, height, width, generator=generator) * 0.1


def close(ours: Tensor, theirs: object, tolerance: float = 1e-5) -> None:
    """Equal up to a fraction of the largest value."""
    theirs = torch.as_tensor(np.asarray(theirs)).double()
    ours = ours.detach().double().cpu()
    assert ours.shape == theirs.shape
    error, largest = float((ours - theirs).abs().max()), float(theirs.abs().max())
    assert error <= tolerance * largest, f"differs by {error} of {largest}"


class Tail(nn.Module):
    """A tail with curvature: convolution, softplus, pooling, linear."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.convolution = nn.Conv2d(channels, 8, 3, padding=1)
        self.linear = nn.Linear(8, 4)

    def forward(self, activations: Tensor) -> Tensor:
        return self.linear(nn.functional.softplus(self.convolution(activations)).mean((2, 3)))


# ------------------------------------------------------------------------------------------- slow loops from the papers


@plain
def test_equals_slow_loop(method: Method) -> None:
    """Every method equals the loop written from its paper (float32 against float64: 1e-5 of the maximum)."""
    activations, gradients = pair()
    slow = getattr(reference, method.name)(activations.double().numpy(), gradients.double().numpy())
    close(method.function(activations, gradients), slow)


def _gradient(tail: nn.Module, k: int = 1):
    def numpy_gradient(array):
        leaf = torch.tensor(array, requires_grad=True)
        return torch.autograd.grad(tail(leaf)[:, k].sum(), leaf)[0].numpy()

    return numpy_gradient


def test_integrated_equals_slow_loop() -> None:
    """Integrated Grad-CAM equals the Riemann sum of slow Grad-CAMs."""
    tail = Tail().double()
    activations = pair()[0].double()
    ours = methods.integrated_grad_cam(activations, methods.gradient_of(lambda a: tail(a)[:, 1]), steps=7)
    close(ours, reference.integrated_grad_cam(activations.numpy(), _gradient(tail), 7), 1e-10)


def test_shapley_equals_finite_differences() -> None:
    """ShapleyCAM's Hessian-vector product equals a difference quotient of the gradient (1e-6: the quotient's error)."""
    tail = Tail().double()
    activations = pair()[0].double()
    ours = methods.shapley_cam(activations, methods.gradient_of(lambda a: tail(a)[:, 1]))
    close(ours, reference.shapley_cam(activations.numpy(), _gradient(tail)), 1e-6)


def test_smooth_equals_slow_loop() -> None:
    """Smooth Grad-CAM++ equals the loop over stored noisy gradients, though it sees them one at a time."""
    activations, gradients = pair()
    noisy = [gradients + 0.05 * torch.randn(gradients.shape) for _ in range(4)]
    slow = reference.smooth_grad_cam_plus_plus(activations.double().numpy(), [g.double().numpy() for g in noisy])
    asked = []
    ours = methods.smooth_grad_cam_plus_plus(
        activations, lambda *a: (asked.append(a), iter(noisy))[1], samples=4, seed=2
    )
    close(ours, slow)
    assert asked == [(4, 0.15, 2)]


# --------------------------------------------------------------------------------------------------------- equivalences


@plain
def test_batch_is_one_by_one(method: Method) -> None:
    """A batch gives what its images give alone."""
    activations, gradients = pair()
    alone = [method.function(a[None], g[None]) for a, g in zip(activations, gradients, strict=True)]
    close(method.function(activations, gradients), torch.cat(alone), 1e-6)


@plain
def test_follows_flips_and_channel_order(method: Method) -> None:
    """A mirrored or transposed input gives a mirrored or transposed map; the order of the channels means nothing."""
    activations, gradients = pair()
    expected = method.function(activations, gradients)
    close(method.function(activations.flip(-1), gradients.flip(-1)), expected.flip(-1), 1e-6)
    close(method.function(activations.mT, gradients.mT), expected.mT, 1e-6)
    order = torch.randperm(activations.shape[1], generator=torch.Generator().manual_seed(0))
    close(method.function(activations[:, order], gradients[:, order]), expected, 1e-6)


@plain
def test_nhwc_strides_change_nothing(method: Method) -> None:
    """A permuted view of channels-last memory gives the same map as contiguous channels-first memory."""
    activations, gradients = pair()
    views = [t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for t in (activations, gradients)]
    close(method.function(*views), method.function(activations, gradients), 1e-6)


@pytest.mark.parametrize("method", [m for m in PLAIN if m.name != "grad_cam_plus_plus"], ids=lambda m: m.name)
def test_scale_of_the_score(method: Method) -> None:
    """A score three times as large gives a map three times as large (not Grad-CAM++: it explains exp(score))."""
    activations, gradients = pair()
    close(method.function(activations, 3 * gradients), 3 * method.function(activations, gradients), 1e-6)


@plain
def test_half_precision_is_computed_in_float32(method: Method) -> None:
    """float16 and bfloat16 give the float32 map of the same values, even where products leave float16's range."""
    activations, gradients = pair()
    for dtype in (torch.float16, torch.bfloat16):
        half, small = (activations * 3000).to(dtype), (gradients * 500).to(dtype)
        ours = method.function(half, small)
        assert ours.dtype == torch.float32
        assert bool(torch.isfinite(ours).all())
        close(ours, method.function(half.float(), small.float()), 1e-6)


@plain
def test_autocast_of_the_caller_changes_nothing(method: Method) -> None:
    """Inside torch.autocast the map is the same float32 map."""
    activations, gradients = pair()
    with torch.autocast("cpu", torch.bfloat16):
        ours = method.function(activations, gradients)
    assert ours.dtype == torch.float32
    close(ours, method.function(activations, gradients), 1e-6)


@plain
def test_inputs_are_left_alone(method: Method) -> None:
    """No method writes into its arguments, and zero gradients give a zero map rather than NaN."""
    activations, gradients = pair()
    before = activations.clone(), gradients.clone()
    method.function(activations, gradients)
    assert torch.equal(activations, before[0])
    assert torch.equal(gradients, before[1])
    assert not method.function(activations, torch.zeros_like(gradients)).any()


def test_grad_cam_is_hires_cam_for_pooled_linear_heads() -> None:
    """With global average pooling and a linear head, Grad-CAM, HiResCAM and XGrad-CAM are the original CAM."""
    activations = pair()[0]
    head = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    leaf = activations.clone().requires_grad_()
    (gradients,) = torch.autograd.grad((leaf.mean((2, 3)) @ head.T)[:, 3].sum(), leaf)
    cam = torch.einsum("k,bkhw->bhw", head[3], activations) / 20
    for name in ("grad_cam", "hires_cam", "xgrad_cam"):
        close(METHODS[name].function(activations, gradients), cam)


def test_linear_tail_leaves_nothing_to_correct() -> None:
    """For a linear tail ShapleyCAM is Grad-CAM, and Integrated Grad-CAM is Grad-CAM times the mean of t."""
    activations = pair()[0]
    gradient = methods.gradient_of(lambda a: a.mean((2, 3)) @ torch.arange(6.0))
    expected = methods.grad_cam(activations, gradient(activations))
    close(methods.shapley_cam(activations, gradient), expected, 1e-6)
    close(methods.integrated_grad_cam(activations, gradient, steps=4), expected * (1 + 2 + 3 + 4) / 16, 1e-6)


def test_smooth_without_noise_is_grad_cam_plus_plus() -> None:
    """Without noise every copy has the same gradient, and Smooth Grad-CAM++ is Grad-CAM++."""
    activations, gradients = pair()
    close(
        methods.smooth_grad_cam_plus_plus(activations, lambda *_: [gradients] * 3),
        methods.grad_cam_plus_plus(activations, gradients),
    )


def test_hires_cam_adds_up() -> None:
    """HiResCAM sums to the score of a tail without bias and without curvature (its completeness)."""
    activations = pair()[0]
    weight = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(3))
    gradients = methods.gradient_of(lambda a: (a * weight).sum((1, 2, 3)))(activations)
    close(methods.hires_cam(activations, gradients).sum((1, 2)), (activations * weight).sum((1, 2, 3)))


# ------------------------------------------------------------------------------------------------ independent libraries

_GIVEN = {  # ours: theirs
    "grad_cam": ("grad_cam", "GradCAM"),
    "grad_cam_plus_plus": ("grad_cam_plusplus", "GradCAMPlusPlus"),
    "xgrad_cam": ("xgrad_cam", "XGradCAM"),
    "hires_cam": ("hirescam", "HiResCAM"),
    "grad_cam_element_wise": ("grad_cam_elementwise", "GradCAMElementWise"),
    "layer_cam": ("layer_cam", "LayerCAM"),
}


def bare(module: str, name: str):
    """An object of a pytorch-grad-cam class without its model and hooks."""
    package = pytest.importorskip(f"pytorch_grad_cam.{module}")
    instance = object.__new__(getattr(package, name))
    instance.activations_and_grads = types.SimpleNamespace(reshape_transform=None, release=lambda: None)
    instance.device = "cpu"
    return instance


@pytest.mark.parametrize("name", list(_GIVEN))
def test_agrees_with_pytorch_grad_cam(name: str) -> None:
    """The same activations and gradients give pytorch-grad-cam's map.

    Tolerance 1e-4, and 5e-3 for Grad-CAM++: it adds 1e-6 to a denominator of 2 g^2, which the gradients here, at least
    0.02, feel by no more than that (see the next test for smaller ones).
    """
    activations, gradients = pair()
    gradients = gradients.where(gradients.abs() > 0.02, 0.02)
    theirs = bare(*_GIVEN[name]).get_cam_image(None, None, None, activations.numpy(), gradients.numpy(), False)
    close(METHODS[name].function(activations, gradients), theirs, 5e-3 if name == "grad_cam_plus_plus" else 1e-4)


def test_small_gradients_differ_on_purpose() -> None:
    """At gradients of 1e-4, usual for a last layer, pytorch-grad-cam's 1e-6 swallows Grad-CAM++; ours keeps eq. 19."""
    activations, gradients = (t.double() for t in pair())
    gradients = gradients * 1e-4
    theirs = bare(*_GIVEN["grad_cam_plus_plus"]).get_cam_image(
        None, None, None, activations.numpy(), gradients.numpy(), False
    )
    slow = reference.grad_cam_plus_plus(activations.numpy(), gradients.numpy())
    close(methods.grad_cam_plus_plus(activations, gradients), slow)
    assert np.abs(theirs - slow).max() > 0.5 * np.abs(slow).max()


def test_shapley_agrees_with_pytorch_grad_cam() -> None:
    """ShapleyCAM's weights are pytorch-grad-cam's for the same graph (1e-5)."""
    tail, activations = Tail(), pair()[0]
    leaf = activations.clone().requires_grad_()
    (graph,) = torch.autograd.grad(tail(leaf)[:, 1].sum(), leaf, create_graph=True)
    weights = bare("shapley_cam", "ShapleyCAM").get_cam_weights(None, None, None, leaf, graph)
    theirs = (weights[:, :, None, None] * activations.numpy()).sum(1)
    close(methods.shapley_cam(activations, methods.gradient_of(lambda a: tail(a)[:, 1])), theirs)


class Small(nn.Module):
    """A whole classifier for the libraries that want a model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.tail = Tail()

    def forward(self, images: Tensor) -> Tensor:
        return self.tail(self.features(images))


@pytest.mark.parametrize(
    ("ours", "theirs"), [("grad_cam", "GradCAM"), ("xgrad_cam", "XGradCAM"), ("layer_cam", "LayerCAM")]
)
def test_agrees_with_torchcam(ours: str, theirs: str) -> None:
    """The positive part of our raw map is torchcam's map without normalisation (1e-5), on a model of its own.

    Its Grad-CAM++ and Smooth Grad-CAM++ are no oracles: the first never applies its denominator, both move the
    activations inside the sum of the third powers.
    """
    extractors = pytest.importorskip("torchcam.methods")
    model, images = Small().eval(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    extractor = getattr(extractors, theirs)(model, "features", input_shape=(3, 8, 8))
    expected = extractor([1, 3], model(images), normalized=False)[0]
    extractor.remove_hooks()
    rows = torch.arange(2), torch.tensor([1, 3])
    with torch.no_grad():
        activations = model.features(images)
    gradients = methods.gradient_of(lambda a: model.tail(a)[rows])(activations)
    close(METHODS[ours].function(activations, gradients).relu(), expected)


def test_agrees_with_captum() -> None:
    """Grad-CAM with its sign is captum's LayerGradCam (1e-5)."""
    captum = pytest.importorskip("captum.attr")
    model, images = Small().eval(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = captum.LayerGradCam(model, model.features).attribute(images, target=2)[:, 0].detach()
    with torch.no_grad():
        activations = model.features(images)
    gradients = methods.gradient_of(lambda a: model.tail(a)[:, 2])(activations)
    close(methods.grad_cam(activations, gradients), expected)


# ----------------------------------------------------------------------------------------------- edges and state left


def test_xgrad_names_cancelled_activations() -> None:
    """Where activations sum to zero, XGrad-CAM says so and what fits; one such channel among many is survived."""
    activations, gradients = pair()
    normalised = torch.randn(2, 6, 16, 16)
    normalised = nn.functional.instance_norm(normalised)
    with pytest.raises(MethodError, match="hires_cam"):
        methods.xgrad_cam(normalised, torch.ones_like(normalised))
    activations[:, 0] = torch.tensor([1.0, -1.0]).repeat(10).reshape(4, 5)
    assert bool(torch.isfinite(methods.xgrad_cam(activations, gradients)).all())


def test_negative_sums_keep_their_sign() -> None:
    """XGrad-CAM of activations of the other sign keeps its weights, and the map changes sign."""
    activations, gradients = pair()
    close(methods.xgrad_cam(-activations, gradients), -methods.xgrad_cam(activations, gradients), 1e-6)


def test_plus_plus_survives_its_pole() -> None:
    """Grad-CAM++ stays finite where 2 + (sum A) g is exactly zero."""
    activations = torch.full((1, 1, 1, 2), -1.0)  # sum -2
    assert bool(torch.isfinite(methods.grad_cam_plus_plus(activations, torch.ones(1, 1, 1, 2))).all())


def test_random_cam_is_repeatable_and_private() -> None:
    """Random CAM gives the same map each time, another for another seed, and leaves the global generator alone."""
    activations = pair()[0]
    before = torch.get_rng_state()
    first = methods.random_cam(activations)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, methods.random_cam(activations))
    assert not torch.equal(first, methods.random_cam(activations, seed=1))
    close(first[1:2], methods.random_cam(activations[1:2]), 1e-6)


def test_noisy_copies() -> None:
    """Noise scales with each image's range, is repeatable, alike for every image, and leaves the global generator."""
    images = torch.rand(2, 3, 32, 32) * torch.tensor([1.0, 10.0]).reshape(2, 1, 1, 1)
    before = torch.get_rng_state()
    copies = list(methods.noisy_copies(images, samples=3, noise=0.2, seed=0))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(copies) == 3
    deviation = (copies[0] - images).flatten(1).std(1)
    assert deviation.tolist() == pytest.approx([0.2, 2.0], rel=0.05)
    alone = list(methods.noisy_copies(images[1:], samples=3, noise=0.2, seed=0))
    close(copies[2][1:], alone[2], 1e-6)


def test_gradient_of_leaves_no_trace() -> None:
    """It works under no_grad, touches no parameter gradient, and keeps no graph."""
    tail, activations = Tail(), pair()[0]
    gradient = methods.gradient_of(lambda a: tail(a)[:, 0])
    with torch.no_grad():
        first, second = gradient(activations), gradient(activations, along=activations)
    assert not first.requires_grad
    assert not second.requires_grad
    assert all(p.grad is None for p in tail.parameters())
    with pytest.raises(MethodError, match="does not depend"):
        methods.gradient_of(lambda a: torch.ones(len(a)))(activations)


def test_hessian_through_fused_attention() -> None:
    """A tail with fused attention has a Hessian all the same: it equals the one of attention written out."""
    tokens = pair()[0].double() + 0.1

    def fused(a: Tensor) -> Tensor:
        x = a.flatten(2).mT[:, None]  # (B,1,N,C)
        return nn.functional.scaled_dot_product_attention(x, x, x).square().sum((1, 2, 3))

    def written(a: Tensor) -> Tensor:
        x = a.flatten(2).mT[:, None]
        return ((x @ x.mT / 6**0.5).softmax(-1) @ x).square().sum((1, 2, 3))

    ours, expected = (methods.gradient_of(f)(tokens, along=tokens) for f in (fused, written))
    close(ours, expected, 1e-8)


def test_missing_hessian_is_named() -> None:
    """A tail whose backward cannot be differentiated is named, with methods that do without."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            return 2 * ctx.saved_tensors[0] * grad

    with pytest.raises(MethodError, match=r"second derivative.*grad_cam"):
        methods.shapley_cam(pair()[0], methods.gradient_of(lambda a: Once.apply(a).sum((1, 2, 3))))


def test_empty_averages_are_named() -> None:
    """No steps and no noisy copies are errors, not empty maps."""
    with pytest.raises(ValueError, match="steps=0"):
        methods.integrated_grad_cam(pair()[0], methods.gradient_of(lambda a: a.sum((1, 2, 3))), steps=0)
    with pytest.raises(ValueError, match="noisy"):
        methods.smooth_grad_cam_plus_plus(pair()[0], lambda *_: [])


# --------------------------------------------------------------------------------------------- combinators and registry


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.channelwise], ids=lambda m: m.name)
def test_eigen_smooth(method: Method) -> None:
    """The terms add up to the map, and their principal component is pytorch-grad-cam's up to its arbitrary sign."""
    activations, gradients = pair()
    gradients = gradients.where(gradients.abs() > 0.02, 0.02)
    terms = contributions(method.function, activations, gradients)
    close(terms.sum(1), method.function(activations, gradients))
    ours = eigen_smooth(method.function, activations, gradients)
    close(ours, reference.principal_component(terms.double().numpy()), 1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.tensor(
            bare(*_GIVEN[method.name]).get_cam_image(None, None, None, activations.numpy(), gradients.numpy(), True)
        )
    signs = (theirs * ours).sum((1, 2), keepdim=True).sign()
    close(ours, theirs * signs, 2e-2 if method.name == "grad_cam_plus_plus" else 1e-3)


def test_fuse() -> None:
    """Fusing normalises the positive part of each map, resizes to the largest, and joins; zero maps stay zero."""
    small, large = torch.tensor([[[4.0, -2.0], [0.0, 2.0]]]), torch.zeros(1, 4, 4)
    large[0, 0, 0] = 8
    assert torch.equal(fuse([small], "mean"), torch.tensor([[[1.0, 0.0], [0.0, 0.5]]]))
    assert fuse([small, large], "max").shape == (1, 4, 4)
    product = fuse([small, large], "product")
    assert float(product[0, 0, 0]) == 1
    assert float(product.sum()) == 1
    assert not fuse([small, -large.abs()], "product").any()
    many = torch.stack([small, 3 * small], 1)  # (1,K,2,2)
    close(fuse([many, many], "mean")[:, 1], fuse([small], "mean"), 1e-6)
    for maps, how in (([], "mean"), ([small, torch.zeros(2, 2, 2)], "mean"), ([small], "median")):
        with pytest.raises(ValueError, match="fuse"):
            fuse(maps, how)


def test_aug_smooth() -> None:
    """A map that follows the image is unchanged by mirroring; brightness is averaged; every copy is put back."""
    images = torch.rand(2, 3, 4, 5)
    found = aug_smooth(lambda x: [x.sum(1), x[:, 0]], images)
    close(found[0], images.sum(1), 1e-6)
    close(found[1], images[:, 0], 1e-6)
    lopsided = torch.arange(5.0).expand(2, 4, 5)
    close(aug_smooth(lambda x: [lopsided], images)[0], torch.full((2, 4, 5), 2.0), 1e-6)


def test_registry_is_complete_and_says_what_it_is() -> None:
    """Every entry has words, a source and a function with a docstring; a misspelt name is told the nearest."""
    for name, method in METHODS.items():
        assert name == method.name
        assert method.title
        assert method.advice.endswith(".")
        assert method.source
        assert method.function.__doc__
        assert method.link.startswith("https://") or name == "random_cam"
    assert find("Grad-CAM") is METHODS["grad_cam"]
    with pytest.raises(MethodError, match="layer_cam"):
        find("layrcam")
