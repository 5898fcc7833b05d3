"""The README's table of what can be explained: every row runs, and the table is the one that is made of them."""

from __future__ import annotations

import pathlib
import re

import pytest

import grad_cam

from .kinds import KINDS, Kind, table

README = pathlib.Path(grad_cam.__file__).parents[1] / "README.md"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)
def test_every_kind_can_be_explained(kind: Kind) -> None:
    """A map with a grid, which is not zero everywhere, a name for what is explained, and a figure."""
    found = kind.run()
    assert min(found.map.shape[-2:]) > 1 and bool(found.map.isfinite().all())
    assert float(found.map.abs().sum()) > 0
    assert all(word for row in found.target for word in row)
    assert found.figure() is not None


def test_the_table_of_the_readme() -> None:
    """It is what `python -m tests.kinds` prints."""
    found = re.search(r"<!-- kinds -->\n(.*?)<!-- end of kinds -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None and found[1] == table()
