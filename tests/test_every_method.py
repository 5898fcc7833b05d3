"""Every method through every interface: the same picture, model and method give the same map whatever the way in."""

from __future__ import annotations

import base64
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import grad_cam
from grad_cam import METHODS, loading
from grad_cam.interfaces import cli
from grad_cam.interfaces.notebook import Choice, ExplorerState
from grad_cam.interfaces.web import models, views

pytest.importorskip("gradio")

OPTIONS: dict[str, dict[str, int]] = {"rise": {"masks": 50}}
"""Smaller numbers, where an interface takes options, for a method whose map is a matter of many random masks."""


class Case(NamedTuple):
    """A model, a photo in a file, and where and for which class it is explained."""

    model: nn.Module
    photo: pathlib.Path
    layer: str
    target: int


def _found(e: grad_cam.Explanation) -> NDArray[Any]:
    return e.map[0].reshape(-1, *e.map.shape[-2:]).detach().numpy()  # (K,h,w)


def _explained(case: Case, method: str) -> grad_cam.Explanation:
    images, _ = loading.preprocessing(case.model, 64)(case.photo)
    where = {"layer": case.layer} if METHODS[method].scope == "layer" else {}
    return grad_cam.explain(case.model, images, target=case.target, method=method, **where, **OPTIONS.get(method, {}))


def _swept(case: Case, method: str) -> grad_cam.Sweep:
    images, _ = loading.preprocessing(case.model, 64)(case.photo)
    options = {"layers": [case.layer], "target": case.target, "method": method, **OPTIONS.get(method, {})}
    return grad_cam.sweep(case.model, images, **options)


def _by_sweep(case: Case, method: str) -> NDArray[Any]:
    (found,) = _swept(case, method)
    return _found(found)


def _by_report(case: Case, method: str) -> NDArray[Any]:
    """The map as the page holds it: whole numbers of 16 bits, with units for what is above and below zero."""
    page = _swept(case, method).report(case.photo.with_name("report.html"), force=True).read_text(encoding="utf-8")
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    maps = [[m for m in maps if m is not None] for maps in json.loads(data[1])["images"][0]["maps"]]
    assert all(len(of_class) == 1 for of_class in maps)
    made = []
    for (m,) in maps:
        whole = np.frombuffer(base64.b64decode(m["data"]), f"<i{m['bits'] // 8}").reshape(m["h"], m["w"]).astype(float)
        made.append(np.where(whole > 0, whole * m["up"], whole * m["down"]))
    return np.stack(made)


def _by_command_line(case: Case, method: str) -> NDArray[Any]:
    where = ["--layer", case.layer] if METHODS[method].scope == "layer" else []
    options = [word for name, value in OPTIONS.get(method, {}).items() for word in ("--option", f"{name}={value}")]
    words = ["explain", str(case.photo), "-m", "tiny", "--input-size", "64", "-x", method, "--class", str(case.target)]
    folder = str(case.photo.with_name("out"))
    done = CliRunner().invoke(cli.app, [*words, *where, *options, "-o", folder, "--force", "--json"])
    if done.exit_code:
        raise ValueError(done.stderr.strip().splitlines()[-1].removeprefix("Error: "))
    (result,) = json.loads(done.stdout)["images"]
    assert all(pathlib.Path(path).is_file() for path in result["files"]) and result["files"]
    return np.array([e["map"] for e in result["explanations"]])


def _by_page(case: Case, method: str) -> NDArray[Any]:
    opened = models.open_page_model(case.model, input_size=64)
    position = [layer.name for layer in opened.layers].index(case.layer)
    controls = views.Controls(case.photo, opened.name, position, case.target, "grad_cam", (), "layer")
    start = views.view_for(controls, opened)
    start = views.view_for(controls, opened, start)
    options = tuple(OPTIONS.get(method, {}).get(n, d) for n, d in views.option_defaults(method).items())
    key = views.Key(method, case.layer if METHODS[method].scope == "layer" else None, options)
    found = views._computed(start, key, None).results[key]
    assert isinstance(found, views.Computed)
    return found.maps


def _by_explorer(case: Case, method: str) -> NDArray[Any]:
    state = ExplorerState(case.model, case.photo, input_size=64)
    choice = state.canonical(Choice(case.layer, method, case.target))
    return _found(state.compute(choice)[choice])


WAYS: dict[str, Callable[[Case, str], NDArray[Any]]] = {
    "sweep": _by_sweep, "report": _by_report, "command line": _by_command_line, "page": _by_page,
    "explorer": _by_explorer,
}  # fmt: skip


@pytest.mark.parametrize("model", ["cnn", "vit"])
@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_through_every_interface(
    method: str, model: str, picture: Image.Image, tmp_path: pathlib.Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each way in gives the map of `explain`, or refuses with the same sentence; the explorer shows one map alone."""
    net = request.getfixturevalue(model)
    picture.save(tmp_path / "photo.png")
    case = Case(net, tmp_path / "photo.png", {"cnn": "layer2.0", "vit": "blocks.0"}[model], 3)
    monkeypatch.setattr(loading, "load", lambda name, **how: net)
    try:
        wanted: NDArray[Any] | None = _found(_explained(case, method))
    except ValueError as error:
        wanted, sentence = None, str(error)
        assert METHODS[method].kind == "attention" and model == "cnn" or method.startswith("guided") and model == "vit"
    for name, way in WAYS.items():
        if name == "explorer" and METHODS[method].gives != "map":
            with pytest.raises(ValueError, match="gives them all"):
                way(case, method)
        elif wanted is None:
            with pytest.raises(ValueError) as refused:
                way(case, method)
            assert " ".join(str(refused.value).split()) == " ".join(sentence.split()), name
        else:
            if name == "explorer" and OPTIONS.get(method):  # it has no options: another run of many masks
                continue
            coarse = {"report": 2**-15, "command line": 1e-5}.get(name, 0.0)
            tolerance = (1e-4 + coarse) * float(np.abs(wanted).max())
            np.testing.assert_allclose(way(case, method), wanted, rtol=1e-4, atol=tolerance, err_msg=name)
