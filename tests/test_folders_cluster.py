"""Runs on Ray Data give the rows of the local engine, also when an actor dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import grad_cam
from grad_cam.errors import GradCamError
from grad_cam.folders import SourceError, cluster
from grad_cam.folders.place import Place
from grad_cam.folders.rows import as_table
from tests.test_folders import _model, _once, _pictures, _run, _same


def test_collects_whole_files_once(tmp_path: Path) -> None:
    """Of what actors wrote, torn files are thrown away and inputs that came twice are taken once."""
    place = Place(tmp_path)
    place.write(0, 2, [{"input": 0, "error": "kept"}, {"input": 1, "error": "kept"}])
    folder = tmp_path / "ray" / "abc"
    folder.mkdir(parents=True)
    for name, numbers in (("a", [1, 2, 3]), ("b", [3, 2]), ("c", [7, 5, 6, 9])):
        pq.write_table(as_table([{"input": n, "error": name} for n in numbers]), folder / f"{name}.parquet")
    (folder / "d.parquet").write_bytes(b"PAR1 torn")
    cluster.collect(place)
    assert place.done() == [(0, 2), (2, 4), (5, 8), (9, 10)] and not (tmp_path / "ray").exists()
    rows = pa.concat_tables([pq.read_table(path) for path in place.shards()])
    assert rows.column("input").to_pylist() == [0, 1, 2, 3, 5, 6, 7, 9]
    assert rows.column("error").to_pylist() == ["kept", "kept", "a", "a", "c", "c", "c", "c"]


def test_what_ray_cannot_do_is_refused(tmp_path: Path) -> None:
    """An iterable, overlays and the fast path are for the local engine alone; an unknown engine is refused."""
    pytest.importorskip("ray")
    pictures = [torch.zeros(3, 64, 64)]
    with pytest.raises(GradCamError, match="overlays=True"):
        _run(_model(), pictures, tmp_path / "a", engine="ray", overlays=True)
    with pytest.raises(SourceError, match="divided among actors"):
        _run(_model(), iter(pictures), tmp_path / "b", engine="ray")
    with pytest.raises(GradCamError, match="no engine"):
        _run(_model(), pictures, tmp_path / "c", engine="spark")
    with pytest.raises(GradCamError, match="of the engine ray"):
        _run(_model(), pictures, tmp_path / "d", actors=2)


class Deadly(nn.Module):
    """A model that kills its process the first time it sees many images."""

    def __init__(self, inner: nn.Module, flag: str) -> None:
        super().__init__()
        self.inner, self.flag = inner, flag

    def forward(self, x: Tensor) -> Any:
        """The logits of the inner model."""
        if len(x) == 3 and not os.path.exists(self.flag):
            Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(x)


@pytest.mark.slow
def test_two_actors_one_killed(tmp_path: Path) -> None:
    """With two actors, one of which is killed while it works, every row is that of the local engine; faults, too."""
    pytest.importorskip("ray")
    photos = tmp_path / "photos"
    _pictures(photos, [f"{c}/{n}.png" for c in ("cat", "tench") for n in range(11)])
    for name, path in grad_cam.loading.samples().items():
        (photos / "cat" / f"{name}.jpg").write_bytes(path.read_bytes())
    (photos / "cat" / "empty.jpg").touch()
    flag = tmp_path / "killed"
    model = Deadly(_model(), str(flag))
    model.class_names, model.preprocessing = model.inner.class_names, model.inner.preprocessing
    flag.touch()
    local = _run(model, photos, tmp_path / "local", layer="inner.layer2")
    flag.unlink()
    rows = _run(model, photos, tmp_path / "ray", layer="inner.layer2", engine="ray", actors=2, batch_size=3, shard=6)
    assert flag.exists()
    _once(rows, 25)
    _same(rows, local)
    assert rows.errors.to_pylist() == local.errors.to_pylist() and (rows.path / "index.html").exists()
