"""The page of renamed names: old names that are said to work warn and are the same, the others are gone."""

from __future__ import annotations

import importlib
import pathlib
import re
import warnings
from typing import Any

import pytest

import grad_cam

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "api-changes.md").read_text(encoding="utf-8")
PARTS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def rows(part: str) -> list[tuple[str, str]]:
    """Old and new name in every row of a part's table."""
    return re.findall(r"^\| `(grad_cam\.[^`]+)` \| `(grad_cam\.[^`]+)` \|$", PARTS[part], re.MULTILINE)


KEPT, GONE = rows("Old names that still work, until 0.2.0"), rows("Old names that are gone")


def found(name: str) -> Any:
    """What a dotted name means; parentheses and what follows them are left out. AttributeError if it means nothing."""
    first, *left = name.partition("(")[0].split(".")
    value, path = importlib.import_module(first), first
    for each in left:
        path += f".{each}"
        try:
            value = getattr(value, each)
        except AttributeError:
            try:
                value = importlib.import_module(path)
            except ModuleNotFoundError:
                raise AttributeError(path) from None
    return value


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("old", "new"), KEPT, ids=[old for old, _ in KEPT])
def test_kept_names_are_the_new_ones(old: str, new: str) -> None:
    """An old name is the same object as the new one; of a call, both sides can be called."""
    if "(" in old:
        assert callable(found(old)) and callable(found(new))
    else:
        assert found(old) is found(new)


@pytest.mark.parametrize("module", sorted({old.partition("(")[0].rpartition(".")[0] for old, _ in KEPT}))
def test_modules_of_kept_names_warn(module: str) -> None:
    """Importing such a module says its new name and when the old one goes; the page lists all it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        loaded = importlib.import_module(module)
    with pytest.warns(FutureWarning, match=rf"{re.escape(module)} is now .*goes with the next release"):
        importlib.reload(loaded)
    listed = {old.partition("(")[0].rpartition(".")[2] for old, _ in KEPT if old.startswith(f"{module}.")}
    assert listed == set(loaded.__all__)


def test_every_old_module_is_listed() -> None:
    """A module of the package that only keeps old names is on the page."""
    package = ROOT / "grad_cam"
    old = [p for p in package.rglob("*.py") if p.read_text(encoding="utf-8").startswith('"""Old name')]
    names = {".".join(("grad_cam", *p.relative_to(package).with_suffix("").parts)) for p in old}
    assert names == {old.partition("(")[0].rpartition(".")[0] for old, _ in KEPT}


@pytest.mark.parametrize(("old", "new"), GONE, ids=[old for old, _ in GONE])
def test_gone_names_are_gone(old: str, new: str) -> None:
    """What the page says is gone is gone, and what it says is there instead is there."""
    with pytest.raises(AttributeError):
        found(old)
    assert found(new) is not None


def test_other_name_of_the_explorer() -> None:
    """`inspect` opens what `explore` opens, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert grad_cam.inspect is grad_cam.explore
