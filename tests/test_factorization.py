"""Factorization methods: slow decompositions, equivalences, independent libraries, speed and memory."""

from __future__ import annotations

import subprocess
import sys
import time
import types
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from grad_cam.methods import METHODS, Method, MethodError
from grad_cam.methods import factorization as methods

from . import reference

MAPS = [m for m in METHODS.values() if m.kind == "factorization" and m.gives == "map"]
every = pytest.mark.parametrize("method", MAPS, ids=lambda m: m.name)


def pair(batch: int = 2, channels: int = 7, height: int = 5, width: int = 6) -> tuple[Tensor, Tensor]:
    """Activations as after a ReLU with one clear component, and signed gradients."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(batch, channels, height, width, generator=generator)
    blob = torch.zeros(batch, 1, height, width)
    blob[:, :, 1:3, 2:5] = 2
    strength = torch.rand(batch, channels, 1, 1, generator=generator)
    return (noise * 0.5 + blob * strength).relu(), torch.rand(batch, channels, height, width, generator=generator) - 0.3


def run(method: Method, activations: Tensor, gradients: Tensor) -> Tensor:
    """The map of a method that needs activations, or gradients too."""
    return method.function(*[activations, gradients][: len(method.ingredients)])


def close(ours: Tensor, theirs: object, tolerance: float = 1e-5) -> None:
    """Equal up to a fraction of the largest value."""
    theirs = torch.as_tensor(np.asarray(theirs)).double()
    ours = ours.double()
    assert ours.shape == theirs.shape
    error, largest = float((ours - theirs).abs().max()), float(theirs.abs().max())
    assert error <= tolerance * largest, f"differs by {error} of {largest}"


def close_up_to_sign(ours: Tensor, theirs: np.ndarray, tolerance: float) -> None:
    """Equal to one of a map and its negative, for each image."""
    theirs = torch.as_tensor(theirs).double()
    close(ours, theirs * (theirs * ours.double()).sum((1, 2), keepdim=True).sign(), tolerance)


# ----------------------------------------------------------------------------------------------------- slow references


def test_components_equal_full_decompositions() -> None:
    """Lanczos gives the first component of a full float64 SVD, sign included (1e-4: a component's own conditioning)."""
    activations, gradients = pair()
    a, g = activations.double().numpy(), gradients.double().numpy()
    close(methods.eigen_cam(activations), reference.principal_component(a), 1e-4)
    close(methods.eigen_grad_cam(activations, gradients), reference.principal_component(a * g), 1e-4)
    ours = methods.seg_eigen_cam(activations, gradients)
    close_up_to_sign(ours, reference.principal_component(a * np.abs(g)), 1e-4)
    assert bool((ours.amax((1, 2)) >= -ours.amin((1, 2))).all())


def test_kernel_component_equals_slow_kernel() -> None:
    """KPCA-CAM equals the eigenvector of a kernel matrix filled pair by pair."""
    activations = pair()[0]
    close(methods.kpca_cam(activations), reference.kpca_cam(activations.double().numpy()), 1e-4)
    close(methods.kpca_cam(activations, gamma=0.5), reference.kpca_cam(activations.double().numpy(), 0.5), 1e-4)


def test_fem_equals_slow_loop() -> None:
    """FEM equals the loop over positions, for several thresholds."""
    activations = pair()[0]
    for sigmas in (0.5, 1.0, 2.0):
        close(methods.fem(activations, sigmas=sigmas), reference.fem(activations.double().numpy(), sigmas))


@pytest.mark.parametrize("size", [5, 60, 300])
def test_leading_eigenpair(size: int) -> None:
    """The Lanczos pair equals the dense solver's, for indefinite matrices too."""
    generator = torch.Generator().manual_seed(size)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T
    values, vectors = torch.linalg.eigh(matrix)
    vector, value = methods.leading_eigenpair(lambda v: matrix @ v, matrix[0])
    assert value == pytest.approx(float(values[-1]), rel=1e-9)
    assert float((vector @ vectors[:, -1]).abs()) == pytest.approx(1, abs=1e-6)


def test_degenerate_matrices() -> None:
    """Zero, one-by-one and rank-one matrices end the iteration early and give finite results."""
    for matrix in (torch.zeros(4, 4), torch.full((1, 1), 3.0), torch.ones(6, 6), torch.eye(5)):
        vector, value = methods.leading_eigenpair(lambda v, m=matrix: m @ v, matrix[0])
        assert float(vector.norm()) == pytest.approx(1, abs=1e-5)
        assert value == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), abs=1e-5)


# --------------------------------------------------------------------------------------------------------- equivalences


@every
def test_batch_is_one_by_one(method: Method) -> None:
    """A batch gives what its images give alone."""
    activations, gradients = pair()
    alone = [run(method, a[None], g[None]) for a, g in zip(activations, gradients, strict=True)]
    close(run(method, activations, gradients), torch.cat(alone), 1e-5)


@every
def test_follows_flips_and_channel_order(method: Method) -> None:
    """A mirrored input gives a mirrored map, sign included; the order of the channels means nothing."""
    activations, gradients = pair()
    expected = run(method, activations, gradients)
    close(run(method, activations.flip(-1), gradients.flip(-1)), expected.flip(-1), 1e-4)
    order = torch.randperm(activations.shape[1], generator=torch.Generator().manual_seed(0))
    close(run(method, activations[:, order], gradients[:, order]), expected, 1e-4)
    views = [t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for t in (activations, gradients)]
    close(run(method, *views), expected, 1e-4)


@every
def test_half_precision_and_arguments(method: Method) -> None:
    """Half precisions are computed in float32, arguments are not written to, the global generator is left alone."""
    activations, gradients = (t.half() for t in pair())
    before, state = activations.clone(), torch.get_rng_state()
    ours = run(method, activations, gradients)
    assert ours.dtype == torch.float32
    close(ours, run(method, activations.float(), gradients.float()), 1e-5)
    assert torch.equal(activations, before)
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_autocast_of_the_caller_changes_nothing(method: Method) -> None:
    """Inside torch.autocast the map is the same float32 map."""
    activations, gradients = pair()
    with torch.autocast("cpu", torch.bfloat16):
        ours = run(method, activations, gradients)
    assert ours.dtype == torch.float32
    close(ours, run(method, activations, gradients), 1e-6)


@every
def test_flat_activations_give_finite_maps(method: Method) -> None:
    """Constant and zero activations, and maps of one position, give finite maps; nothing stands out of a constant."""
    for shape in ((2, 3, 4, 4), (1, 3, 1, 1), (1, 1, 3, 3)):
        for value in (0.0, 0.1):
            flat = torch.full(shape, value)
            assert float(run(method, flat, torch.ones(shape)).abs().max()) < 1e-6


def test_sign_agrees_with_the_sum() -> None:
    """Eigen-CAM is positively correlated with the sum of the activations, for either sign of them."""
    for sign in (1, -1):
        activations = sign * pair()[0]
        total = activations.sum(1)
        assert bool(
            ((total - total.mean((1, 2), keepdim=True)) * methods.eigen_cam(activations)).sum((1, 2)).gt(0).all()
        )


def test_landmarks_of_large_maps() -> None:
    """Above 56 x 56 positions the kernel component is found on a grid and correlates over 0.99 with the full one."""
    rows = torch.linspace(0, 3, 64)
    smooth = torch.stack([torch.sin((k + 1) * rows[:, None] + k * rows) for k in range(6)])[None]
    full, methods._LANDMARKS = methods._LANDMARKS, 10**9
    try:
        exact = methods.kpca_cam(smooth)
    finally:
        methods._LANDMARKS = full
    both = torch.stack([methods.kpca_cam(smooth).flatten(), exact.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.99


# ------------------------------------------------------------------------------------------------ independent libraries


def bare(module: str, name: str, **attributes: object):
    """An object of a pytorch-grad-cam class without its model and hooks."""
    package = pytest.importorskip(f"pytorch_grad_cam.{module}")
    instance = object.__new__(getattr(package, name))
    instance.activations_and_grads = types.SimpleNamespace(release=lambda: None)
    vars(instance).update(attributes)
    return instance


@pytest.mark.parametrize(
    ("ours", "module", "name", "attributes", "signed"),
    [
        ("eigen_cam", "eigen_cam", "EigenCAM", {}, False),
        ("eigen_grad_cam", "eigen_grad_cam", "EigenGradCAM", {}, False),
        ("seg_eigen_cam", "seg_eigen_cam", "SegEigenCAM", {}, True),
        ("kpca_cam", "kpca_cam", "KPCA_CAM", {"kernel": "sigmoid", "gamma": None}, False),
        ("fem", "fem", "FEM", {"k": 2}, True),
    ],
)
def test_agrees_with_pytorch_grad_cam(ours: str, module: str, name: str, attributes: dict, signed: bool) -> None:
    """The same activations and gradients give pytorch-grad-cam's map (1e-3: its SVD is float32 too).

    Where its sign is whatever the SVD returns, ours is fixed, so the comparison is up to sign there.
    """
    activations, gradients = pair()
    theirs = bare(module, name, **attributes).get_cam_image(
        None, None, None, activations.numpy(), gradients.numpy(), False
    )
    if signed:
        close(run(METHODS[ours], activations, gradients), theirs, 1e-3)
    else:
        close_up_to_sign(run(METHODS[ours], activations, gradients), theirs, 1e-3)


# ------------------------------------------------------------------------------------------------------------- concepts


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Two images made of three concepts, each in its own place: activations, maps (B,3,H,W), vectors (3,C)."""
    maps = torch.zeros(2, 3, 6, 6)
    maps[0, 0, :3], maps[0, 1, 3:], maps[1, 2, :, :3], maps[1, 0, :, 3:] = 1.0, 0.5, 1.0, 0.7
    maps[1, 1, 5, 5], maps[1, 0, 5, 5] = 1.0, 0.0
    vectors = torch.rand(3, 8, generator=torch.Generator().manual_seed(4)) * torch.tensor([3.0, 2.0, 1.0])[:, None]
    return torch.einsum("bkhw,kc->bchw", maps, vectors), maps, vectors


def test_concepts_are_found_again() -> None:
    """Activations made of three separate concepts are taken apart exactly: maps, vectors, order and scale."""
    activations, maps, vectors = scene()
    found = methods.deep_feature_factorization(activations, concepts=3)
    assert found.error < 1e-3
    strength = maps.transpose(0, 1).flatten(1).norm(dim=1) * vectors.norm(dim=1)
    order = strength.argsort(descending=True)
    close(found.maps, maps[:, order], 2e-3)
    close(found.concepts, vectors[order], 2e-3)
    assert not found.offset.any()


def test_concepts_rebuild_the_activations() -> None:
    """offset + maps x concepts is the activations up to the stated error, for signed activations too."""
    activations = pair()[0] - 0.3
    found = methods.deep_feature_factorization(activations, concepts=7, iterations=2000)
    rebuilt = torch.einsum("bkhw,kc->bchw", found.maps, found.concepts) + found.offset[:, None, None]
    lifted = activations - found.offset[:, None, None]
    assert float((activations - rebuilt).norm() / lifted.norm()) == pytest.approx(found.error, abs=1e-3)
    assert found.maps.amax((0, 2, 3)).tolist() == pytest.approx([1.0] * 7)
    assert float(found.maps.min()) >= 0
    assert float(found.concepts.min()) >= 0
    assert bool((found.offset <= 0).all())


def test_concepts_as_good_as_sklearn() -> None:
    """On noise, the hardest case, what is left over is at most 2 % more than scikit-learn's from its best start."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    activations = torch.randn(1, 32, 14, 14, generator=torch.Generator().manual_seed(8)).relu()
    found = methods.deep_feature_factorization(activations, concepts=5)
    rows = activations[0].flatten(1).T.double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = decomposition.NMF(5, init="nndsvd", max_iter=500).fit(rows)
    assert found.error <= 1.02 * model.reconstruction_err_ / np.linalg.norm(rows)


def test_concepts_agree_with_pytorch_grad_cam() -> None:
    """pytorch-grad-cam's factorization finds the same concepts where only one answer exists (cosine over 0.99).

    The concepts have channels of their own, since its random start else ends in another answer as good; and every
    channel is zero somewhere, since it takes off each channel's minimum and we only a negative one.
    """
    package = pytest.importorskip("pytorch_grad_cam.feature_factorization.deep_feature_factorization")
    own = torch.eye(3).repeat_interleave(3, dim=1) * (1 + torch.arange(9))  # (3,9)
    activations = torch.einsum("bkhw,kc->bchw", scene()[1], own)
    ours = methods.deep_feature_factorization(activations, concepts=3).maps.transpose(0, 1).flatten(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.tensor(package.dff(activations.numpy(), 3)[1]).transpose(0, 1).flatten(1)
    cosine = torch.nn.functional.normalize(ours) @ torch.nn.functional.normalize(theirs).T
    assert float(cosine.amax(1).min()) > 0.99


def test_concepts_are_repeatable() -> None:
    """The same activations give the same concepts, and the global generator is left alone."""
    activations, state = pair()[0], torch.get_rng_state()
    first, second = (methods.deep_feature_factorization(activations, concepts=3) for _ in range(2))
    assert torch.equal(first.maps, second.maps)
    assert torch.equal(torch.get_rng_state(), state)


def test_concepts_at_the_edges() -> None:
    """Zero activations have no concepts but an answer; more concepts than channels or positions are refused."""
    found = methods.deep_feature_factorization(torch.zeros(1, 4, 3, 3), concepts=2)
    assert not found.maps.any()
    assert found.error == 0
    flat = methods.deep_feature_factorization(torch.ones(1, 4, 3, 3), concepts=3)  # rank one: two concepts stay empty
    assert flat.error < 1e-3
    assert bool(torch.isfinite(flat.maps).all())
    for count in (0, 5):
        with pytest.raises(MethodError, match=r"1\.\.4"):
            methods.deep_feature_factorization(torch.rand(1, 4, 3, 3), concepts=count)


# ----------------------------------------------------------------------------------------------------- speed and memory


@pytest.mark.parametrize("shape", [(1, 2048, 7, 7), (1, 64, 112, 112), (1, 256, 112, 112)])
def test_components_are_quick(shape: tuple[int, ...]) -> None:
    """The first component of an early or late layer of a ResNet-50 takes less than a second."""
    activations = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu()
    methods.eigen_cam(activations[..., :4, :4])
    best = min(_seconds(lambda: methods.eigen_cam(activations)) for _ in range(3))
    assert best < 1


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


_MEMORY = """
import resource, torch
torch.set_num_threads(1)
from grad_cam.methods import factorization as methods
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
activations = torch.rand(1, {channels}, 112, 112)
{function}(torch.rand(1, 8, 16, 16))
before = used()
{function}(activations)
print(used() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in kilobytes, as Linux gives it")
@pytest.mark.parametrize("function", ["eigen_cam", "kpca_cam", "deep_feature_factorization"])
def test_components_are_small(function: str) -> None:
    """At 256 x 112 x 112 the extra memory stays under 200 MB (a full SVD takes more than 600)."""
    script = _MEMORY.format(channels=256, function=f"methods.{function}")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200
