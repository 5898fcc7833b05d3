"""Targets: their scores against plain arithmetic and independent libraries, how they are fixed, and their errors."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from grad_cam import targets
from grad_cam.loading import ClassNames, ModelError
from grad_cam.targets import TargetError, resolve

NAMES = ClassNames(["tench", "goldfish", "Great White", "tabby", "hen"])


def logits(batch: int = 3, classes: int = 5) -> Tensor:
    """A fixed batch of random logits; the largest are those of classes 4, 1 and 0."""
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(2))


def close(ours: Tensor, theirs: object) -> None:
    """Equal up to float32 rounding."""
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=1e-6, atol=1e-7)


# --------------------------------------------------------------------------------------------------------------- scores


def test_scores_are_plain_arithmetic() -> None:
    """Each target called on logits equals the formula written out image by image."""
    z = logits()
    best = [int(row.argmax()) for row in z]
    close(targets.logit(2)(z), [row[2] for row in z])
    close(targets.predicted()(z), [row.max() for row in z])
    close(targets.negative(1)(z), [-row[1] for row in z])
    close(targets.negative()(z), [-row.max() for row in z])
    close(targets.probability(3)(z), [row[3].exp() / row.exp().sum() for row in z])
    close(targets.difference(0, 4)(z), [row[0] - row[4] for row in z])
    close(targets.regression(4)(z), [row[4] for row in z])
    close(targets.top(2)(z), [row.sort(descending=True).values[:2].tolist() for row in z])
    close(targets.binary()(z[:, :1]), z[:, 0])
    close(targets.binary(positive=False)(z[:, :1]), -z[:, 0])
    slow = []
    for row, k in zip(z.tolist(), best, strict=True):
        others = sorted((abs(y - row[k]), y) for d, y in enumerate(row) if d != k)[:3]
        slow.append(row[k] - 0.6 * sum(y for _, y in others) / 3)
    close(targets.finer()(z), slow)
    close(targets.finer([0, 1], gamma=1.0, k=3)(z), [row[3] - (row[0] + row[1]) / 2 for row in z])


def test_probability_of_a_single_output_is_its_sigmoid() -> None:
    """A softmax over one output is always 1, with a zero gradient; the sigmoid is what is meant."""
    z = logits(3, 1)
    close(targets.probability()(z), z[:, 0].sigmoid())


def test_finer_with_few_classes() -> None:
    """With two classes there is one other to compare with, whatever number is asked for."""
    z = logits(3, 2)
    close(targets.finer(k=0)(z), z[:, 0] - 0.6 * z[:, 1])


def test_similarity() -> None:
    """Cosine similarity with one embedding for all images or one for each."""
    z, e = logits(), torch.randn(3, 5)
    close(targets.similarity(e[0])(z), [row @ e[0] / row.norm() / e[0].norm() for row in z])
    close(targets.similarity(e)(z), [row @ each / row.norm() / each.norm() for row, each in zip(z, e, strict=True)])
    close(resolve(targets.similarity(z), z).scores[0](z), torch.ones(3))


def test_segmentation() -> None:
    """The class's logits summed over a mask: given for all, for each image, or where the class is predicted."""
    z = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 2] = True
    close(targets.segmentation(1, mask)(z), [image[1, 1, 2] + image[1, 2, 2] for image in z])
    both = torch.stack([torch.as_tensor(mask), torch.ones(4, 5, dtype=torch.bool)])
    close(targets.segmentation(1, both)(z)[1], z[1, 1].sum())
    predicted = [sum(float(v) for v, k in zip(i[2].flatten(), i.argmax(0).flatten(), strict=True) if k == 2) for i in z]
    close(targets.segmentation(2)(z), predicted)


def test_agrees_with_pytorch_grad_cam() -> None:
    """Logit, softmax, binary and segmentation scores are those of pytorch-grad-cam's targets for single images."""
    theirs = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    z = logits()
    close(targets.logit(2)(z), theirs.ClassifierOutputTarget(2)(z))
    close(targets.probability(2)(z), theirs.ClassifierOutputSoftmaxTarget(2)(z))
    close(targets.binary(False)(z[:, :1]), theirs.BinaryClassifierOutputTarget(0)(z[:, 0]))
    maps, mask = torch.randn(1, 3, 4, 5), np.eye(4, 5, dtype=np.float32)
    close(targets.segmentation(1, mask)(maps)[0], theirs.SemanticSegmentationTarget(1, mask)(maps[0]))
    score = resolve([theirs.ClassifierOutputTarget(k) for k in (4, 0, 1)], z).scores[0]
    close(score(z), z[[0, 1, 2], [4, 0, 1]])


def test_finer_agrees_with_torchcam() -> None:
    """Finer's score is torchcam's contrastive score: the plain mean over the nearest logits.

    pytorch-grad-cam weights the other classes by their probabilities instead, so it is no oracle here.
    """
    finer = pytest.importorskip("torchcam.methods").FinerCAM
    z = logits()
    instance = object.__new__(finer)
    instance.gamma, instance.num_references = 0.6, 3
    theirs = instance._contrastive_scores([1, 2, 0], z, None)[:, 0]
    ours = resolve([targets.finer(k=1), targets.finer(k=2), targets.finer(k=0)], z).scores[0]
    close(ours(z), theirs)


# -------------------------------------------------------------------------------------------------------------- resolve


@pytest.mark.parametrize(
    ("target", "classes", "several"),
    [
        (None, [[3], [0], [1]], False),
        (2, [[2], [2], [2]], False),
        (np.int64(2), [[2], [2], [2]], False),
        (torch.tensor(2), [[2], [2], [2]], False),
        ("hen", [[4], [4], [4]], False),
        ("GREAT white", [[2], [2], [2]], False),
        ([1, "tabby", None], [[1], [3], [1]], False),
        ([np.int64(1), torch.tensor(3), np.array(1)], [[1], [3], [1]], False),
        (targets.logit(np.int64(2)), [[2], [2], [2]], False),
        (targets.top(np.int64(2)), [[3, 1], [0, 4], [1, 2]], True),
        (targets.regression(torch.tensor(2)), None, False),
        (np.array([0, 1, 2]), [[0], [1], [2]], False),
        (torch.tensor([0, 1, 2]), [[0], [1], [2]], False),
        ([[0, 1], (2, "hen"), [4, 4]], [[0, 1], [2, 4], [4, 4]], True),
        (torch.tensor([[0], [1], [2]]), [[0], [1], [2]], True),
        ([targets.logit(4), targets.negative("tench"), 1], [[4], [0], [1]], False),
        (targets.top(2), [[3, 1], [0, 4], [1, 2]], True),
        (lambda z: z[:, 1] ** 2, None, False),
    ],
)
def test_what_can_be_asked_for(target: object, classes: object, several: bool) -> None:
    """Indices, names, arrays, lists per image, lists of lists, targets and functions all resolve to classes (B, K)."""
    z = torch.tensor([[0.0, 2, 1, 3, -1], [5, 1, 2, 0, 4], [0, 9, 8, 1, 2]])
    found = resolve(target, z, NAMES)
    assert (found.classes.tolist() if found.classes is not None else None) == classes
    assert found.several is several
    assert len(found.names) == 3
    assert all(len(row) == len(found.scores) for row in found.names)
    for k, score in enumerate(found.scores):
        assert score(z).shape == (3,)
        if classes is not None and not any(name.startswith("against") for row in found.names for name in row):
            close(score(z), [z[b, classes[b][k]] for b in range(3)])


@pytest.mark.parametrize("kind", [np.int64, np.array, torch.tensor])
def test_whole_numbers_of_any_kind(kind: Callable[[int], object]) -> None:
    """Whole numbers of numpy and torch do wherever a class or a count does."""
    z, one, two = logits(), kind(1), kind(2)
    for given, plain in (
        (targets.logit(two), targets.logit(2)), (targets.probability(two), targets.probability(2)),
        (targets.difference(one, two), targets.difference(1, 2)), (targets.regression(two), targets.regression(2)),
        (targets.finer(two, k=one), targets.finer(2, k=1)),
        (targets.finer([one, two], k=0), targets.finer([1, 2], k=0)),
    ):  # fmt: skip
        close(given(z), plain(z))


def test_names_say_what_is_explained() -> None:
    """Words for titles: class names where known, indices elsewhere, and what is done with them."""
    z = torch.tensor([[0.0, 2, 1, 3, -1]])
    said = {
        "tabby": None, "hen rather than tench": targets.difference(4, 0), "against goldfish": targets.negative(1),
        "probability of hen": targets.probability("hen"), "what sets tabby apart": targets.finer(),
        "custom target": lambda z: z[:, 0], "output 2": targets.regression(2),
    }  # fmt: skip
    for words, target in said.items():
        assert resolve(target, z, NAMES).names == [[words]]
    assert resolve(2, z).names == [["class 2"]]
    assert repr(targets.difference("a", None)) == "difference('a', None)"


def test_rows_tell_versions_of_images_apart() -> None:
    """On perturbed logits each row keeps the classes fixed for its image, in any order and number."""
    z, rows = logits(), torch.tensor([2, 0, 0, 2, 1])
    versions = torch.randn(5, 5, generator=torch.Generator().manual_seed(9))
    best = z.argmax(1)
    close(resolve(None, z).scores[0](versions, rows), [versions[n, best[b]] for n, b in enumerate(rows)])
    mixed = resolve([1, targets.negative(2), lambda z: z.sum(1)], z).scores[0]
    expected = [[lambda v: v[1], lambda v: -v[2], lambda v: v.sum()][b](versions[n]) for n, b in enumerate(rows)]
    close(mixed(versions, rows), expected)
    own = resolve(targets.finer(2), z).scores[0](versions, rows)
    for n, b in enumerate(rows.tolist()):
        nearest = [d for d in (z[b] - z[b].max()).abs().argsort().tolist() if d != best[b]][:2]
        close(own[n], versions[n, best[b]] - 0.6 * versions[n, nearest].mean())
    with pytest.raises(TargetError, match="rows="):
        resolve(None, z).scores[0](versions)


def test_batch_is_one_by_one() -> None:
    """A target fixed on a batch scores each image as if it were alone."""
    z = logits()
    for target in (None, targets.finer(), targets.probability(), targets.difference(None, 3), targets.top(3)):
        together = torch.stack([s(z) for s in resolve(target, z).scores], 1)
        alone = torch.cat([torch.stack([s(row[None]) for s in resolve(target, row[None]).scores], 1) for row in z])
        close(together, alone)


def test_scores_have_gradients_of_their_own_image_only() -> None:
    """The gradient of image b's score is zero on every other image's logits."""
    for target in (None, [1, 2, 3], targets.finer(), targets.probability(2), [targets.logit(1), 2, lambda z: z[:, 0]]):
        z = logits().requires_grad_()
        (gradient,) = torch.autograd.grad(resolve(target, z.detach()).scores[0](z)[1], z)
        assert gradient[1].any()
        assert not gradient[[0, 2]].any()


def test_names_from_a_function() -> None:
    """Names may be looked up by a function, so that synonyms can be understood elsewhere."""
    assert resolve("cat", logits(), lambda name: {"cat": 3}[name]).classes.tolist() == [[3]] * 3


def test_one_resolver_wherever_a_name_stands() -> None:
    """A name that needs the resolver (case, spaces, synonyms) works alone, in lists and inside every target."""
    names, z = ClassNames(["tench, Tinca tinca", "goldfish", "great white shark", "tabby cat", "hen"]), logits()
    assert resolve("gold fish", z, names).classes.tolist() == [[1]] * 3
    assert resolve(["gold fish", 0, "Tinca tinca"], z, names).classes.tolist() == [[1], [0], [0]]
    assert resolve([["gold-fish", "Tabby_Cat"]] * 3, z, names).classes.tolist() == [[1, 3]] * 3
    for made, plain in (
        (targets.logit("gold fish"), targets.logit(1)), (targets.negative("GOLDFISH"), targets.negative(1)),
        (targets.probability("1"), targets.probability(1)),
        (targets.difference("gold fish", "tinca TINCA"), targets.difference(1, 0)),
        (targets.finer(["gold fish", "hen"], k="tabby-cat"), targets.finer([1, 4], k=3)),
    ):  # fmt: skip
        close(resolve(made, z, names).scores[0](z), plain(z))
        close(resolve([made] * 3, z, names).scores[0](z), plain(z))
    for target in ("cat", targets.logit("cat"), ["cat", 0, 0]):
        with pytest.raises(ModelError, match=r"'tabby cat' \(3\) ends in it"):
            resolve(target, z, names)


def test_a_plain_list_of_names_finds_exact_ones() -> None:
    """Without a resolver only the name itself is found; which class is meant otherwise is decided in one place."""
    names = ["tench", "goldfish", "hen", "tabby", "7"]
    assert resolve("goldfish", logits(), names).classes.tolist() == [[1]] * 3
    assert resolve("7", logits(), names).classes.tolist() == [[4]] * 3
    assert resolve("2", logits(), names).classes.tolist() == resolve("2", logits()).classes.tolist() == [[2]] * 3
    with pytest.raises(TargetError, match="no class has this name"):
        resolve("Goldfish", logits(), names)


EVERY = {
    "logit": targets.logit(3), "named": targets.logit("hen"), "predicted": targets.predicted(),
    "negative": targets.negative(1), "probability": targets.probability(np.int64(2)),
    "difference": targets.difference(None, 3), "top": targets.top(3), "finer": targets.finer(),
    "finer of classes": targets.finer([0, "hen"], 0.3, 1), "regression": targets.regression(2),
    "similarity": targets.similarity(torch.arange(5.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_targets_survive_copies(name: str, again: Callable[[object], object]) -> None:
    """A target, and what becomes of it on a batch, gives the same scores after pickle and after a deep copy."""
    target, z = EVERY[name], logits()
    second = again(target)
    assert repr(second) == repr(target)
    first, other = resolve(target, z, NAMES), again(resolve(second, z, NAMES))
    assert other.names == first.names and other.several is first.several
    for one, two in zip(first.scores, other.scores, strict=True):
        assert torch.equal(one(z), two(z))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_targets_of_other_outputs_survive_copies(again: Callable[[object], object]) -> None:
    """So do the targets of one output and of segmentation, and a list with one target per image."""
    z = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    masked = targets.segmentation(1, np.eye(4, 5, dtype=bool))
    assert torch.equal(again(masked)(z), masked(z))
    assert torch.equal(again(targets.binary(False))(logits(3, 1)), -logits(3, 1)[:, 0])
    mixed = resolve([1, targets.negative(2), targets.finer()], logits())
    assert torch.equal(again(mixed).scores[0](logits()), mixed.scores[0](logits()))


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (5, TargetError, r"class 5 of a model with 5 classes; use 0\.\.4"),
        (-1, TargetError, r"use 0\.\.4"),
        ([1, 2], TargetError, "list of 2 for a batch of 3"),
        ([1, 2, 3, 4], TargetError, "one list per image"),
        ([], TargetError, "list of 0"),
        ([1, 2, 9], TargetError, "class 9"),
        ([[1, 2], [3], [4, 0]], TargetError, "equally many"),
        ([[1], 2, [3]], TargetError, "equally many"),
        ([[], [], []], TargetError, "equally many"),
        ([targets.top(2), 1, 2], TargetError, "cannot be part of a list"),
        ("tabbi", ModelError, "did you mean 'tabby'"),
        ("zzzzqqqq", ModelError, "give an index"),
        (True, TypeError, "not a target"),
        (1.0, TypeError, "not a target"),
        (dict, TypeError, "not a target"),
        (lambda z: z.sum(), TargetError, "one score per image"),
        (lambda z: z, TargetError, "one score per image"),
        (lambda z: 3.0, TargetError, "float"),
        (targets.top(6), TargetError, r"use 1\.\.5"),
        (targets.top(0), TargetError, r"use 1\.\.5"),
        (targets.regression(5), TargetError, r"use 0\.\.4"),
        (targets.binary(), TargetError, "one output"),
        (targets.difference(1, 1), TargetError, "with itself"),
        (targets.finer([1, 2], k=1), TargetError, "with itself"),
        (targets.finer(0), TargetError, "compares with nothing"),
        (targets.finer(True), TargetError, "a list of them"),
        (targets.finer(2.0), TargetError, "a list of them"),
        (targets.top(True), TargetError, r"use 1\.\.5"),
        (targets.top("two"), TargetError, r"use 1\.\.5"),
        (targets.regression(True), TargetError, r"use 0\.\.4"),
        (np.bool_(True), TypeError, "not a target"),
        (targets.finer("hen"), TargetError, "a list of them"),
        (targets.segmentation(1), TargetError, r"use logit\(k\)"),
        (targets.similarity(torch.ones(4)), TargetError, r"use \(5,\)"),
        (targets.logit("nobody"), ModelError, "no class 'nobody'"),
        (targets.logit(1.5), TypeError, "not a class"),
    ],
)
def test_bad_targets_are_named(target: object, error: type[Exception], message: str) -> None:
    """What does not fit says what was given and what would fit."""
    with pytest.raises(error, match=message):
        resolve(target, logits(), NAMES)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: targets.finer(gamma="a"), "gamma='a' is not a strength"),
        (lambda: targets.similarity("a"), r"embedding is a tensor \(str\)"),
        (lambda: targets.similarity(None), "NoneType"),
        (lambda: targets.segmentation(1, "a"), "mask"),
    ],
)
def test_settings_of_another_type(made: Callable[[], object], message: str) -> None:
    """A setting of a wrong type is refused when the target is made, before a model runs."""
    with pytest.raises(TypeError, match=message):
        made()
    with pytest.raises(ValueError, match="gamma=-1"):
        targets.finer(gamma=-1)


def test_bad_outputs_are_named() -> None:
    """Outputs that are no (B, classes) point to the target that fits; so do names that are unknown or not unique."""
    pictures = torch.randn(2, 3, 4, 5)
    with pytest.raises(TargetError, match="segmentation"):
        resolve(targets.probability(1), pictures)
    with pytest.raises(TargetError, match="segmentation"):
        resolve(targets.difference(1, 2), pictures)
    with pytest.raises(TargetError, match="resize"):
        resolve(targets.segmentation(1, torch.ones(8, 8)), pictures)
    with pytest.raises(TargetError, match="empty in image 0"):
        resolve(targets.segmentation(1, torch.zeros(4, 5)), pictures)
    with pytest.raises(TargetError, match="one output"):
        resolve(targets.finer(), logits(3, 1))
    with pytest.raises(TargetError, match="give an index"):
        resolve("tabby", logits())
    with pytest.raises(TargetError, match=r"\[0, 2\]"):
        resolve("crane", logits(1, 3), ["crane", "hen", "crane"])
