"""explain and sweep: the maps are the formula's, the model is untouched, results are frozen, errors are clear."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import threading
import warnings
import weakref

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import grad_cam
from grad_cam import targets


def by_hooks(model: nn.Module, path: str, images: Tensor, index: Tensor) -> Tensor:
    """Grad-CAM as hook-based tools compute it, channels first."""
    seen: dict[str, Tensor] = {}
    handle = model.get_submodule(path).register_forward_hook(lambda m, i, o: seen.update(out=o))
    logits = model(images.clone())
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, index[:, None]).sum(), seen["out"])
    return (gradient.mean((2, 3), keepdim=True) * seen["out"]).sum(1).detach()


def test_grad_cam_is_what_hooks_compute(cnn: nn.Module, batch: Tensor) -> None:
    """The map equals the one from hooks on the model, at several layers and for given classes."""
    index = torch.tensor([1, 4, 2])
    for path in ("layer1", "down", "layer2", "layer2.0.conv1"):
        got = grad_cam.explain(cnn, batch, layer=path, target=index.tolist())
        assert torch.allclose(got.map, by_hooks(cnn, path, batch, index), rtol=1e-4, atol=1e-7)
        assert got.classes.flatten().tolist() == index.tolist()


def test_default_target_is_the_predicted_class(cnn: nn.Module, batch: Tensor) -> None:
    """Without a target every image's own most probable class is explained."""
    result = grad_cam.explain(cnn, batch, method="grad_cam")
    assert torch.equal(result.classes[:, 0], result.logits.argmax(1))
    assert result.map.shape == (3, 8, 8)
    assert result.layer == ("layer2", 3)


def test_batch_equals_one_by_one(cnn: nn.Module, vit: nn.Module, batch: Tensor) -> None:
    """A batch gives what its images give alone."""
    for model in (cnn, vit):
        whole = grad_cam.explain(model, batch).map
        alone = torch.cat([grad_cam.explain(model, batch[i : i + 1]).map for i in range(3)])
        assert torch.allclose(whole, alone, rtol=1e-4, atol=1e-6 * float(whole.abs().max()))


def test_several_classes_are_several_calls(cnn: nn.Module, batch: Tensor) -> None:
    """K classes at once equal K calls, in any order."""
    both = grad_cam.explain(cnn, batch, target=[[2, 5]] * 3, method="grad_cam")
    assert both.map.shape == (3, 2, 8, 8)
    for k, c in enumerate((2, 5)):
        assert torch.allclose(both.map[:, k], grad_cam.explain(cnn, batch, target=c, method="grad_cam").map, atol=1e-7)
    swapped = grad_cam.explain(cnn, batch, target=[[5, 2]] * 3, method="grad_cam")
    assert torch.equal(both.map.flip(1), swapped.map)
    best = grad_cam.explain(cnn, batch, target=targets.top(3), method="grad_cam")
    assert torch.equal(best.classes, best.logits.topk(3).indices)


def test_nhwc_is_permuted_nchw() -> None:
    """The same network written channels-last gives the same map."""

    class First(nn.Module):
        def __init__(self, last: bool) -> None:
            super().__init__()
            self.conv, self.norm, self.fc, self.last = nn.Conv2d(3, 5, 4, 4), nn.ReLU(), nn.Linear(5, 3), last

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            if self.last:
                return self.fc((self.norm(x.permute(0, 2, 3, 1)) ** 2).mean((1, 2)))
            return self.fc((self.norm(x) ** 2).mean((2, 3)))

    torch.manual_seed(0)
    first, last = First(False).eval(), First(True).eval()
    last.load_state_dict(first.state_dict())
    x = torch.randn(2, 3, 32, 48)
    a, b = grad_cam.explain(first, x, layer="norm", target=1), grad_cam.explain(last, x, layer="norm", target=1)
    assert a.map.shape == (2, 8, 12)
    assert torch.allclose(a.map, b.map, atol=1e-6)


def test_prefix_tokens_are_no_part_of_the_map(vit: nn.Module, batch: Tensor) -> None:
    """A class-token ViT gives a grid of patches, equal to the formula on the patch tokens."""
    cut = grad_cam.split(vit, "blocks.1")
    with torch.no_grad():
        leaf = cut.extractor(batch)
    leaf = leaf.requires_grad_()
    (gradient,) = torch.autograd.grad(cut.classifier(leaf)[:, 3].sum(), leaf)
    a, g = (t[:, 1:].transpose(1, 2).reshape(3, 24, 4, 4) for t in (leaf, gradient))
    wanted = (g.mean((2, 3), keepdim=True) * a).sum(1)
    assert torch.allclose(grad_cam.explain(vit, batch, target=3, method="grad_cam").map, wanted, atol=1e-6)


def test_reshape_transforms_of_other_tools_work_unchanged(vit: nn.Module, batch: Tensor) -> None:
    """The callable people write for ViTs elsewhere gives the map that is found without it."""

    def reshape_transform(tensor: Tensor, height: int = 4, width: int = 4) -> Tensor:
        result = tensor[:, 1:, :].reshape(tensor.size(0), height, width, tensor.size(2))
        return result.transpose(2, 3).transpose(1, 2)

    for layer in ("blocks.1", "blocks.2.norm1"):
        by_hand = grad_cam.explain(vit, batch, layer=layer, reshape_transform=reshape_transform).map
        assert torch.allclose(by_hand, grad_cam.explain(vit, batch, layer=layer).map, atol=1e-7)
        assert torch.equal(grad_cam.explain(vit, batch, layer=layer, reshape_transform="tokens").map, by_hand)


def _state(model: nn.Module) -> dict[str, object]:
    return {
        "flags": [m.training for m in model.modules()],
        "grads": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()],
        "names": [sorted(m.__dict__) for m in model.modules()],
        "values": [t.clone() for t in model.state_dict().values()],
    }


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, dict)):
        keys = a if isinstance(a, dict) else range(len(a))
        return len(a) == len(b) and all(_same(a[k], b[k]) for k in keys)
    return a == b


@pytest.mark.parametrize("method", list(grad_cam.METHODS))
def test_the_model_is_left_exactly_as_found(cnn: nn.Module, batch: Tensor, method: str) -> None:
    """Flags, gradients, buffers, hooks, attributes and the random state are as before, also after an exception."""
    cnn.train()
    cnn.fc.weight.requires_grad_(False)
    cnn.conv.weight.grad = torch.ones_like(cnn.conv.weight)
    before, seed = _state(cnn), torch.get_rng_state()
    if grad_cam.METHODS[method].kind != "attention":
        grad_cam.explain(cnn, batch, method=method)
    with pytest.raises(ValueError, match="class 99|attention"):
        grad_cam.explain(cnn, batch, method=method, target=99)
    assert _same(before, _state(cnn))
    assert torch.equal(seed, torch.get_rng_state())


def test_callers_context_does_not_matter(cnn: nn.Module, batch: Tensor) -> None:
    """no_grad, inference_mode, frozen and training-mode models, autograd inputs: always the same map."""
    wanted = grad_cam.explain(cnn, batch).map
    with torch.no_grad():
        assert torch.equal(grad_cam.explain(cnn, batch).map, wanted)
    with torch.inference_mode():
        made_here = batch * 1
        assert torch.equal(grad_cam.explain(cnn, made_here).map, wanted)
    assert torch.equal(grad_cam.explain(cnn, batch.clone().requires_grad_()).map, wanted)
    frozen = copy.deepcopy(cnn).requires_grad_(False).train()
    assert torch.equal(grad_cam.explain(frozen, batch).map, wanted)
    assert torch.equal(grad_cam.explain(nn.DataParallel(cnn), batch).map, wanted)
    last = copy.deepcopy(cnn).to(memory_format=torch.channels_last)
    assert torch.allclose(grad_cam.explain(last, batch.to(memory_format=torch.channels_last)).map, wanted, atol=1e-6)


def test_half_precision_models(cnn: nn.Module, vit: nn.Module, batch: Tensor) -> None:
    """bfloat16 and float16 models are explained in their precision; the map is near the float32 one."""
    for model in (cnn, vit):
        wanted = grad_cam.explain(model, batch, target=1).map
        for dtype in (torch.bfloat16, torch.float16):
            got = grad_cam.explain(copy.deepcopy(model).to(dtype), batch, target=1)
            off = (got.map.float() - wanted).abs().max() / wanted.abs().max()
            assert off < 0.15
            assert np.isfinite(got.heatmap()).all()


def test_threads_on_one_model(cnn: nn.Module, batch: Tensor) -> None:
    """Eight threads on one fresh model at once get what one thread gets."""
    wanted = [grad_cam.explain(copy.deepcopy(cnn), batch, target=k % 7, layer=1 + k % 4 + 2).map for k in range(8)]
    got: list[Tensor | None] = [None] * 8

    def work(k: int) -> None:
        got[k] = grad_cam.explain(cnn, batch, target=k % 7, layer=1 + k % 4 + 2).map

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_the_result_is_frozen_and_display_never_changes_the_map(cnn: nn.Module, batch: Tensor) -> None:
    """Threshold and smoothing act on the heatmap only; fields cannot be assigned."""
    result = grad_cam.explain(cnn, batch, target=0)
    before = result.map.clone()
    heat = result.heatmap(threshold=0.3, smoothing=2)
    assert heat.shape == (3, 64, 64)
    assert 0 <= heat.min() <= heat.max() <= 1
    result.figure()
    result.overlay(2)
    assert torch.equal(result.map, before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.map = before


def test_save_writes_and_refuses_to_overwrite(cnn: nn.Module, batch: Tensor, tmp_path) -> None:
    """One file per image and target; existing files are kept unless force is given."""
    result = grad_cam.explain(cnn, batch, target=targets.top(2))
    files = result.save(tmp_path / "out.png")
    assert [f.name for f in files] == [f"out-{i}.png" for i in range(6)]
    assert all(f.stat().st_size > 1000 for f in files)
    with pytest.raises(FileExistsError, match="out-0.png"):
        result.save(tmp_path / "out.png")
    result.save(tmp_path / "out.png", force=True)
    assert result._repr_png_().startswith(b"\x89PNG")


def test_an_empty_map_is_said_to_be_so(cnn: nn.Module, batch: Tensor) -> None:
    """A map that is nowhere positive warns when shown."""
    result = grad_cam.explain(cnn, batch, target=lambda logits: logits[:, 0] * 0)
    assert result.note() == "all zero"
    with pytest.warns(UserWarning, match="all zero"):
        result.figure()


def test_what_only_speaks_against_is_shown(cnn: nn.Module, batch: Tensor) -> None:
    """Where a map is nowhere positive, it and those beside it are drawn in the signed view, and have its numbers."""
    result = grad_cam.explain(cnn, batch, target=[[0, 1]] * len(batch))
    raw = result.map.clone()
    raw[0, 1] = -1 - raw[0, 1].abs()
    with pytest.warns(UserWarning, match="all negative"):
        drawn = dataclasses.replace(result, map=raw).figure()
    texts = {text.get_text() for axes in drawn.axes for text in [*axes.texts, *axes.get_yticklabels()]}
    assert {"for", "against"} <= texts | {text.get_text() for text in drawn.texts}
    assert grad_cam.rendering.Display().showing([raw[0, 0] + 99]).view == "positive"


@pytest.mark.parametrize("where", ["weight", "image", "activation"])
def test_non_finite_values_are_found_and_named(cnn: nn.Module, batch: Tensor, where: str) -> None:
    """NaN in a weight, a picture or an activation is an error that says where it is."""
    if where == "weight":
        cnn.down.weight.data[0, 0, 0, 0] = float("nan")
        message = r"weights 'down\.weight'"
    elif where == "image":
        batch[0, 0, 0, 0] = float("inf")
        message = "images hold NaN"
    else:
        cnn.down.weight.data.fill_(3e38)
        message = "first after 'down'"
    with pytest.raises(ValueError, match=message):
        grad_cam.explain(cnn, batch)


def test_bad_images_layers_targets_and_methods(cnn: nn.Module, batch: Tensor) -> None:
    """Every wrong argument raises an error that says what to do."""
    with pytest.raises(ValueError, match=r"images\[None\]"):
        grad_cam.explain(cnn, batch[0])
    with pytest.raises(ValueError, match=r"refuses a batch.*3 channels"):
        grad_cam.explain(cnn, torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match="floating point"):
        grad_cam.explain(cnn, (batch * 10).byte())
    with pytest.raises(TypeError, match="GradCAM"):
        grad_cam.explain(cnn, "cat.jpg")
    with pytest.raises(ValueError, match="one entry per image"):
        grad_cam.explain(cnn, batch, target=[1, 2])
    with pytest.raises(ValueError, match=r"class 7 .*0\.\.6"):
        grad_cam.explain(cnn, batch, target=7)
    with pytest.raises(ValueError, match=r"did you mean grad_cam"):
        grad_cam.explain(cnn, batch, method="grad_cm")
    with pytest.raises(TypeError, match="no option 'steps'"):
        grad_cam.explain(cnn, batch, steps=3)
    with pytest.raises(ValueError, match=r"no map can be drawn after 'pool': 1x1"):
        grad_cam.explain(cnn, batch, layer="pool")
    with pytest.raises(ValueError, match="fuse"):
        grad_cam.explain(cnn, batch, fuse="mean")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"targets": [1]}, r"no argument targets=; write explain\(model, images, target=...\)"),
        ({"target_category": 1}, r"no argument target_category=; write explain\(model, images, target=...\)"),
        ({"target_layers": ["layer1"]}, r"no argument target_layers=; write explain\(model, images, layer=...\)"),
        ({"layer_idx": 3}, r"no argument layer_idx=; write explain\(model, images, layer=...\)"),
        ({"class_idx": 3}, r"no argument class_idx=; write explain\(model, images, target=...\)"),
    ],
)
def test_arguments_of_other_libraries(cnn: nn.Module, batch: Tensor, arguments: dict, says: str) -> None:
    """Names that arguments have elsewhere are answered with what to write here."""
    with pytest.raises(TypeError, match=says):
        grad_cam.explain(cnn, batch, **arguments)
    with pytest.raises(TypeError, match=r"write sweep\(model, images, layers=\[...\]\)"):
        grad_cam.sweep(cnn, batch, layer="layer1")
    for swapped in (grad_cam.explain, grad_cam.sweep):
        with pytest.raises(TypeError, match=r"swapped; write explain\(model, images\)"):
            swapped(batch, cnn)


def test_numpy_numbers_are_numbers(cnn: nn.Module, batch: Tensor) -> None:
    """Layers, classes, and options may be numpy's integers."""
    three = np.int64(3)
    wanted = grad_cam.explain(cnn, batch, layer=3, target=3).map
    assert torch.equal(grad_cam.explain(cnn, batch, layer=three, target=three).map, wanted)
    assert torch.equal(grad_cam.explain(cnn, batch, layer=3, target=np.array([3, 3, 3])).map, wanted)
    assert torch.equal(grad_cam.explain(cnn, batch, layer=3, target=[three] * 3).map, wanted)
    assert torch.equal(grad_cam.sweep(cnn, batch, layers=[three], target=targets.logit(three))[0].map, wanted)
    assert grad_cam.explain(cnn, batch, layer=3, target=targets.top(np.int64(2))).map.shape == (3, 2, 8, 8)
    for name, option in (("score_cam", {"channels": np.int64(4), "chunk": np.int64(2)}), ("rise", {"masks": three})):
        grad_cam.explain(cnn, batch[:1], method=name, **option)


def test_images_that_are_not_normalised_are_warned_of(batch: Tensor) -> None:
    """Images of 0..255 or 0..1 bring one warning with the remedy; normalised ones and unknown models none."""
    model = timm.create_model("resnet10t").eval()
    pixels = torch.rand(2, 3, 64, 64) ** 2
    for images, says in ((pixels * 255, r"lie in 0..255.*give \(images / 255 - mean\) / std"), (pixels, "lie in 0..1")):
        for run in (grad_cam.explain, grad_cam.sweep):
            with pytest.warns(UserWarning, match=says) as caught:
                run(model, images)
            assert len([one for one in caught if "lie in" in str(one.message)]) == 1
            assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grad_cam.explain(model, batch)
        grad_cam.explain(model, batch * 3)


def test_results_say_themselves_pickle_and_copy(cnn: nn.Module, batch: Tensor) -> None:
    """A repr is one line with shapes; copies hold the same; the words are tuples; images are the result's own."""
    one = grad_cam.explain(cnn, batch, target=[[1, 2]] * 3, method="grad_cam")
    assert repr(one) == (
        "Explanation(grad_cam of 'class 1' and 1 more at layer2 (layer_idx 3), map 3x2x8x8, logits 3x7)"
    )
    found = grad_cam.sweep(cnn, batch, layers=["layer1", "layer2"])
    assert repr(found) == "Sweep(TinyNet, grad_cam, 2 of layer1 to layer2, maps 3x16x16 to 3x8x8, 0 skipped)"
    for result in (one, found):
        for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
            assert repr(other) == repr(result)
    assert one.target == (("class 1", "class 2"),) * 3
    before = one.images.clone()
    batch.zero_()
    assert torch.equal(one.images, before)
    assert one.pictures.shape == (3, 64, 64, 3) and one.pictures.std() > 0
    assert isinstance(found[:1], tuple) and found[-1] is found.explanations[1]


def test_layers_and_fusion(cnn: nn.Module, batch: Tensor) -> None:
    """A list of layers gives one explanation each; fused, one of the largest size in 0..1."""
    both = grad_cam.explain(cnn, batch, layer=["layer1", "layer2"], target=1)
    assert [e.layer.name for e in both] == ["layer1", "layer2"]
    one = grad_cam.explain(cnn, batch, layer=["layer1", "layer2"], target=1, fuse="mean")
    assert one.map.shape == (3, 16, 16)
    assert 0 <= one.map.min() <= one.map.max() <= 1


def test_smoothing_combinators(cnn: nn.Module, batch: Tensor) -> None:
    """aug_smooth and eigen_smooth wrap the methods that allow them, and say so otherwise."""
    plain = grad_cam.explain(cnn, batch, target=1, method="grad_cam").map
    for name in ("aug_smooth", "eigen_smooth"):
        assert grad_cam.explain(cnn, batch, target=1, method="grad_cam", **{name: True}).map.shape == plain.shape
    with pytest.raises(ValueError, match="cannot wrap eigen_cam"):
        grad_cam.explain(cnn, batch, method="eigen_cam", eigen_smooth=True)


# ---------------------------------------------------------------------------------------------------------------- sweep


@pytest.mark.parametrize("layers", ["stages", "blocks"])
def test_a_sweep_is_many_explanations(cnn: nn.Module, vit: nn.Module, batch: Tensor, layers: str) -> None:
    """Every map of a sweep equals the one explain gives at that cut, also where modules work in place."""
    for model in (cnn, vit):
        found = grad_cam.sweep(model, batch, layers=layers, target=targets.top(2))
        assert len(found) >= 2
        for one in found:
            alone = grad_cam.explain(model, batch, layer=one.layer.name, target=targets.top(2))
            assert torch.allclose(one.map, alone.map, rtol=1e-4, atol=1e-6 * float(alone.map.abs().max()))


def test_a_sweep_takes_one_forward_and_one_backward(cnn: nn.Module, batch: Tensor) -> None:
    """However many layers: one gradient call, and each module is run once."""
    grad_cam.sweep(cnn, batch, layers="blocks")  # recorded
    calls, runs = [], []
    original, conv = torch.autograd.grad, torch.nn.functional.conv2d
    try:
        torch.autograd.grad = lambda *a, **k: (calls.append(1), original(*a, **k))[1]
        torch.nn.functional.conv2d = lambda *a, **k: (runs.append(1), conv(*a, **k))[1]
        grad_cam.sweep(cnn, batch, layers="blocks")
    finally:
        torch.autograd.grad, torch.nn.functional.conv2d = original, conv
    assert len(calls) == 1
    assert len(runs) == sum(isinstance(m, nn.Conv2d) for m in cnn.modules())


def test_sweep_lists_and_what_it_skips(cnn: nn.Module, vit: nn.Module, batch: Tensor) -> None:
    """Layers may be listed, in the chain or inside branches; cuts without a map are named with the reason."""
    assert [e.layer.name for e in grad_cam.sweep(cnn, batch, layers=[3, "layer1"])] == ["layer1", "layer2"]
    assert [e.layer.name for e in grad_cam.sweep(cnn, batch, layers=["layer2.0.conv1", 3])] == [
        "layer2.0.conv1",
        "layer2",
    ]
    skipped = dict((layer.name, why) for layer, why in grad_cam.sweep(vit, batch).skipped)
    assert skipped["norm"] == "gradient at the patches is zero"
    with pytest.raises(ValueError, match="layers='all'"):
        grad_cam.sweep(cnn, batch, layers="all")


@pytest.mark.parametrize("layers", ["auto", "stages", "blocks"])
def test_every_entry_of_a_sweep_can_be_explained_by_itself(
    cnn: nn.Module, vit: nn.Module, batch: Tensor, layers: str
) -> None:
    """Name and layer_idx of every entry lead to the same map; entries are in order of depth."""
    for model in (cnn, vit, timm.create_model("resnet10t", num_classes=7).eval()):
        names = [name for name, _ in model.named_modules()]
        found = grad_cam.sweep(model, batch[:1], layers=layers, target=1)
        order = [names.index(e.layer.name) for e in found if e.layer.name in names]
        assert order == sorted(order) and len(order) > 1
        top = {stage.name: stage.layer_idx for stage in grad_cam.chain(model, batch[:1]).stages}
        assert any(e.layer.layer_idx is not None for e in found)
        listed = {*(e.layer.name for e in found), *(layer.name for layer, _ in found.skipped)}
        within = {stage: [n for n in names if n in listed and f"{n}.".startswith(f"{stage}.")] for stage in top}
        counted_at = {inside[-1]: top[stage] for stage, inside in within.items() if inside}  # where a stage ends
        for one in found:
            assert one.layer.layer_idx == counted_at.get(one.layer.name), one.layer
            for layer in {one.layer.name, one.layer.layer_idx} - {None}:
                alone = grad_cam.explain(model, batch[:1], layer=layer, target=1)
                tolerance = 1e-6 * float(alone.map.abs().max())
                torch.testing.assert_close(one.map, alone.map, rtol=1e-4, atol=tolerance)
        counted = {s.name: s.layer_idx for s in found.stages if s.layer_idx is not None}
        assert {name: counted[name] for name in counted.keys() & top.keys()} == {
            name: top[name] for name in counted.keys() & top.keys()
        }
        assert counted and set(counted.values()) <= set(top.values())


def test_lists_of_layers_cost_one_pass(cnn: nn.Module, batch: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several layers of a method that reads activations and gradients are one forward and one backward pass."""
    layers = ["layer2", "layer1", "layer2.0.conv1"]
    alone = [grad_cam.explain(cnn, batch, layer=layer, target=1) for layer in layers]
    calls, original = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    found = grad_cam.explain(cnn, batch, layer=layers, target=1)
    assert len(calls) == 1
    assert [e.layer for e in found] == [e.layer for e in alone]
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one.map, other.map, rtol=1e-4, atol=1e-7)


def test_sweeps_fuse_and_smooth(cnn: nn.Module, batch: Tensor) -> None:
    """fuse, aug_smooth, eigen_smooth and options do in a sweep what they do in explain."""
    layers = ["layer1", "layer2"]
    for wrap in ({"aug_smooth": True}, {"eigen_smooth": True}, {"aug_smooth": True, "eigen_smooth": True}):
        found = grad_cam.sweep(cnn, batch, layers=layers, target=targets.top(2), **wrap)
        for one in found:
            alone = grad_cam.explain(cnn, batch, layer=one.layer.name, target=targets.top(2), **wrap)
            assert one.method == alone.method
            torch.testing.assert_close(one.map, alone.map, rtol=1e-3, atol=1e-5 * float(alone.map.abs().max()))
    one = grad_cam.sweep(cnn, batch, layers=layers, target=1, fuse="max", method="layer_cam")
    other = grad_cam.explain(cnn, batch, layer=layers, target=1, fuse="max", method="layer_cam")
    torch.testing.assert_close(one.map, other.map, rtol=1e-4, atol=1e-6)
    assert one.layer.name == "layer1+layer2"
    ablated = grad_cam.sweep(cnn, batch[:1], layers=layers, method="ablation_cam", chunk=3)
    torch.testing.assert_close(ablated[1].map, grad_cam.explain(cnn, batch[:1], method="ablation_cam").map)


def test_progress_is_told_of_all_layers(cnn: nn.Module, batch: Tensor) -> None:
    """The callback hears a share that only grows, over one layer or several, and ends at its total."""
    for run in (
        lambda progress: grad_cam.explain(cnn, batch[:1], method="ablation_cam", progress=progress),
        lambda progress: grad_cam.sweep(cnn, batch[:1], layers=["layer1", "layer2"], method="ablation_cam",
                                        chunk=2, progress=progress),
    ):  # fmt: skip
        heard: list[tuple[int, int]] = []
        run(lambda done, total, heard=heard: heard.append((done, total)))
        shares = [done / total for done, total in heard]
        assert shares == sorted(shares) and shares[-1] == 1 and len(heard) > 1
    grad_cam.explain(cnn, batch, progress=lambda *_: pytest.fail("a gradient method has no steps"))


def test_sweep_pictures(cnn: nn.Module, batch: Tensor, tmp_path) -> None:
    """Figure, animation and folder of a sweep are written; existing files are kept."""
    found = grad_cam.sweep(cnn, batch[:1])
    assert found._repr_png_().startswith(b"\x89PNG")
    assert found.animate(tmp_path / "depth.gif").stat().st_size > 1000
    files = found.save(tmp_path / "folder")
    assert len(files) == len(found) + 1
    with pytest.raises(FileExistsError):
        found.save(tmp_path / "folder")
    curves = found.curves()
    assert all(len(values) == len(found) for values in curves.values())


def test_a_model_that_writes_into_its_input_does_not_touch_the_images(batch: Tensor) -> None:
    """The first operation may work in place: the caller's images stay as they are, whichever way they are explained."""

    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2).add_(0.1)
            return self.fc(self.act(self.conv(x)).mean((2, 3)))

    model, before = Greedy().eval(), batch.clone()
    first = grad_cam.explain(model, batch, layer="act")
    for method in ("score_cam", "smooth_grad_cam_plus_plus"):
        grad_cam.explain(model, batch, layer="conv", method=method)
    grad_cam.explain(model, batch, method="occlusion")
    grad_cam.sweep(model, batch)
    assert torch.equal(batch, before)
    assert torch.equal(first.map, grad_cam.explain(model, batch, layer="act").map)
    assert torch.allclose(first.logits, model(batch.clone()), atol=1e-6)


class TwoHeads(nn.Module):
    """Two logits: one read off the first map, one off the second."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.first, self.second = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits (B, 5) twice."""
        y = self.a(x).relu()
        z = self.b(y).relu()
        return [self.first(y.mean((2, 3))), self.second(z.mean((2, 3)))]

    def one(self, out: list[Tensor]) -> Tensor:
        """The first logits."""
        return out[0]

    def other(self, out: list[Tensor]) -> Tensor:
        """The second logits."""
        return out[1]


@pytest.mark.parametrize("kind", ["index", "function", "method"])
def test_an_output_function_is_not_taken_for_one_that_is_gone(kind: str) -> None:
    """A new output function often gets the id of the last one: it has a default layer and a sweep of its own."""
    torch.manual_seed(0)
    model, x = TwoHeads().eval(), torch.randn(2, 3, 32, 32)
    for k in (0, 1, 0, 1):
        functions = (lambda out: out[0], lambda out: out[1])
        output = {"index": k, "function": functions[k], "method": (model.one, model.other)[k]}[kind]
        del functions
        assert grad_cam.explain(model, x, target=1, output=output).layer.name == "ab"[k]
        assert [e.layer.name for e in grad_cam.sweep(model, x, target=1, output=output)] == ["a", "b"][: k + 1]
        del output


def test_output_functions_are_not_kept() -> None:
    """A model whose output function holds it is freed with its last name."""
    model = TwoHeads().eval()
    gone = weakref.ref(model)
    grad_cam.explain(model, torch.randn(1, 3, 32, 32), target=1, output=model.one)
    del model
    gc.collect()
    assert gone() is None
