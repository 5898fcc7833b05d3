"""The package's errors: what they say, and that they survive the ways errors travel."""

from __future__ import annotations

import copy
import pathlib
import pickle

import pytest

from grad_cam import errors


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("a is wrong",), "a is wrong"),
        (("a is wrong", "it is b"), "a is wrong (it is b)"),
        (("a is wrong", "", "give c"), "a is wrong; give c"),
        (("a is wrong", "it is b", "give c"), "a is wrong (it is b); give c"),
    ],
)
def test_messages(parts: tuple[str, ...], message: str) -> None:
    """What is wrong, what was given in brackets, and the remedy, as far as there is each."""
    assert str(errors.GradCamError(*parts)) == message


@pytest.mark.parametrize("kind", ["SplitError", "OutputError", "InputError", "LayerError", "LayoutError", "ModelError"])
def test_copies_keep_their_parts(kind: str) -> None:
    """An error of a worker process arrives with its kind and its parts; all are errors of values."""
    error = getattr(errors, kind)("a", "b", "c")
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(again) is type(error) and (again.what, again.given, again.remedy) == ("a", "b", "c")
        assert isinstance(again, ValueError) and str(again) == str(error)


def test_refuse_existing(tmp_path: pathlib.Path) -> None:
    """Files that exist are named, the first three of many, unless overwriting is asked for."""
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    errors.refuse_existing(paths)
    paths[1].touch()
    with pytest.raises(FileExistsError, match=r"1\.png exists already.*--force"):
        errors.refuse_existing(paths)
    for path in paths:
        path.touch()
    with pytest.raises(FileExistsError, match=r"2\.png and 2 more exist already"):
        errors.refuse_existing(paths)
    errors.refuse_existing(paths, force=True)


def test_messages_on_one_line() -> None:
    """Line breaks become blanks, and a long message is cut."""
    assert errors.message_of(ValueError("one\n  two\tthree")) == "one two three"
    assert errors.message_of(ValueError("x" * 300), 80) == "x" * 80 and errors.message_of(ValueError()) == ""
