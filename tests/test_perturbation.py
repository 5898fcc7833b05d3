"""Perturbation methods against slow loops, other libraries, and what must not matter: chunks, batches, interruption."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from grad_cam.methods import METHODS as REGISTERED
from grad_cam.methods import chunks, perturbation
from grad_cam.methods.common import MethodError

CLASS = 2


@functools.cache
def net() -> tuple[nn.Sequential, nn.Sequential]:
    """An extractor to (B,6,5,4) and a tail to 4 logits."""
    torch.manual_seed(0)
    extractor = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.ReLU())
    tail = nn.Sequential(
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    return extractor.eval(), tail.eval()


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 20, 16, generator=torch.Generator().manual_seed(1))


def activations(batch: int = 2) -> Tensor:
    with torch.no_grad():
        return net()[0](images(batch))


def tail(a: Tensor, index: Tensor) -> Tensor:
    return net()[1](a)[:, CLASS]


def score(x: Tensor, index: Tensor) -> Tensor:
    return net()[1](net()[0](x))[:, CLASS]


def tails(a: Tensor, index: Tensor) -> Tensor:
    return net()[1](a)


def scores(x: Tensor, index: Tensor) -> Tensor:
    return net()[1](net()[0](x))


METHODS: dict[str, Callable[..., Tensor]] = {
    "ablation_cam": lambda batch, f, **kw: perturbation.ablation_cam(activations(batch), f or tail, **kw),
    "activation_occlusion": lambda batch, f, **kw: perturbation.activation_occlusion(
        activations(batch), f or tail, window=2, **kw
    ),
    "score_cam": lambda batch, f, **kw: perturbation.score_cam(activations(batch), images(batch), f or score, **kw),
    "ss_cam": lambda batch, f, **kw: perturbation.ss_cam(
        activations(batch), images(batch), f or score, samples=3, channels=4, **kw
    ),
    "is_cam": lambda batch, f, **kw: perturbation.is_cam(activations(batch), images(batch), f or score, steps=3, **kw),
    "occlusion": lambda batch, f, **kw: perturbation.occlusion(images(batch), f or score, window=5, stride=3, **kw),
    "rise": lambda batch, f, **kw: perturbation.rise(images(batch), f or score, masks=17, cells=3, **kw),
}
EVERY = pytest.mark.parametrize("name", METHODS)


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------- slow loops


def minmax_masks(a: Tensor, size: tuple[int, int]) -> Tensor:
    up = functional.interpolate(a[None], size, mode="bilinear", align_corners=False)[0]
    out = torch.zeros_like(up)
    for k, one in enumerate(up):
        if one.max() > one.min():
            out[k] = (one - one.min()) / (one.max() - one.min())
    return out


def one_score(x: Tensor) -> Tensor:
    with torch.no_grad():
        return score(x[None], torch.zeros(1))[0]


def test_ablation_cam_is_its_formula() -> None:
    """Each weight is the relative loss of the score without the channel, one channel after another."""
    a = activations()
    wanted = torch.zeros(2, 5, 4)
    with torch.no_grad():
        for b in range(2):
            y = tail(a[b : b + 1], torch.zeros(1))[0]
            for k in range(6):
                without = a[b].clone()
                without[k] = 0
                lost = y - tail(without[None], torch.zeros(1))[0]
                wanted[b] += lost / abs(y) * a[b, k]
    close(perturbation.ablation_cam(a, tail), wanted)


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 1), (3, 2)])
def test_activation_occlusion_is_its_formula(window: int, stride: int) -> None:
    """Each position gets the mean loss over the windows that cover it, the last window ending at the border."""
    a = activations(1)
    total, count = torch.zeros(5, 4), torch.zeros(5, 4)
    tops = sorted({*range(0, 5 - window + 1, stride), 5 - window})
    lefts = sorted({*range(0, 4 - window + 1, stride), 4 - window})
    with torch.no_grad():
        for top in tops:
            for left in lefts:
                covered = a.clone()
                covered[0, :, top : top + window, left : left + window] = 0
                lost = (tail(a.clone(), torch.zeros(1)) - tail(covered, torch.zeros(1)))[0]
                total[top : top + window, left : left + window] += lost
                count[top : top + window, left : left + window] += 1
    close(perturbation.activation_occlusion(a, tail, window=window, stride=stride)[0], total / count)


@pytest.mark.parametrize("channels", [None, 3])
def test_score_cam_is_its_formula(channels: int | None) -> None:
    """The weights are the softmax over channels of the masked images' scores; `channels` takes the most varied."""
    a, x = activations(), images()
    a[0, 1] = 0.5  # a constant channel has the mask 0
    wanted = torch.zeros(2, 5, 4)
    for b in range(2):
        order = sorted(range(6), key=lambda k: -float(a[b, k].std()))[: channels or 6]
        masks = minmax_masks(a[b], (20, 16))
        y = torch.stack([one_score(x[b] * masks[k]) for k in order])
        for k, weight in zip(order, y.softmax(0), strict=True):
            wanted[b] += weight * a[b, k]
    close(perturbation.score_cam(a, x, score, channels=channels), wanted)


def test_ss_cam_is_its_formula() -> None:
    """The scores are averaged over masks with added noise."""
    a, x = activations(1), images(1)
    noise = 0.7 * torch.randn(4, 1, 20, 16, generator=torch.Generator().manual_seed(5))
    masks = minmax_masks(a[0], (20, 16))
    y = torch.stack([torch.stack([one_score(x[0] * (m + d)) for d in noise]).mean() for m in masks])
    wanted = (y.softmax(0)[:, None, None] * a[0]).sum(0)
    close(perturbation.ss_cam(a, x, score, samples=4, noise=0.7, seed=5, channels=None)[0], wanted)


def test_is_cam_is_its_formula() -> None:
    """The scores are averaged over masks growing from nothing."""
    a, x = activations(1), images(1)
    masks = minmax_masks(a[0], (20, 16))
    y = torch.stack([sum(one_score(x[0] * m * i / 4) for i in (1, 2, 3, 4)) / 4 for m in masks])  # type: ignore[misc]
    wanted = (y.softmax(0)[:, None, None] * a[0]).sum(0)
    close(perturbation.is_cam(a, x, score, steps=4)[0], wanted)


def test_without_noise_or_growth_the_variants_are_score_cam() -> None:
    """SS-CAM with noise 0 and IS-CAM with one step are Score-CAM."""
    a, x = activations(), images()
    wanted = perturbation.score_cam(a, x, score)
    close(perturbation.ss_cam(a, x, score, noise=0.0, samples=2, channels=None), wanted)
    close(perturbation.is_cam(a, x, score, steps=1, channels=None), wanted)


def test_rise_recovers_a_linear_score() -> None:
    """For a score that is the sum of one quarter of the picture, that quarter stands out."""
    x = torch.ones(1, 1, 16, 16)
    found = perturbation.rise(x, lambda m, i: m[:, 0, :8, :8].mean((1, 2)), masks=400, cells=4, seed=3)[0]
    assert found[1:7, 1:7].min() > found[9:, 9:].max()


def test_rise_leaves_the_expected_share_visible() -> None:
    """With a constant score the map is the mean mask over p: one everywhere, up to the masks' noise."""
    found = perturbation.rise(torch.ones(1, 1, 20, 20), lambda m, i: torch.ones(len(m)), masks=2000, cells=5)
    assert (found - 1).abs().max() < 0.12


# ------------------------------------------------------------------------------------------------- other libraries


def test_occlusion_agrees_with_captum() -> None:
    """captum's Occlusion with the same window and stride gives the same map where the windows tile the image."""
    captum = pytest.importorskip("captum.attr")
    x = images(1)
    found = perturbation.occlusion(x, score, window=4, stride=2)
    wanted = captum.Occlusion(lambda m: score(m, torch.zeros(1))).attribute(
        x, sliding_window_shapes=(3, 4, 4), strides=(3, 2, 2), baselines=0
    )
    close(found[0], wanted[0, 0].to(found))


class _Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        extractor, classifier = net()
        self.extractor, self.classifier = extractor, nn.Sequential(*classifier)
        self.classifier[1] = nn.ReLU()  # other libraries hook the activation, which must not change in place

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.extractor(x))


def test_ablation_cam_agrees_with_pytorch_grad_cam() -> None:
    """Same weights as pytorch-grad-cam at batch size 1, where its fill value is zero on a layer after a ReLU."""
    library = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    layer = pytest.importorskip("pytorch_grad_cam.ablation_layer")
    model = _Whole().eval()
    x = images(1)
    cam = library.AblationCAM(model, [model.extractor], ablation_layer=layer.AblationLayer(), batch_size=1)
    cam.activations_and_grads(x)
    a = activations(1)
    wanted = cam.get_cam_image(
        x, model.extractor, [targets.ClassifierOutputTarget(CLASS)], a.numpy(), None, eigen_smooth=False
    )
    close(perturbation.ablation_cam(a, tail), torch.as_tensor(wanted).float())


def test_score_cam_agrees_with_torchcam() -> None:
    """Same raw map as torchcam's ScoreCAM; the ReLU it puts on the map is no difference after a ReLU layer."""
    methods = pytest.importorskip("torchcam.methods")
    model = _Whole().eval()
    x = images(1)
    with methods.ScoreCAM(model, "extractor", input_shape=(3, 20, 16)) as cam:
        model(x)
        wanted = cam(CLASS, normalized=False)[0]
    close(perturbation.score_cam(activations(1), x, score), wanted)


# ------------------------------------------------------------------------------------------------- what must not matter


@EVERY
def test_chunk_changes_nothing(name: str) -> None:
    """One copy at a time, three, or all at once: the same map."""
    wanted = METHODS[name](2, None)
    for chunk in (1, np.int64(3), 1000):
        close(METHODS[name](2, None, chunk=chunk), wanted)


@EVERY
def test_batch_is_one_by_one(name: str) -> None:
    """The first image of a batch gets the map it gets alone."""
    close(METHODS[name](2, None)[:1], METHODS[name](1, None))


@EVERY
def test_several_scores_at_once(name: str) -> None:
    """A score with K columns gives the K maps of one run each."""
    every = tails if name in ("ablation_cam", "activation_occlusion") else scores
    together = METHODS[name](2, every)
    assert together.shape[:2] == (2, 4)
    for k in range(4):
        close(together[:, k], METHODS[name](2, lambda v, i, k=k: every(v, i)[:, k]))


@EVERY
def test_rows_say_whose_they_are(name: str) -> None:
    """`image_index` names the image of every row, so that each image can have its own target."""
    every = tails if name in ("ablation_cam", "activation_occlusion") else scores
    classes = torch.tensor([3, 1])
    found = METHODS[name](2, lambda v, i: every(v, i).gather(1, classes[i][:, None])[:, 0], chunk=4)
    together = METHODS[name](2, every)
    close(found, torch.stack([together[0, 3], together[1, 1]]))


@EVERY
def test_progress_counts_to_the_end(name: str) -> None:
    """Progress never falls, and ends at the total that it named from the start."""
    seen: list[tuple[int, int]] = []
    METHODS[name](2, None, chunk=4, progress=lambda done, total: seen.append((done, total)))
    done, totals = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}


@EVERY
def test_no_graph_and_no_change_of_the_input(name: str) -> None:
    """The map carries no graph even where parameters require grad, and the inputs keep their values."""
    a, x = activations().clone(), images().clone()
    assert not METHODS[name](2, None).requires_grad
    torch.testing.assert_close(activations(), a)
    torch.testing.assert_close(images(), x)


@EVERY
def test_interruption_propagates(name: str) -> None:
    """Ctrl-C in the middle of the work comes out as it is."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        METHODS[name](2, None, chunk=2, progress=stop)


@pytest.mark.parametrize("name", ["ablation_cam", "activation_occlusion", "occlusion"])
def test_score_function_may_write_into_its_rows(name: str) -> None:
    """A tail that starts in place does not spoil the copies that follow, nor do scores that are views of them."""
    every = tail if name != "occlusion" else score

    def careless(v: Tensor, i: Tensor) -> Tensor:
        return every(v.mul_(2.0).div_(2.0).add_(3.0).sub_(3.0), i)

    close(METHODS[name](2, careless, chunk=2), METHODS[name](2, None))
    viewing = METHODS[name](2, lambda v, i: v[:, 0, 0, 0], chunk=2)
    close(viewing, METHODS[name](2, lambda v, i: v[:, 0, 0, 0].clone(), chunk=2))


@EVERY
def test_lack_of_memory_lowers_the_chunk(name: str) -> None:
    """A score function that cannot take more than two rows gets two; nothing is lost or counted twice."""
    every = tail if name in ("ablation_cam", "activation_occlusion") else score
    rows: list[int] = []

    def small(v: Tensor, i: Tensor) -> Tensor:
        rows.append(len(v))
        if len(v) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return every(v, i)

    seen: list[tuple[int, int]] = []
    found = METHODS[name](2, small, chunk=16, progress=lambda *now: seen.append(now))
    close(found, METHODS[name](2, None))
    assert seen[-1][0] == seen[-1][1]
    assert sum(n > 2 for n in rows) <= 4  # it learns
    with pytest.raises(RuntimeError, match="another"):
        METHODS[name](1, lambda v, i: (_ for _ in ()).throw(RuntimeError("another error")))


@EVERY
def test_models_that_need_contiguous_rows(name: str) -> None:
    """Rows come with channels last on a CPU; a model that flattens them with `view` still gets its map."""
    every = tail if name in ("ablation_cam", "activation_occlusion") else score

    def viewing(v: Tensor, i: Tensor) -> Tensor:
        return every(v.view(len(v), -1).reshape(v.shape), i)

    close(METHODS[name](2, viewing, chunk=3), METHODS[name](2, None))


def test_constant_channels_share_one_forward_pass() -> None:
    """Score-CAM sends the empty mask through the network once, however many channels have it."""
    a, rows = activations(1), []
    a[0, 1:5] = torch.tensor([0.0, 0.0, 1.0, 2.0])[:, None, None]

    def counting(v: Tensor, i: Tensor) -> Tensor:
        rows.append(len(v))
        return score(v, i)

    perturbation.score_cam(a, images(1), counting)
    assert sum(rows) == 3


def test_half_precision_maps_are_float32() -> None:
    """bfloat16 activations give float32 maps close to the full-precision ones."""
    a = activations(1)

    def half(v: Tensor, i: Tensor) -> Tensor:
        assert v.dtype == torch.bfloat16
        return tail(v.float(), i)

    found = perturbation.ablation_cam(a.bfloat16(), half)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, perturbation.ablation_cam(a, tail), rtol=0.05, atol=0.05)


def test_masks_are_never_all_in_memory() -> None:
    """Score-CAM hands over no more rows than a chunk, which is bounded by the image's size."""
    large: list[int] = []

    def watching(v: Tensor, i: Tensor) -> Tensor:
        large.append(v.numel() * v.element_size())
        return v.mean((1, 2, 3))

    a = torch.rand(1, 300, 4, 4)
    perturbation.score_cam(a, torch.rand(1, 3, 512, 512), watching)
    assert max(large) <= chunks._WORKSPACE // 8


# ------------------------------------------------------------------------------------------------- bad input


def test_bad_settings_are_named() -> None:
    """What is out of range is refused, with what was given and what fits."""
    a, x = activations(), images()
    with pytest.raises(ValueError, match="chunk=0"):
        perturbation.ablation_cam(a, tail, chunk=0)
    with pytest.raises(ValueError, match=r"window=9, stride=1 .* 5x4"):
        perturbation.activation_occlusion(a, tail, window=9)
    with pytest.raises(ValueError, match="stride=3"):
        perturbation.occlusion(x, score, window=2, stride=3)
    with pytest.raises(ValueError, match="channels=0"):
        perturbation.score_cam(a, x, score, channels=0)
    with pytest.raises(ValueError, match="samples=0"):
        perturbation.ss_cam(a, x, score, samples=0)
    with pytest.raises(ValueError, match="steps=0"):
        perturbation.is_cam(a, x, score, steps=0)
    with pytest.raises(ValueError, match="keep=0"):
        perturbation.rise(x, score, keep=0)
    with pytest.raises(ValueError, match="3 activations do not belong to 2 images"):
        perturbation.score_cam(activations(3), x, score)
    with pytest.raises(ValueError, match="one score each"):
        perturbation.ablation_cam(a, lambda v, i: v)


def test_scores_that_are_not_finite_are_named() -> None:
    """A NaN score stops the work at once."""
    with pytest.raises(MethodError, match="image 1 is NaN or infinite"):
        perturbation.ablation_cam(activations(), lambda v, i: tail(v, i) / (1 - i))


def test_the_registered_methods_are_these() -> None:
    """The methods of this kind are the ones tested here; all of them report progress and take a chunk."""
    found = {m.name: m for m in REGISTERED.values() if m.kind == "perturbation"}
    assert set(found) == {*METHODS, "region_regression"}  # the last in test_metrics
    for method in found.values():
        assert set(method.ingredients) & {"tail", "score"}
        assert method.ingredients[-1] == "progress"
        assert method.options["chunk"] is None
