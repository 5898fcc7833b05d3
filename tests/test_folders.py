"""Runs over folders: what is written is what `explain` gives, and nothing is lost."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import resource
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import grad_cam
from grad_cam import targets
from grad_cam.errors import GradCamError
from grad_cam.folders import Interrupted, Rows, RunError, RunWarning
from tests.conftest import TinyNet

NAMES = ["tench", "cat", "dog", "cup", "car", "sea", "sky"]
FORK = multiprocessing.get_context("fork")


def _pictures(folder: Path, names: list[str], seed: int = 0) -> None:
    """Small pictures with a bright spot each."""
    values = np.random.default_rng(seed)
    for name in names:
        pixels = values.integers(0, 120, (40, 50, 3)).astype(np.uint8)
        y, x = values.integers(0, 30, 2)
        pixels[y : y + 10, x : x + 10] = 250
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def _bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims to be as large as this."""
    parts = [(b"IHDR", side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])), (b"IDAT", zlib.compress(bytes(100)))]
    chunks = [
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _model(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    model = TinyNet().eval()
    model.class_names = NAMES
    model.preprocessing = grad_cam.loading.Preprocessing(size=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3)
    return model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders of classes with six pictures each."""
    _pictures(tmp_path / "photos", [f"{c}/{i}.png" for c in ("cat", "tench") for i in range(6)])
    return tmp_path / "photos"


def _run(model: nn.Module, source: Any, out: Path, **how: Any) -> Rows:
    return grad_cam.run(model, source, out, **{"workers": 0, "batch_size": 4, **how})


def _once(rows: Rows, total: int) -> None:
    """Every input has exactly one row, which is a map or an error; every shard can be read."""
    assert rows.complete and rows.total == total
    table = rows.table(["input", "map", "error"]).to_pylist()
    assert [row["input"] for row in table] == list(range(total))
    assert all((row["map"] is None) != (row["error"] is None) for row in table)
    for path in (rows.path / "rows").iterdir():
        assert path.suffix == ".parquet" and pq.read_table(path).num_rows


# ------------------------------------------------------------------------------------------------------------- the rows


def test_rows_are_what_explain_gives(photos: Path, tmp_path: Path) -> None:
    """Maps, logits, target, layer and class of every row are those of `explain` on the prepared picture."""
    model = _model()
    rows = _run(model, photos, tmp_path / "out", shard=5)
    _once(rows, 12)
    assert sorted(p.name for p in (rows.path / "rows").iterdir())[0] == "000000000000-000000000005.parquet"
    prepare = grad_cam.loading.preprocessing(model)
    for n, (row, found) in enumerate(zip(rows, rows.explanations(), strict=True)):
        image = prepare(photos / row["path"])[0]
        expected = grad_cam.explain(model, image, layer=row["layer"])
        assert torch.equal(found.images, image) and found.layer == expected.layer and found.target == expected.target
        assert torch.allclose(found.map, expected.map, atol=float(expected.map.abs().max()) / 1000)
        assert torch.allclose(found.logits, expected.logits, atol=1e-5) and rows.file(n) == photos / row["path"]
        assert torch.equal(found.classes, expected.classes) and row["prediction"] == expected.target[0][0]
        assert row["class"] == row["path"].split("/")[0] and NAMES[row["class_index"]] == row["class"]
        assert row["shape"] == [8, 8] and row["layout"] == "hw" and row["picture_size"] == [40, 50]
        assert row["frame"] == pytest.approx((5, 0, 45, 40)) and row["error"] is None
    again = grad_cam.read(tmp_path / "out")
    assert again.table().equals(rows.table()) and again[-1]["path"] == "tench/5.png" and len(again[2:4]) == 2
    assert set(again.columns) == set(again[0]) and "12 rows of 12 of 12 inputs" in repr(again)


def test_maps_of_any_size_of_numbers_survive(tmp_path: Path, photos: Path) -> None:
    """A map of very small or large numbers is not rounded to nothing or infinity by half precision."""
    for scale in (1e-12, 1e9):
        model = _model()
        with torch.no_grad():
            model.fc.weight *= scale
        rows = _run(model, photos, tmp_path / f"{scale}", method="hires_cam")
        raw = rows.raw(0)
        expected = grad_cam.explain(model, rows.explanation(0).images, layer=rows[0]["layer"], method="hires_cam").map[
            0
        ]
        assert raw.abs().max() > 0 and raw.isfinite().all()
        assert torch.allclose(raw / scale, expected / scale, atol=float(expected.abs().max() / scale) / 1000)


def test_layers_targets_and_evidence(photos: Path, tmp_path: Path) -> None:
    """Several layers and targets give a row each; evidence is what `evidence` says; `of_class` takes the source's."""
    model = _model()
    rows = _run(model, photos, tmp_path / "out", layer=["layer1", "layer2"], target=targets.top(2), evidence=True)
    table = rows.table(["input", "layer", "target_number"]).to_pylist()
    pairs = [(row["input"], row["layer"], row["target_number"]) for row in table]
    assert pairs == [(n, layer, k) for n in range(12) for layer in ("layer1", "layer2") for k in (0, 1)]
    row = rows[5]
    found = grad_cam.evidence(model, rows.explanation(5))
    assert row["evidence_score"] == pytest.approx(found.score, rel=1e-3)
    assert row["evidence_random"] == pytest.approx(found.random, rel=1e-3)
    given = _run(model, photos, tmp_path / "given", of_class=True)
    assert given.table(["target"]).column(0).to_pylist() == ["cat"] * 6 + ["tench"] * 6
    both = _run(model, photos, tmp_path / "both", target=["cat", 2])
    assert [row["target"] for row in both[:4]] == ["cat", "dog", "cat", "dog"]
    with pytest.raises(GradCamError, match="contradict"):
        _run(model, photos, tmp_path / "no", of_class=True, target=1)


def test_what_does_not_fit_is_said_before_anything_is_written(photos: Path, tmp_path: Path) -> None:
    """A layer, class or method that does not exist is no fault of the pictures."""
    for wrong in ({"layer": "nowhere"}, {"target": "unicorn"}, {"method": "no_cam"}, {"chunk": 3}, {"batch_size": 0}):
        with pytest.raises((GradCamError, TypeError)):
            _run(_model(), photos, tmp_path / "out", **wrong)
    assert not (tmp_path / "out" / "run.json").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="not empty"):
        _run(_model(), photos, tmp_path / "full")
    with pytest.raises(RunError, match="not the folder of a run"):
        grad_cam.read(tmp_path / "full")


# --------------------------------------------------------------------------------------------------------- nothing lost


def test_faults_end_as_errors_with_their_reason(photos: Path, tmp_path: Path) -> None:
    """Empty, truncated, huge, disguised and vanished files, and a link to nowhere, are errors; the others have maps."""
    whole = (photos / "cat" / "0.png").read_bytes()
    (photos / "cat" / "empty.jpg").touch()
    (photos / "cat" / "torn.png").write_bytes(whole[: len(whole) // 2])
    (photos / "cat" / "bomb.png").write_bytes(_bomb(60_000))
    (photos / "cat" / "code.jpg").write_text("import os")
    with open(photos / "cat" / "long.jpg", "wb") as file:
        file.truncate(2 << 30)  # no bytes on the disk
    (photos / "cat" / "nowhere.jpg").symlink_to(photos / "gone.jpg")
    gone = photos / "tench" / "5.png"
    seen: list[int] = []

    def vanish(done: int, total: int | None, failed: int) -> None:
        seen.append(done)
        gone.unlink(missing_ok=True)

    rows = _run(_model(), photos, tmp_path / "out", progress=vanish, batch_size=2)
    _once(rows, 18)
    reasons = {Path(row["path"]).name: row["error"] for row in rows.errors.to_pylist()}
    words = {"empty.jpg": "empty", "torn.png": "cut short", "bomb.png": "too large", "code.jpg": "not an image",
             "long.jpg": "too long", "nowhere.jpg": "leads nowhere", "5.png": "there is no file"}  # fmt: skip
    assert set(reasons) == set(words) and seen[-1] == 18
    assert all(word in reasons[name] for name, word in words.items())
    with pytest.raises(RunError, match="there is no map of cat/bomb.png.*too large"):
        rows.raw(next(n for n, row in enumerate(rows) if row["path"] == "cat/bomb.png"))


def _child(work: Callable[[], Any], queue: Any) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work()
        queue.put("done")
    except BaseException as error:
        queue.put(f"{type(error).__name__}: {error}")


def _in_process(work: Callable[[], Any], meanwhile: Callable[[Any], None]) -> str | None:
    """What became of work in a process of its own; None if it was killed."""
    queue = FORK.SimpleQueue()
    process = FORK.Process(target=_child, args=(work, queue))
    process.start()
    meanwhile(process)
    process.join(120)
    assert process.exitcode is not None
    return None if queue.empty() else queue.get()


def _after_shards(out: Path, count: int, kind: int, wait: float = 0.0) -> Callable[[Any], None]:
    """Sends a signal once there are so many shards."""

    def send(process: Any) -> None:
        limit = time.monotonic() + 60
        while len(list(out.glob("rows/*.parquet"))) < count and process.is_alive() and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(wait)
        if process.is_alive():
            os.kill(process.pid, kind)

    return send


def _killed(photos: Path, out: Path, kills: int, seed: int) -> Rows:
    """The rows of a run that was killed, each time after it had got a little further."""
    chance = random.Random(seed)
    for _ in range(kills):
        how = {"shard": chance.choice([2, 3]), "batch_size": chance.choice([1, 2]), "workers": chance.choice([0, 0, 1])}
        there = len(list(out.glob("rows/*.parquet")))
        end = _after_shards(out, there + chance.choice([0, 1, 1]), signal.SIGKILL, chance.random() / 20)
        assert _in_process(lambda how=how: _run(_model(), photos, out, **how), end) in (None, "done")
    return _run(_model(), photos, out)


def test_killed_three_times(photos: Path, tmp_path: Path) -> None:
    """After SIGKILL at three moments every input ends exactly once, and the rows are those of a run without kills."""
    (photos / "cat" / "empty.jpg").touch()
    plain = _run(_model(), photos, tmp_path / "plain")
    rows = _killed(photos, tmp_path / "out", 3, seed=0)
    _once(rows, 13)
    assert len(list((tmp_path / "out" / "rows").iterdir())) > 1
    _same(rows, plain)


def _same(rows: Rows, plain: Rows) -> None:
    for one, other in zip(rows, plain, strict=True):
        for name in set(one) - {"map", "map_scale", "logits", "probability", "target_probability", "focus"}:
            assert one[name] == other[name], name
        assert one["logits"] == pytest.approx(other["logits"], abs=1e-5)
        if one["map"] is not None:
            assert np.allclose(one["map"], other["map"], atol=2e-3)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    """The same with 60 pictures and 20 kills."""
    _pictures(tmp_path / "photos", [f"{i:02d}.png" for i in range(60)])
    plain = _run(_model(), tmp_path / "photos", tmp_path / "plain")
    rows = _killed(tmp_path / "photos", tmp_path / "out", 20, seed=1)
    _once(rows, 60)
    _same(rows, plain)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_each_input_ends_once(tmp_path: Path, seed: int) -> None:
    """Kills, Ctrl-C, vanished, added and damaged files and other batch sizes, in any order, lose and double nothing."""
    chance = random.Random(seed)
    photos, out = tmp_path / "photos", tmp_path / "out"
    _pictures(photos, [f"{i:02d}.png" for i in range(12)], seed)
    for turn in range(chance.randint(1, 5)):
        what = chance.choice(["kill", "interrupt", "vanish", "add", "damage", "shard"])
        files, shards = sorted(photos.iterdir()), sorted(out.glob("rows/*.parquet"))
        how = {"shard": chance.randint(1, 5), "batch_size": chance.randint(1, 5)}
        if what in ("kill", "interrupt"):
            kind = signal.SIGKILL if what == "kill" else signal.SIGINT
            end = _after_shards(out, len(shards) + chance.randint(0, 2), kind, chance.random() / 20)
            ended = _in_process(lambda how=how: _run(_model(), photos, out, **how), end)
            assert ended is None or ended == "done" or ended.startswith(("Interrupted", "KeyboardInterrupt")), ended
        elif what == "vanish":
            chance.choice(files).unlink()
        elif what == "add":
            _pictures(photos, [f"new-{turn}.png"], turn)
        elif what == "damage":
            chance.choice(files).write_bytes(b"\x89PNG")
        elif shards:
            chance.choice(shards).write_bytes(b"PAR1")
    rows = _run(_model(), photos, out, notify=lambda text: None)
    _once(rows, rows.total or 0)
    assert set(rows.table(["path"]).column(0).to_pylist()) >= {path.name for path in photos.iterdir()}


def test_ctrl_c_finishes_the_shard_and_says_how_to_go_on(photos: Path, tmp_path: Path) -> None:
    """SIGINT ends the run after the batch under way, with its rows written; the same call goes on."""
    out = tmp_path / "out"
    ended = _in_process(
        lambda: _run(_model(), photos, out, shard=2, batch_size=1, progress=lambda *_: time.sleep(0.05)),
        _after_shards(out, 1, signal.SIGINT),
    )
    assert ended is not None and ended.startswith("Interrupted: ") and "of 12 inputs are done; the same again" in ended
    count = int(ended.split()[1])
    assert 2 <= count < 12 and grad_cam.read(out).done == count and not grad_cam.read(out).complete
    assert issubclass(Interrupted, KeyboardInterrupt)
    _once(_run(_model(), photos, out), 12)


def test_full_disk(photos: Path, tmp_path: Path) -> None:
    """Where a shard cannot be written the run says so, leaves no part of it, and goes on once there is room."""
    out = tmp_path / "out"
    _run_json = _in_process(lambda: _limited(photos, out, 1 << 40, stop=3), lambda process: None)
    assert _run_json is not None and _run_json.startswith("StopIteration")
    ended = _in_process(lambda: _limited(photos, out, 4000), lambda process: None)
    assert ended is not None and ended.startswith("RunError: files may not become this large here")
    assert "what is done is kept" in ended and not list(out.rglob("*.part"))
    before = grad_cam.read(out).done
    assert 0 < before < 12
    _once(_run(_model(), photos, out), 12)


def _limited(photos: Path, out: Path, size: int, stop: int = 100) -> None:
    """A run in which no file may become longer than so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def step(done: int, total: int | None, failed: int) -> None:
        if done >= stop:
            raise StopIteration

    _run(_model(), photos, out, shard=2, batch_size=1, progress=step)


def test_where_nothing_can_be_written(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the way, a disk that can only be read or is full at any moment are said, with what to do."""
    (tmp_path / "file").touch()
    for out, said in ((tmp_path / "file", "a file is where"), (tmp_path / "file" / "out", "a file is where"),
                      (Path("/proc/out"), "."), (tmp_path / ("x" * 300), "the name is too long")):  # fmt: skip
        with pytest.raises((RunError, FileNotFoundError), match=said):
            _run(_model(), photos, out)
    for number, said in ((errno.ENOSPC, "the disk is full .*make room"), (errno.EDQUOT, "the quota")):
        for name in ("grad_cam.folders.place.write", "grad_cam.folders.sheet.write"):

            def full(*_: Any, number: int = number, **__: Any) -> Any:
                raise OSError(number, "no")

            with monkeypatch.context() as patched, pytest.raises(RunError, match=said):
                patched.setattr(name, full)
                _run(_model(), photos, tmp_path / "out")
    _once(_run(_model(), photos, tmp_path / "out"), 12)


def test_another_question_is_refused_by_name(photos: Path, tmp_path: Path) -> None:
    """A run goes on only with the model, layer, method, target, options, preparation and source it was begun with."""
    out = tmp_path / "out"
    _run(_model(), photos, out)
    other = _model()
    other.preprocessing = grad_cam.loading.Preprocessing(size=(32, 32))
    _pictures(tmp_path / "others", ["a.png"])
    changed: list[tuple[str, nn.Module, Path, dict[str, Any]]] = [
        ("model .weights.", _model(2), photos, {}),
        ("layer", _model(), photos, {"layer": "layer1"}),
        ("method", _model(), photos, {"method": "layer_cam"}),
        ("target", _model(), photos, {"target": 3}),
        ("target", _model(), photos, {"target": targets.negative()}),
        ("of_class", _model(), photos, {"of_class": True}),
        ("evidence", _model(), photos, {"evidence": True}),
        ("options .eigen_smooth.", _model(), photos, {"eigen_smooth": True}),
        ("preprocessing", other, photos, {}),
        ("source", _model(), tmp_path / "others", {}),
    ]
    for name, model, source, how in changed:
        with pytest.raises(RunError, match=f"^{name} has changed"):
            _run(model, source, out, **how)
    with pytest.raises(RunError, match="class, box or mask of 'cat/0.png' has changed"):
        _run(_model(), photos, out, class_folders=False)
    assert len(_run(_model(), photos, out, batch_size=1, shard=3)) == 12  # these change no row


def test_added_and_vanished_files(photos: Path, tmp_path: Path) -> None:
    """A file that was added is explained when the run goes on; one that vanished keeps its number."""
    _run(_model(), photos, tmp_path / "out")
    _pictures(photos, ["cat/00.png"])
    (photos / "tench" / "0.png").unlink()
    with pytest.warns(RunWarning, match="1 inputs have been added"):
        rows = _run(_model(), photos, tmp_path / "out")
    _once(rows, 13)
    assert rows[12]["path"] == "cat/00.png" and rows[6]["path"] == "tench/0.png"
    with pytest.raises(RunError, match="is gone"):
        rows.explanation(6)
    _pictures(photos, ["cat/0.png"], seed=9)
    with pytest.raises(RunError, match="has changed since it was explained"):
        rows.explanation(0)
    image = torch.zeros(3, 64, 64)
    assert rows.explanation(0, image).images.shape == (1, 3, 64, 64)


def test_damaged_shard_is_made_again(photos: Path, tmp_path: Path) -> None:
    """A shard that a power cut has left unreadable is made again, and two that overlap are refused."""
    rows = _run(_model(), photos, tmp_path / "out", shard=5)
    shard = tmp_path / "out" / "rows" / "000000000005-000000000010.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.warns(RunWarning, match="was damaged"):
        again = _run(_model(), photos, tmp_path / "out")
    _once(again, 12)
    _same(again, rows)
    shard.with_name("000000000004-000000000006.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(RunError, match="two shards"):
        grad_cam.read(tmp_path / "out")


def test_only_one_run_writes(photos: Path, tmp_path: Path) -> None:
    """A second run into the same folder at the same time is refused."""

    def second(done: int, total: int | None, failed: int) -> None:
        with pytest.raises(RunError, match="another run is writing"):
            _run(_model(), photos, tmp_path / "out")

    _once(_run(_model(), photos, tmp_path / "out", progress=second), 12)


def test_a_killed_run_leaves_neither_processes_nor_its_lock(photos: Path, tmp_path: Path) -> None:
    """After SIGKILL the processes that decode end as well, and the next run can begin."""
    out = tmp_path / "out"
    seen: list[int] = []

    def kill(process: Any) -> None:
        _after_shards(out, 2, 0)(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        seen.extend(map(int, children.read_text().split()))
        os.kill(process.pid, signal.SIGKILL)

    slow = {"workers": 1, "batch_size": 1, "shard": 1, "progress": lambda *_: time.sleep(0.1)}
    assert _in_process(lambda: _run(_model(), photos, out, **slow), kill) is None
    limit = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in seen) and time.monotonic() < limit:
        time.sleep(0.01)
    assert seen and not any(Path(f"/proc/{pid}").exists() for pid in seen)
    _once(_run(_model(), photos, out), 12)


def test_short_memory_halves_the_batch(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch for which memory does not suffice is halved, once, and said; one picture that is too much is an error."""
    real, sizes = grad_cam.folders.explaining.explain, []

    def short(model: nn.Module, images: Tensor, **how: Any) -> Any:
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        if (images[:, 0, 0, 0] == marked).any():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(model, images, **how)

    prepare = grad_cam.loading.preprocessing(_model())
    marked = float(prepare(photos / "tench" / "5.png")[0][0, 0, 0, 0])
    monkeypatch.setattr("grad_cam.folders.explaining.explain", short)
    notes: list[str] = []
    rows = _run(_model(), photos, tmp_path / "out", batch_size=8, notify=notes.append)
    _once(rows, 12)
    assert sizes[:5] == [1, 8, 4, 2, 2] and "from here on 2 images" in notes[1]
    assert [row["path"] for row in rows.errors.to_pylist()] == ["tench/5.png"]


def test_a_cpu_explains_few_at_a_time(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to itself a CPU explains four images at a time, or as many as it has threads; a given number is kept."""
    real, sizes = grad_cam.folders.explaining.explain, []

    def counted(model: nn.Module, images: Tensor, **how: Any) -> Any:
        sizes.append(len(images))
        return real(model, images, **how)

    monkeypatch.setattr("grad_cam.folders.explaining.explain", counted)
    for threads, given, expected in ((1, None, [4, 4, 4]), (6, None, [6, 6]), (1, 12, [12])):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        sizes.clear()
        _once(grad_cam.run(_model(), photos, tmp_path / f"{threads}{given}", workers=0, batch_size=given), 12)
        assert sizes == [1, *expected]


def test_one_image_that_fails_does_not_take_its_batch_with_it(photos: Path, tmp_path: Path) -> None:
    """An image whose map is not a number is an error, the others of its batch have maps."""
    prepare = grad_cam.loading.preprocessing(_model())
    images = [prepare(path)[0][0] for path in sorted(photos.rglob("*.png"))]
    images[3] = images[3] * float("nan")
    rows = _run(_model(), images, tmp_path / "out")
    _once(rows, 12)
    assert [row["input"] for row in rows.errors.to_pylist()] == [3]


class _Deadly:
    """A dataset one of whose pictures kills the process that reads it."""

    def __init__(self, count: int, deadly: set[int]) -> None:
        self.count, self.deadly = count, deadly

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, n: int) -> Any:
        if n in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return Image.new("RGB", (40, 40), (n * 9, 60, 60)), n % 7


def test_a_process_that_dies_takes_one_input_with_it(tmp_path: Path) -> None:
    """The input whose decoding kills a process is an error; if every input does, the run stops and says why."""
    notes: list[str] = []
    rows = _run(_model(), _Deadly(11, {5}), tmp_path / "out", workers=1, batch_size=3, notify=notes.append)
    _once(rows, 11)
    (error,) = rows.errors.to_pylist()
    assert error["input"] == 5 and "the process that decoded it died" in error["error"]
    assert len(notes) == 1 and rows[4]["class_index"] == 4 and rows[4]["class"] == "car"
    with pytest.raises(RunError, match="dies at every input"):
        _run(_model(), _Deadly(20, set(range(8, 20))), tmp_path / "all", workers=1, notify=notes.append)
    assert json.loads((tmp_path / "all" / "run.json").read_text())["format"] == 1
