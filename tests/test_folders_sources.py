"""Where the pictures of a run come from, and what they must not do."""

from __future__ import annotations

import ast
import csv
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

import grad_cam
from grad_cam.errors import GradCamError
from grad_cam.folders import SourceError, Stream, open_source
from grad_cam.interfaces.cli.parsing import find_pictures
from tests.test_folders import NAMES, _model, _once, _pictures, _run


def _paths(source: Any) -> list[str]:
    return [one.path for one in source]


def _classes(source: Any) -> list[str | None]:
    return [one.class_name for one in source]


def test_folders(tmp_path: Path) -> None:
    """Folders are read with those inside them; a folder per class gives classes, a flat or deep one none."""
    _pictures(tmp_path / "flat", ["b.png", "a.jpg", ".hidden.png", ".cache/x.png"])
    (tmp_path / "flat" / "notes.txt").touch()
    flat = open_source(tmp_path / "flat")
    assert _paths(flat) == ["a.jpg", "b.png"] and _classes(flat) == [None, None]
    _pictures(tmp_path / "each", ["cat/1.png", "dog/1.png"])
    assert _classes(open_source(tmp_path / "each")) == ["cat", "dog"]
    assert _classes(open_source(tmp_path / "each", class_folders=False)) == [None, None]
    _pictures(tmp_path / "deep", ["2023/01/1.png", "2024/01/1.png", "2.png"])
    assert _paths(open_source(tmp_path / "deep")) == ["2.png", "2023/01/1.png", "2024/01/1.png"]
    assert _classes(open_source(tmp_path / "deep")) == [None, None, None]
    assert _classes(open_source(tmp_path / "deep", class_folders=True)) == [None, "2023", "2024"]
    given, _ = find_pictures([str(tmp_path / "deep")], recursive=True)
    assert sorted(given) == sorted(str(tmp_path / "deep" / name) for name in _paths(open_source(tmp_path / "deep")))


def test_out_inside_the_source_is_left_out(tmp_path: Path) -> None:
    """What a run writes into the folder that it reads is not read as pictures."""
    _pictures(tmp_path, ["1.png", "2.png"])
    for _ in range(2):
        rows = _run(_model(), tmp_path, tmp_path / "out", overlays=True)
        _once(rows, 2)
    assert list((tmp_path / "out" / "overlays").iterdir())


def test_globs_lists_and_single_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glob, a list of files and one file."""
    _pictures(tmp_path, ["a/1.png", "b/2.jpg", "b/3.png"])
    assert _paths(open_source(f"{tmp_path}/**/*.png")) == ["a/1.png", "b/3.png"]
    monkeypatch.chdir(tmp_path)
    assert _paths(open_source("b/*")) == ["2.jpg", "3.png"]
    assert len(open_source(["a/1.png", tmp_path / "b" / "2.jpg"])) == 2  # type: ignore[arg-type]
    assert open_source(tmp_path / "a" / "1.png").file(0) == tmp_path / "a" / "1.png"  # type: ignore[union-attr]
    for wrong in ("nowhere", "*.tiff", tmp_path / "none"):
        with pytest.raises(SourceError):
            open_source(wrong)
    with pytest.raises(SourceError, match="int"):
        open_source(3)  # type: ignore[arg-type]


def test_tables(tmp_path: Path) -> None:
    """CSV and Parquet give paths relative to their folder, classes, boxes and masks; wrong boxes are refused."""
    _pictures(tmp_path, ["in/1.png", "in/2.png"])
    rows = [["file", "label", "box", "mask"], ["in/1.png", "007", "1 2 30 20", "m.png"], ["in/2.png", "", "", ""]]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    source: Any = open_source(tmp_path / "t.csv")
    first, second = source
    assert first.class_name == "007" and first.box == (1, 2, 30, 20) and first.mask == "m.png"
    assert (second.class_name, second.box, second.mask) == (None, None, None)
    assert source.file(1) == tmp_path / "in" / "2.png"
    table = pa.table({"path": ["in/1.png"], "species": ["cat"], "box": [[1.0, 2.0, 3.0, 4.0]]})
    pq.write_table(table, tmp_path / "t.parquet")
    found: Any = open_source(tmp_path / "t.parquet", columns={"class": "species"})
    assert found[0].class_name == "cat" and found[0].box == (1, 2, 3, 4)
    for text in ("1 2 3", "5 5 1 9", "a b c d"):
        (tmp_path / "w.csv").write_text(f"path,box\nin/1.png,{text}\n")
        with pytest.raises(SourceError, match="left, top, right, bottom"):
            open_source(tmp_path / "w.csv")
    (tmp_path / "w.csv").write_text("name\nx\n")
    with pytest.raises(SourceError, match="no column of files"):
        open_source(tmp_path / "w.csv")
    with pytest.raises(GradCamError, match="there is no 'klass'"):
        open_source(tmp_path / "t.csv", columns={"klass": "label"})


def test_hugging_face_datasets(tmp_path: Path) -> None:
    """A saved dataset, with splits or without, and its Parquet form give their pictures and class names."""
    datasets = pytest.importorskip("datasets")
    _pictures(tmp_path / "in", ["1.png", "2.png", "3.png"])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    files = [str(path) for path in sorted((tmp_path / "in").iterdir())]
    made = datasets.Dataset.from_dict({"image": files, "label": [1, 0, 1]}, features=features)
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "two")
    made.to_parquet(tmp_path / "p" / "data.parquet")
    for folder, count in (("one", 3), ("two", 6), ("p", 3)):
        source: Any = open_source(tmp_path / folder)
        assert _classes(source)[:3] == ["cat", "dog", "cat"] and len(source) == count
        rows = _run(_model(), tmp_path / folder, tmp_path / f"out-{folder}")
        _once(rows, count)
        assert rows.errors.num_rows == 0 and NAMES[rows[0]["class_index"]] == "cat"
        expected = grad_cam.loading.preprocessing(_model())(files[1])[0]
        assert torch.equal(grad_cam.loading.preprocessing(_model())(source.open(1))[0], expected)


def test_links_in_a_circle_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that link to what holds them, and files that link to themselves, are met once."""
    _pictures(tmp_path / "in", ["a/1.png", "b/2.png", ".hidden/3.png"])
    for name in ("a/up", "b/up", "b/back"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "in")
    (tmp_path / "in" / "a" / "self.png").symlink_to(tmp_path / "in" / "a" / "self.png")
    assert _paths(open_source(tmp_path / "in")) == ["a/1.png", "a/self.png", "b/2.png"]
    for pattern in ("**/*.png", "**", "*/*.png"):
        assert _paths(open_source(f"{tmp_path}/in/{pattern}")) == ["a/1.png", "b/2.png"]
    monkeypatch.chdir(tmp_path / "in")
    assert _paths(open_source("**/*.png")) == ["a/1.png", "b/2.png"]
    assert _paths(open_source("**/.hidden/*.png")) == [".hidden/3.png"] and _paths(open_source("a/**.png")) == ["1.png"]
    os.mkfifo("b/pipe.png")
    rows = _run(_model(), tmp_path / "in", tmp_path / "out")
    _once(rows, 4)
    assert [Path(row["path"]).name for row in rows.errors.to_pylist()] == ["self.png", "pipe.png"]


def test_unusual_columns(tmp_path: Path) -> None:
    """Categories, missing numbers and bytes that are no text are read as what they mean, or refused in a sentence."""
    _pictures(tmp_path, ["1.png", "2.png"])

    def opened(**columns: Any) -> Any:
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        return open_source(tmp_path / "t.parquet")

    names = pa.array(["1.png", "2.png"]).dictionary_encode()
    source = opened(path=names, label=pa.array([3.0, None]))
    assert _paths(source) == ["1.png", "2.png"] and _classes(source) == ["3", None] and source.file(0).is_file()
    assert _classes(opened(path=names, label=pa.array([float("nan"), 2.5]))) == [None, "2.5"]
    assert _paths(opened(path=pa.array(["1.png"], pa.large_string()))) == ["1.png"]
    invalid = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    for wrong, said in (
        ({"path": pa.array([1])}, "neither file"), ({"path": pa.array(["1.png", None])}, "row 1 of .* names no file"),
        ({"path": pa.array(["1.png", ""])}, "row 1 of .* names no file"), ({"path": invalid}, "'path' cannot be read"),
        ({"path": names[:1], "box": [[0.0, 0.0, float("nan"), 9.0]]}, "left, top, right, bottom"),
        ({"path": names[:1], "label": invalid}, "'label' cannot be read"),
    ):  # fmt: skip
        with pytest.raises(SourceError, match=said):
            opened(**wrong)


def test_labels_that_are_no_class(tmp_path: Path) -> None:
    """A label out of range is kept as it is named and explains the predicted class; one in a mapping is a number."""
    items = [
        {"image": Image.new("RGB", (30, 30)), "label": k} for k in (torch.tensor(2), np.int64(-1), 10**12, "\udce9")
    ]
    for count, names in (("known", NAMES), ("unknown", None)):
        model = _model()
        model.class_names = names
        rows = _run(model, items, tmp_path / count, of_class=True, notify=lambda text: None)
        _once(rows, 4)
        found = rows.table(["class", "class_index", "target_index", "error"]).to_pylist()
        assert found[0]["class_index"] == found[0]["target_index"] == 2
        assert found[1]["class"] == "-1" and found[1]["class_index"] is None and found[2]["class_index"] is None
        assert "its row cannot be written: UnicodeEncodeError" in found[3]["error"]


class _Endless(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        for n in range(9):
            yield {"image": torch.full((3, 64, 64), n / 9), "label": n % 7}


def test_datasets_loaders_and_iterables(tmp_path: Path) -> None:
    """Datasets, DataLoaders and iterables of tensors or pictures are explained as they come, each item once."""
    tensors = torch.randn(9, 3, 64, 64)
    pairs = [(image, n % 7) for n, image in enumerate(tensors)]
    batches = DataLoader(
        pairs, batch_size=2, collate_fn=lambda some: (torch.stack([i for i, _ in some]), [k for _, k in some])
    )
    assert isinstance(open_source(batches), Stream) and not isinstance(open_source(DataLoader(pairs)), Stream)
    expected = grad_cam.explain(_model(), tensors, method="grad_cam")
    sources = {"list": pairs, "loader": DataLoader(pairs, batch_size=4), "batches": batches}
    for name, source in sources.items():
        rows = _run(_model(), source, tmp_path / name, layer=expected.layer.name)
        _once(rows, 9)
        assert rows.table(["class_index"]).column(0).to_pylist() == [n % 7 for n in range(9)]
        for n in range(9):
            assert torch.allclose(rows.raw(n), expected.map[n], atol=float(expected.map[n].abs().max()) / 500)
    with pytest.raises(grad_cam.folders.RunError, match="was no file"):
        rows.explanation(0)
    seen = 0

    def stop(done: int, total: int | None, failed: int) -> None:
        nonlocal seen
        seen = done
        if done == 4:
            raise StopIteration

    with pytest.raises(StopIteration):
        _run(_model(), _Endless(), tmp_path / "stream", batch_size=2, shard=2, progress=stop)
    assert grad_cam.read(tmp_path / "stream").total is None
    _once(_run(_model(), _Endless(), tmp_path / "stream", batch_size=2), 9)
    with pytest.raises(SourceError, match="shuffles"):
        open_source(DataLoader(pairs, shuffle=True))
    pictures = [Image.new("RGB", (30, 30)), np.zeros((9, 9, 3), np.uint8), "text", None]
    rows = _run(_model(), (p for p in pictures), tmp_path / "odd")
    _once(rows, 4)
    assert [row["input"] for row in rows.errors.to_pylist()] == [2, 3]


# --------------------------------------------------------------------------------------------------------------- safety


def test_nothing_in_the_room_runs_what_it_reads() -> None:
    """No module of folders unpickles, evaluates or loads code."""
    folder = Path(grad_cam.__file__).parent / "folders"
    forbidden = {"pickle", "torch.load", "eval", "exec", "np.load", "numpy.load", "joblib", "yaml.load", "load_dataset"}
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not names & forbidden, path.name


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return open, (str(self.flag), "w")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    """Pickles under the names of pictures, tables, datasets and rows are faults, and their code does not run."""
    flag = tmp_path / "run"
    evil = pickle.dumps(_Touch(flag))
    inside = tmp_path / "in"
    _pictures(inside, ["good.png"])
    for name in ("a.jpg", "b.pkl", "c.png", "d.npy"):
        (inside / name).write_bytes(evil)
    torch.save(_Touch(flag), inside / "e.tif")
    np.save(inside / "f.npy", np.array([_Touch(flag)], object), allow_pickle=True)
    files = sorted(path.name for path in inside.iterdir())
    (inside / "t.csv").write_text("path\n" + "\n".join(files))
    rows = _run(_model(), inside / "t.csv", tmp_path / "out")
    _once(rows, 7)
    assert rows.errors.num_rows == 6
    kind = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": evil}
    field = pa.field("path", pa.string(), metadata=kind)
    pq.write_table(pa.table([["good.png"]], pa.schema([field])), inside / "t.parquet")
    _once(_run(_model(), inside / "t.parquet", tmp_path / "second"), 1)
    (shard,) = (tmp_path / "second" / "rows").iterdir()
    table = pq.read_table(shard)
    at = table.schema.get_field_index("path")
    pq.write_table(table.cast(table.schema.set(at, field)), shard)
    assert grad_cam.read(tmp_path / "second").table().num_rows == 1
    (inside / "sub").mkdir()
    (inside / "sub" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (inside / "sub" / "data.arrow").write_bytes(evil)
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(inside / "sub")
    assert not flag.exists()
    pickle.loads(evil)
    assert flag.exists()  # it would have


def test_bombs_are_refused_by_their_size(tmp_path: Path) -> None:
    """Pictures of a few bytes that claim billions of pixels are refused before they are decoded, files or embedded."""
    picture = Image.new("RGB", (16, 16))
    for suffix in ("jpg", "gif", "bmp"):
        picture.save(tmp_path / f"bomb.{suffix}")
    side = (60_000).to_bytes(2, "big")
    jpeg = bytearray((tmp_path / "bomb.jpg").read_bytes())
    at = jpeg.index(b"\xff\xc0") + 5  # height and width of the frame
    jpeg[at : at + 4] = side * 2
    (tmp_path / "bomb.jpg").write_bytes(jpeg)
    gif = bytearray((tmp_path / "bomb.gif").read_bytes())
    gif[6:10] = (60_000).to_bytes(2, "little") * 2
    (tmp_path / "bomb.gif").write_bytes(gif)
    bmp = bytearray((tmp_path / "bomb.bmp").read_bytes())
    bmp[18:26] = (60_000).to_bytes(4, "little") * 2
    (tmp_path / "bomb.bmp").write_bytes(bmp)
    for source in (tmp_path, tmp_path / "t.parquet"):
        if source.suffix:
            bombs = [path.read_bytes() for path in sorted(tmp_path.glob("bomb.*"))]
            pq.write_table(pa.table({"image": [{"bytes": each, "path": None} for each in bombs]}), source)
        rows = _run(_model(), source, tmp_path / f"out{source.suffix}")
        _once(rows, 3)
        reasons = rows.errors.column("error").to_pylist()
        assert len(reasons) == 3 and all("too large" in each or "exceeds limit" in each for each in reasons), reasons


def test_a_dataset_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    """The files of a saved dataset are in its folder, and a pickle among them is not opened."""
    for folder in ("../x", "/etc"):
        (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": [folder]}))
        with pytest.raises(SourceError, match="outside its folder"):
            open_source(tmp_path)
    (tmp_path / "dataset_dict.json").unlink()
    for name in ("../data.arrow", "sub/../../data.arrow"):
        (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(SourceError, match="outside its folder"):
            open_source(tmp_path)


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    """Overlays, masks and the sheet get names of numbers and letters, whatever the inputs are called."""
    _pictures(tmp_path, ["in/1.png"])
    odd = [
        "../../1.png",
        "a/../../in/1.png",
        "<img src=x onerror=alert(1)>.png",
        "CON.png",
        "-rf.png",
        "é ü.png",
        "n\nl.png",
        "𠀀" * 60 + ".png",
    ]
    for name in odd[2:]:
        (tmp_path / "in" / name).write_bytes((tmp_path / "in" / "1.png").read_bytes())
    with open(tmp_path / "in" / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path"], ["../in/1.png"], ["x/../../in/1.png"], *[[name] for name in odd[2:]]])
    (tmp_path / "in" / "x").mkdir()
    before = {path for path in tmp_path.rglob("*")}
    rows = _run(_model(), tmp_path / "in" / "t.csv", tmp_path / "out", overlays=True)
    assert rows.errors.num_rows == 0
    masks = grad_cam.folders.export(rows, "masks")
    new = {path for path in tmp_path.rglob("*")} - before
    assert all((tmp_path / "out") in (path, *path.parents) for path in new)
    for folder in (masks, tmp_path / "out" / "overlays"):
        names = sorted(path.name for path in folder.iterdir())
        assert len(names) == 8 and all(
            set(name) <= set("0123456789-._") | set(filter(str.isalnum, name)) for name in names
        )
