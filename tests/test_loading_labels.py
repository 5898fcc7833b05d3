"""The names of classes, and which class a name means."""

from __future__ import annotations

import argparse
import copy
import pickle
import time

import numpy as np
import pytest
import torch
from torch import nn

from grad_cam import loading
from grad_cam.loading import ClassNames, ModelError

from .test_loading_models import SMALL, tiny


@pytest.fixture(scope="module")
def demo() -> nn.Module:
    """The demo model; read only."""
    return loading.load("demo")


def test_imagenet_names_are_short_and_unique(demo):
    """A thousand classes have ImageNet's names: the first synonym, and what tells the two cranes apart."""
    names = loading.class_names(demo)
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[281], names[967]) == ("tench", "tabby", "espresso")
    assert (names[134], names[517]) == ("crane (bird)", "crane (machine)")
    assert all(loading.class_index(demo, name) == index for index, name in enumerate(names))


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("tabby", 281), ("Tabby", 281), ("tabby cat", 281), ("TABBY_CAT", 281), (" tabby ", 281), ("n02123045", 281),
        (281, 281), ("281", 281), ("gold fish", 1),
        ("Gold-Fish", 1), ("gold_fish", 1), ("espresso", 967), ("Cardigan", 264), ("cardigan", 474),
        ("Cardigan Welsh corgi", 264), (0, 0), (999, 999),
    ],
)  # fmt: skip
def test_class_by_name(demo, name, index):
    """A class is found by name, synonym, WordNet id or index, and by exact case where only that decides."""
    assert loading.class_index(demo, name) == index


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("taby", "'tabby'"),
        ("cat", "'tabby cat' (281), 'tiger cat' (282), 'Persian cat' (283)"), ("cat", "end in it"),
        ("corgi", "'Pembroke Welsh corgi' (263), 'Cardigan Welsh corgi' (264) end in it"),
        ("crane", "'crane (bird)' (134) or 'crane (machine)' (517)"), ("zzzz", "no class 'zzzz'; give an index"),
        (1000, "use 0..999"), (-1, "out of range"), ("1000", "out of range"),
        (True, "bool"), (1.0, "float"), ("", "no class"),
    ],
)  # fmt: skip
def test_wrong_classes(demo, name, said):
    """A class that is not there is named, with the closest ones; an ambiguous name is not guessed."""
    with pytest.raises(ModelError) as caught:
        loading.class_index(demo, name)
    assert said in str(caught.value)


@pytest.mark.parametrize("index", [np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_indices_of_any_kind(demo, index):
    """Whole numbers of numpy and torch are indices and counts like any other."""
    found = loading.class_index(demo, index)
    assert type(found) is int and found == 3
    assert loading.class_count(loading.load(SMALL, pretrained=False, num_classes=index)) == 3


def test_own_class_names_win():
    """`class_names`, a list or a dict, wins over everything else, also on a wrapper, and has to fit."""
    model = tiny()
    assert loading.class_names(model) is None and loading.class_index(model, 2) == 2
    with pytest.raises(ModelError, match="not known.*class_names"):
        loading.class_index(model, "dog")
    with pytest.raises(ModelError, match="use 0..2"):
        loading.class_index(model, 3)
    for names in (["cat", "dog", "owl"], {0: "cat", 1: "dog", 2: "owl"}, {"2": "owl", "1": "dog", "0": "cat"}):
        model.class_names = names
        assert loading.class_names(model) == ["cat", "dog", "owl"] and loading.class_index(model, "DOG") == 1
    assert loading.class_names(nn.DataParallel(model)) == ["cat", "dog", "owl"]
    for wrong in (["cat", "dog"], {1: "cat", 2: "dog", 3: "owl"}, 3):
        model.class_names = wrong
        with pytest.raises(ModelError, match="list of 3 class names"):
            loading.class_names(model)


def test_names_told_twice_are_told_apart():
    """Equal names get their index, and are found by it."""
    model = tiny()
    model.class_names = ["cell", "cell", "dirt"]
    assert loading.class_names(model) == ["cell (0)", "cell (1)", "dirt"]
    assert loading.class_index(model, "cell (1)") == 1
    with pytest.raises(ModelError, match="could be"):
        loading.class_index(model, "cell")


def test_names_from_a_configuration():
    """Meaningful names in a configuration count; LABEL_0 and the like do not."""
    model = tiny(2)
    model.config = argparse.Namespace(num_labels=2, id2label={0: "LABEL_0", 1: "LABEL_1"})
    assert loading.class_names(model) is None
    model.config.id2label = {0: "ant, emmet", 1: "bee"}
    assert loading.class_names(model) == ["ant, emmet", "bee"] and loading.class_index(model, "emmet") == 0
    del model.config
    model.pretrained_cfg = {"label_names": ["n1", "n2"], "label_descriptions": {"n1": "moth", "n2": "fly"}}
    assert loading.class_names(model) == ["moth", "fly"]


def test_labels_are_fast_and_nobodys_to_break(demo):
    """Names are read once: asking again takes well under a millisecond or two, and a changed list changes no other."""
    loading.class_names(demo).clear()
    start = time.perf_counter()
    for _ in range(10):
        assert len(loading.class_names(demo)) == 1000
    assert time.perf_counter() - start < 0.1


def test_names_are_a_list_that_survives_copies(demo):
    """Names compare like a list, and a pickled or deep-copied one still finds synonyms."""
    names = loading.class_names(demo)
    for again in (pickle.loads(pickle.dumps(names)), copy.deepcopy(names)):
        assert isinstance(again, ClassNames) and again == names == list(names)
        assert again.index_of("gold fish") == 1 and again.index_of("n02123045") == 281
    own = ClassNames(["ant, emmet", "bee", "bee"])
    assert own == ["ant, emmet", "bee (1)", "bee (2)"] and own.index_of("EMMET") == 0


def test_names_that_many_classes_end_in(demo):
    """Where more than five classes end in a word, the others are counted."""
    with pytest.raises(ModelError, match=r"no class 'terrier'; .*\(\d+\) and \d+ more end in it; give one class"):
        loading.class_index(demo, "terrier")
