"""Which part of what a model returns are the logits, and which row belongs to which image."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

from grad_cam.errors import OutputError
from grad_cam.outputs import find_logits, rows

LOGITS, OTHER = torch.randn(2, 7), torch.randn(2, 5, 3)


@pytest.mark.parametrize(
    "returned",
    [
        LOGITS, {"logits": LOGITS, "hidden": OTHER}, {"out": LOGITS, "aux": OTHER}, {"anything": LOGITS}, (LOGITS,),
        [LOGITS, None], types.SimpleNamespace(logits=LOGITS, hidden=OTHER),
    ],
)  # fmt: skip
def test_logits_are_found(returned: Any) -> None:
    """A tensor, an entry or attribute of a known name, or the only tensor there is."""
    assert find_logits(returned) is LOGITS


@pytest.mark.parametrize(
    ("returned", "output"),
    [
        ((OTHER, LOGITS), 1), ({"a": OTHER, "b": LOGITS}, "b"), (types.SimpleNamespace(a=OTHER, b=LOGITS), "b"),
        ([OTHER, [LOGITS]], lambda r: r[1][0]), ({"logits": OTHER, "b": LOGITS}, "b"),
    ],
)  # fmt: skip
def test_the_part_given_is_taken(returned: Any, output: Any) -> None:
    """An index, a key, an attribute or a function says which part it is, whatever the names suggest."""
    assert find_logits(returned, output) is LOGITS


@pytest.mark.parametrize(
    ("returned", "output", "says"),
    [
        ((OTHER, LOGITS), None, r"tuple of several tensors.*0: \(2, 5, 3\), 1: \(2, 7\).*output=1"),
        ({"a": OTHER, "b": LOGITS}, None, 'output="b"'),
        ({"a": 3}, None, "holds no tensor"),
        ((OTHER, LOGITS), 5, r"output=5 gives no tensor .*tuple with 0: \(2, 5, 3\)"),
        ({"a": LOGITS}, "b", "output='b' gives no tensor"),
        (LOGITS, lambda r: 3, "the callable given as output= gives no tensor"),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_listed(returned: Any, output: Any, says: str) -> None:
    """Several tensors, none, or a part that is not there: the parts are named as one writes them."""
    with pytest.raises(OutputError, match=says):
        find_logits(returned, output)


@pytest.mark.parametrize(
    ("shape", "batch", "wanted"),
    [((3, 7), 3, (3, 7)), ((3,), 3, (3, 1)), ((7,), 1, (1, 7)), ((), 1, (1, 1)), ((1,), 1, (1, 1)),
     ((3, 7, 4, 4), 3, (3, 7, 4, 4)), ((7, 4), 1, (1, 7, 4))],
)  # fmt: skip
def test_rows(shape: tuple[int, ...], batch: int, wanted: tuple[int, ...]) -> None:
    """One row per image, also for single scores and for what `squeeze` leaves of one image's."""
    assert rows(torch.zeros(shape), batch).shape == wanted


@pytest.mark.parametrize(("shape", "says"), [((4, 7), "4 rows for 3 images"), ((), "no rows for 3 images")])
def test_rows_that_cannot_be_told_apart(shape: tuple[int, ...], says: str) -> None:
    """Another number of rows than of images is refused with the shape."""
    with pytest.raises(OutputError, match=says):
        rows(torch.zeros(shape), 3)
