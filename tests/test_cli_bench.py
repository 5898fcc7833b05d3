"""`grad-cam bench`: how the table of photos is read, and what comes out."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from grad_cam import loading
from grad_cam.interfaces.cli.cases import Case, CasesError, box_mask, read_cases
from grad_cam.loading.preprocess import Preprocessing

from .test_cli import TINY, Run, run

__all__ = ["run"]

QUICK = ("-x", "grad_cam,hires_cam+residual", "--masks", "8")


def _table(text: str, name: str = "photos.csv") -> pathlib.Path:
    path = pathlib.Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def test_bench_measures_a_table(run: Run) -> None:
    """A table of photos becomes a table of methods and a page; classes are names, indices or the predicted one."""
    _table("file,class,box\ncat.png,bee,10 10 50 50\ntall.jpg,3,\ncat.png,,\n")
    done = run("bench", "photos.csv", *TINY, *QUICK, "-o", "out.html")
    assert done.exit_code == 0, done.stderr
    assert "hires_cam+residual" in done.stdout and "random map" in done.stdout and "pointing" in done.stdout
    text = pathlib.Path("out.html").read_text(encoding="utf-8")
    assert "3 photos, 1 with a box" in text and str(pathlib.Path.cwd()) not in text
    again = run("bench", "photos.csv", *TINY, *QUICK, "-o", "out.html")
    assert again.exit_code == 1 and "out.html" in again.stderr and "--force" in again.stderr
    found = run("bench", "photos.csv", *TINY, *QUICK, "-o", "out.html", "--force", "--json", "--limit", "1")
    read = json.loads(found.stdout)
    assert [photo["class"] for photo in read["photos"]] == ["dog"] and read["file"] == "out.html"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("photo;klass\ncat.png;1\n", "no column 'class'"),
        ("name,class\ncat.png,1\n", "no column 'file'"),
        ("", "is empty"),
        ("file,class\n", "names no photo"),
        ("file,class\ncat.png,1\nnowhere.png,2\n,3\n", "line 3: there is no file 'nowhere.png'"),
        ("file,class,box\ncat.png,1,1 2 3\n", "line 2: '1 2 3' is not a box"),
        ("file,class,box\ncat.png,1,a b c d\n", "is not a box"),
        ("file,class,box\ncat.png,1,9 9 4 4\n", "holds nothing"),
        ("file,class,box\ncat.png,1,0 0 nan 4\n", "holds nothing"),
    ],
)
def test_mistakes_in_the_table_are_said_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    """What is wrong with the table is said, with its line, before a model is loaded."""
    monkeypatch.setattr(loading, "load", lambda *args, **kw: pytest.fail("the model was loaded"))
    _table(text)
    done = run("bench", "photos.csv", *TINY)
    assert done.exit_code == 1 and says in done.stderr and not pathlib.Path("bench.html").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nowhere.csv",), "there is no file 'nowhere.csv'"),
        (("photos.csv", "--masks", "7"), "--masks 7"),
        (("photos.csv", "-x", "grad_camm"), "did you mean"),
        (("photos.csv", "--class-column", "kind"), "no column 'kind'"),
        (("photos.csv", "--folder", "elsewhere"), "in the folder 'elsewhere'"),
        (("photos.csv", "-o", "."), "is a folder"),
    ],
)
def test_wrong_options_are_said_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    """Wrong options are refused before a model is loaded."""
    monkeypatch.setattr(loading, "load", lambda *args, **kw: pytest.fail("the model was loaded"))
    _table("file,class\ncat.png,1\n")
    done = run("bench", *words, *TINY)
    assert done.exit_code in (1, 2) and says in done.stderr


def test_unknown_classes(run: Run) -> None:
    """A class that the model does not know is refused with its line, or left out on demand, which is said."""
    _table("file,class\ncat.png,bee\ntall.jpg,zebra\ncat.png,99\n")
    done = run("bench", "photos.csv", *TINY, *QUICK)
    assert done.exit_code == 1 and "line 3: " in done.stderr and "line 4: " in done.stderr and "zebra" in done.stderr
    done = run("bench", "photos.csv", *TINY, *QUICK, "--skip-unknown")
    assert done.exit_code == 0 and "2 photos of classes that the model does not know" in done.stderr
    _table("file,class\ncat.png,zebra\n", "none.csv")
    assert "knows none of the classes" in run("bench", "none.csv", *TINY, "-f", "--skip-unknown").stderr


def test_damaged_photo_is_named(run: Run) -> None:
    """A photo that cannot be read is named with its line, before anything is measured."""
    _table("file,class\ncat.png,1\ndamaged.jpg,1\nnotes.txt,1\n")
    done = run("bench", "photos.csv", *TINY, *QUICK)
    assert done.exit_code == 1 and ("line 3: damaged.jpg" in done.stderr or "line 4: notes.txt" in done.stderr)
    assert not pathlib.Path("bench.html").exists()


def test_tables_as_programs_write_them(tmp_path: pathlib.Path) -> None:
    """A byte order mark, semicolons, capitals, empty lines, quotes, and a folder of the table's name are read."""
    (tmp_path / "mine").mkdir()
    for name in ("mine/a.png", "b.png"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    table = tmp_path / "mine.csv"
    table.write_bytes('\ufeffFile;Class;BOX\r\n"a.png";"gnu; grey";"1,2,3,4; 5 6 7 8"\r\n\r\nb.png;\r\n'.encode())
    first, second = read_cases(table)
    assert (first.line, first.name, first.boxes) == (2, "gnu; grey", ((1, 2, 3, 4), (5, 6, 7, 8)))
    assert (second.line, second.name, second.boxes, second.path.name) == (4, "", (), "b.png")
    assert first.path == tmp_path / "mine" / "a.png"
    table.write_bytes(b"file,class\n\xff\xfe,1\n")
    with pytest.raises(CasesError, match="UTF-8"):
        read_cases(table)


def test_boxes_follow_the_preprocessing(tmp_path: pathlib.Path) -> None:
    """A box is where its part of the photo is in what the model sees: resized and cropped as the photo is."""
    photo = np.zeros((100, 200, 3), np.uint8)
    photo[20:60, 80:120] = 255
    Image.fromarray(photo).save(tmp_path / "a.png")
    case = Case(2, tmp_path / "a.png", "", ((80, 20, 120, 60),))
    for prepare in (
        Preprocessing((50, 50)), Preprocessing((50, 50), crop_pct=0.8), Preprocessing((50, 70), crop_mode="squash"),
        Preprocessing((60, 60), crop_mode="border"),
    ):  # fmt: skip
        mask = box_mask(case, prepare)
        seen = np.asarray(prepare.view(Image.open(tmp_path / "a.png")).convert("L")) > 127
        if prepare.crop_mode == "border":  # the border is of the mean colour, which is no box
            assert mask.mean() == pytest.approx(0.04, abs=0.01)
        else:
            assert (mask == seen).all() and mask.any()
    assert box_mask(Case(2, tmp_path / "a.png", "", ((0, 0, 20, 100),)), Preprocessing((50, 50))) is None  # cut off
    with pytest.raises(CasesError, match="beside the photo"):
        box_mask(Case(7, tmp_path / "a.png", "", ((300, 0, 320, 10),)), Preprocessing((50, 50)))
