"""The README's table of what can be explained: every row runs, and the table is the one that is made of them."""

from __future__ import annotations

import pathlib
import re

import pytest

import grad_cam

from .kinds import HELD, KINDS, Kind, table

README = pathlib.Path(grad_cam.__file__).parents[1] / "README.md"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)
def test_every_kind_can_be_explained(kind: Kind) -> None:
    """A map with a grid, which is not zero everywhere, a name for what is explained, and a figure."""
    found = kind.run()
    assert min(found.map.shape[-2:]) > 1 and bool(found.map.isfinite().all())
    assert float(found.map.abs().sum()) > 0
    assert all(word for row in found.target for word in row)
    assert found.figure() is not None


def test_every_kind_is_held_in_four_ways() -> None:
    """Every row of the table is tested for exactness, correctness, planted truth and wrong use, by tests that exist."""
    assert {kind.models for kind in KINDS} <= set(HELD)
    folder = pathlib.Path(__file__).parent
    for names in HELD.values():
        for name in names:
            module, _, function = name.partition(".")
            if function == "py":
                assert (folder / name).is_file()
                continue
            assert f"def {function}(" in (folder / f"{module}.py").read_text(encoding="utf-8"), name


def test_the_table_of_the_readme() -> None:
    """It is what `python -m tests.kinds` prints."""
    found = re.search(r"<!-- kinds -->\n(.*?)<!-- end of kinds -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None and found[1] == table()
