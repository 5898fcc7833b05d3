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


KINDS = ["SplitError", "OutputError", "InputError", "LayerError", "LayoutError", "ModelError", "MissingExtraError"]


@pytest.mark.parametrize("kind", KINDS)
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


def test_a_missing_extra_is_named() -> None:
    """A package that is there is imported; for one that is not the error says what needs it and what to install."""
    assert errors.import_extra("json", "this needs json", "demo").dumps([]) == "[]"
    with pytest.raises(ImportError, match=r"needs it, which is not .*pip install 'gradcam-layers\[app\]'") as caught:
        errors.import_extra("no_such_package", "this needs it", "app")
    assert isinstance(caught.value, errors.MissingExtraError) and isinstance(caught.value, errors.GradCamError)
    with pytest.raises(errors.ModelError, match="hf"):
        errors.import_extra("no_such_package", "this needs it", "hf", errors.ModelError)


def test_messages_on_one_line() -> None:
    """Line breaks become blanks, and a long message is cut."""
    assert errors.message_of(ValueError("one\n  two\tthree")) == "one two three"
    assert errors.message_of(ValueError("x" * 300), 80) == "x" * 80 and errors.message_of(ValueError()) == ""
