"""Pages that are written as one file: what comes from outside is text, and the policy fits what is inside."""

from __future__ import annotations

import base64
import hashlib
import pathlib
import re

import numpy as np
import pytest

from grad_cam.rendering import pages
from grad_cam.rendering.report import Report, ReportImage, ReportLayer, report_html


def _page() -> str:
    image = ReportImage("photo", np.zeros((8, 8, 3), np.uint8), [], ["cup"], [[np.eye(2)]])
    return report_html(Report("<b>Model</b>", "Grad-CAM", [ReportLayer(1, "layer4")], [image]))


def test_names_are_text() -> None:
    """A name enters the page as text, however it is spelt."""
    assert "<b>Model</b>" not in _page() and "&lt;b&gt;Model&lt;/b&gt;" in _page()


@pytest.mark.parametrize("part", ["style", "script"])
def test_the_policy_allows_what_is_inside(part: str) -> None:
    """The digest in the policy is that of the element, character by character; anything else would not be run."""
    page = _page()
    (inside,) = re.findall(rf"<{part}>(.*?)</{part}>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    assert f"{part}-src &#39;sha256-{digest}&#39;" in page.replace("'", "&#39;") and "default-src" in page


def test_dark_colours_go_by_the_switch_or_the_browser() -> None:
    """A page with a switch of its own takes its dark colours from that, the others from what the browser prefers."""
    study = pages._environment("grad_cam.rendering").get_template("palette.css")
    switched, plain = study.render(switched=True), study.render(switched=False)
    assert ':root[data-theme="dark"]' in switched and "@media" not in switched
    assert "@media (prefers-color-scheme: dark)" in plain and "data-theme" not in plain
    for css in (switched, plain):
        assert css.count("{") == css.count("}") and css.count("--accent:") == 2


def test_a_file_in_the_way_is_refused_before_the_work(tmp_path: pathlib.Path) -> None:
    """Without `force` nothing is made where a file is, and the file stays; with it the page takes its place."""
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(FileExistsError, match="force=True"):
        pages.write_page(path, lambda: pytest.fail("the page was made"), False)
    assert path.read_text() == "old"
    assert pages.write_page(path, lambda: "new", True) == path and path.read_text() == "new"
    with pytest.raises(IsADirectoryError):
        pages.write_page(tmp_path, lambda: "new", True)
