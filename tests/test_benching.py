"""The bench: what it measures, on which photos and layers, and what its table and its page say."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import grad_cam
from grad_cam import metrics
from grad_cam.benching import Bench, Entry, bench, measuring, spread
from grad_cam.benching.contenders import DEFAULT_CUT, contenders
from grad_cam.benching.results import chosen_elsewhere, shown
from grad_cam.engine import score_function
from grad_cam.errors import GradCamError
from grad_cam.evidencing import mean_color
from grad_cam.rendering.bench import bench_html, write_bench
from tests.conftest import SIZE, TinyNet
from tests.planted import OneCell

QUICK = ["grad_cam", "hires_cam", "hires_cam+residual", "eigen_cam"]


@pytest.fixture(scope="module")
def measured() -> tuple[nn.Module, Tensor, Bench]:
    """A tiny network, five images, three of them with boxes, and a bench of four methods and a dear one."""
    torch.manual_seed(1)
    model = TinyNet().eval()
    images = torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    boxes = [[8, 8, 40, 40], None, np.eye(SIZE, dtype=bool), [[0, 0, 9, 9], [20, 20, 30, 30]], None]
    found = bench(
        model, images, [0, 1, 2, None, 4], boxes=boxes, names=["/home/me/<b>.jpg", "b", "c", "d", "e"], srg=2, few=2,
        methods=[*QUICK, "occlusion", "le_grad"], masks=24, cells=4, few_layers=2, units=12,
    )  # fmt: skip
    return model, images, found


def test_planted_cell_is_found() -> None:
    """Where one cell alone matters, maps that follow positions beat both controls and the default cut's Grad-CAM."""
    model = OneCell(row=2, column=4).eval()
    images = torch.rand(4, 3, 56, 56, generator=torch.Generator().manual_seed(0)) + 0.5
    found = bench(model, images, [0, 1, 2, 3], methods=["hires_cam", "eigen_cam"], masks=48)
    hires, random = found.at("hires_cam"), found.at(metrics.comparison.CONTROLS[1])
    assert hires.mean() > 0.9 > 0.5 > random.mean() and found.rows[0].name == "hires_cam"
    assert found.against("hires_cam")[1] > 0 > found.against("eigen_cam", other="hires_cam")[2]


def test_entries_are_what_a_bank_says(measured: tuple[nn.Module, Tensor, Bench]) -> None:
    """A value is the bank's judgement of the map that `explain` makes there, energy and pointing those of `metrics`."""
    model, images, found = measured
    layer = found.layers[2]
    e = grad_cam.explain(model, images[2:3], layer=layer, target=[2], method="hires_cam")
    score = score_function(model, images[2:3], [2])
    fill = mean_color(e.seen.preprocessing)
    bank = metrics.Bank.of(images[2:3], score, masks=24, cells=4, fill=fill)
    entry = found.at("hires_cam", layer)
    assert entry.values["bank"][2] == pytest.approx(float(bank.judge(e.map)[0]))
    table = metrics.compare({"it": e.map}, images[2:3], score, boxes=[np.eye(SIZE, dtype=bool)],
                            measures=["energy", "pointing"])  # fmt: skip
    for measure in ("energy", "pointing"):
        assert entry.values[measure][2] == pytest.approx(table["it"].mean(measure))
        assert entry.values[measure].isnan().tolist() == [False, True, False, False, True]


def test_predicted_class_is_explained_where_none_is_given(measured: tuple[nn.Module, Tensor, Bench]) -> None:
    """An image without a target is explained and judged for the class that is predicted for it whole."""
    model, images, found = measured
    predicted = int(model(images[3:4]).argmax())
    again = bench(model, images[3:4], [predicted], methods=["hires_cam"], masks=24, cells=4)
    assert found.classes[3] == again.classes[0]
    layer = found.layers[-1]
    assert found.at("hires_cam", layer).values["bank"][3] == pytest.approx(
        float(again.at("hires_cam", layer).values["bank"][0])
    )


def test_dear_methods_run_on_few_photos_and_layers(measured: tuple[nn.Module, Tensor, Bench]) -> None:
    """A method that scores copies runs on a few photos; the table and the notes say so."""
    _, _, found = measured
    assert found.dear == {"occlusion"} and found.few == spread(5, 2) == (1, 3)
    assert (~found.at("occlusion").values["bank"].isnan()).nonzero()[:, 0].tolist() == [1, 3]
    assert "occlusion*" in str(found) and "on 2 of 5 photos" in str(found)
    assert [row.control for row in found.rows[-2:]] == [True, True] and found.rows[-3].name == "occlusion"


def test_what_costs_much_is_dear(cnn: nn.Module, batch: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that takes longer than 20 forward passes over all layers is dear from then on."""
    monkeypatch.setattr(measuring, "LIMIT", 0.0)
    found = bench(cnn, batch, methods=["hires_cam"], masks=8, cells=4, few=1, few_layers=2)
    assert found.dear == {"hires_cam"} and found.few == (1,)
    entries = [entry for entry in found.entries if entry.name == "hires_cam"]
    assert len(entries) == 2 and all(entry.photos == 1 for entry in entries)


def test_methods_that_do_not_fit_are_named(measured: tuple[nn.Module, Tensor, Bench]) -> None:
    """A method that the model refuses stands under the table with the reason, and nowhere in it."""
    _, _, found = measured
    assert [name for name, _ in found.refused] == ["le_grad"] and "attention" in found.refused[0][1]
    assert "no map: le_grad: " in str(found) and "le_grad" not in {row.name for row in found.rows}


def test_srg_is_that_of_the_metrics(measured: tuple[nn.Module, Tensor, Bench]) -> None:
    """SRG is measured on the photos asked for, at a method's best layer, in the units asked for."""
    model, images, found = measured
    layer, number = found.at("hires_cam").layer, spread(5, 2)[1]
    target = int(model(images[number, None]).argmax())
    e = grad_cam.explain(model, images[number, None], layer=layer, target=[target], method="hires_cam")
    wanted = metrics.srg(e.map, images[number, None], score_function(model, images[number, None], [target]), units=12)
    values = found.srg["hires_cam"]
    assert float(values[number]) == pytest.approx(float(wanted[0])) and int((~values.isnan()).sum()) == 2


def test_layers_are_chosen_on_other_photos() -> None:
    """Each photo's value is that of the layer with the best mean over the photos of the other groups."""
    generator = torch.Generator().manual_seed(0)
    entries = [Entry("m", str(i), {"bank": torch.rand(7, generator=generator).double()}) for i in range(3)]
    found = chosen_elsewhere(entries, folds=3)["bank"]
    for photo in range(7):
        others = [i for i in range(7) if i % 3 != photo % 3]
        means = [sum(float(entry.values["bank"][i]) for i in others) for entry in entries]
        assert float(found[photo]) == float(entries[means.index(max(means))].values["bank"][photo])
    alone = chosen_elsewhere([Entry("m", "a", {"bank": torch.tensor([math.nan, 0.5]).double()})])["bank"]
    assert alone[0].isnan() and float(alone[1]) == 0.5


def test_choosing_a_layer_on_noise_gains_nothing() -> None:
    """Of layers that are all noise, the best of many would be far above zero; the value shown is not."""
    generator = torch.Generator().manual_seed(1)
    noise = [Entry("m", str(i), {"bank": torch.randn(20, generator=generator).double()}) for i in range(30)]
    assert max(entry.mean() for entry in noise) > 0.3
    assert abs(float(chosen_elsewhere(noise)["bank"].mean())) < 0.3


def test_names_of_contenders() -> None:
    """Names, titles with a plus, rules and functions are taken; what cannot take part is refused."""
    names = [each.name for each in contenders(["Grad-CAM++", "hires_cam + residual", lambda activations: activations])]
    assert names[:3] == [DEFAULT_CUT, "grad_cam_plus_plus", "hires_cam+residual"] and len(names) == 4
    everything = {each.name for each in contenders(None)}
    assert {"grad_cam", "rise", "hires_cam+balanced", "hires_cam+residual"} <= everything
    assert "deep_feature_factorization" not in everything
    for wrong in (["nonsense"], ["hires_cam+nonsense"], ["eigen_cam+residual"], ["deep_feature_factorization"], []):
        with pytest.raises(GradCamError):
            contenders(wrong)


def test_wrong_numbers_of_things_are_refused(cnn: nn.Module, batch: Tensor) -> None:
    """Targets, boxes and names are one for each image, and there is an image."""
    for wrong in ({"targets": [1]}, {"boxes": [None]}, {"names": ["a"]}):
        with pytest.raises(GradCamError, match="for 3 images"):
            bench(cnn, batch, methods=["hires_cam"], **wrong)
    with pytest.raises(GradCamError, match="needs images"):
        bench(cnn, batch[:0])


def test_one_photo_of_a_constant_score() -> None:
    """A model whose score nothing changes is measured without an error, and no method is said to be good."""
    model = OneCell(0, 0).eval()
    with torch.no_grad():
        model.head.weight.zero_()
    found = bench(model, torch.rand(1, 3, 56, 56), [0], methods=["hires_cam"], masks=8, cells=4)
    assert math.isnan(found.at("hires_cam").mean()) and "–" in str(found) and found.best == ()
    assert "bank" in bench_html(found)


def test_as_dict_is_json(measured: tuple[nn.Module, Tensor, Bench]) -> None:
    """The figures are JSON without NaN, every photo in its place."""
    _, _, found = measured
    read = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert len(read["rows"]) == len(found.rows) and len(read["entries"][0]["bank"]) == 5
    assert read["srg"]["hires_cam"].count(None) == 3
    assert shown((math.nan,) * 3, 2) == "–" and shown((1, 0.5, 2), 1, signed=True) == "+1.0 [+0.5, +2.0]"


def test_page_holds_everything_and_no_paths(measured: tuple[nn.Module, Tensor, Bench], tmp_path) -> None:
    """The page loads nothing, runs nothing, escapes names, and holds no folder of the sender."""
    _, _, found = measured
    call = "grad-cam bench /home/me/photos.csv --folder=/home/me/secret/x -o out.html"
    path = write_bench(found, tmp_path / "bench.html", model="<script>alert(1)</script>", call=call)
    text = path.read_text(encoding="utf-8")
    assert "/home/me" not in text and "<script" not in text and "&lt;script&gt;" in text
    assert "default-src &#39;none&#39;" in text and "http:" not in text and "https:" not in text
    for row in found.rows:
        assert f"<bdi>{row.name}</bdi>" in text
    assert text.count("<rect ") == sum(e.box is not None for e in (*found.worst, *found.best)) >= 1
    assert len(re.findall('src="data:image/jpeg', text)) == 2 * len(found.worst + found.best)
    with pytest.raises(FileExistsError):
        write_bench(found, path)


def test_examples_are_the_extremes(measured: tuple[nn.Module, Tensor, Bench]) -> None:
    """The photos shown are those where the best row is lowest and highest, no photo twice."""
    _, _, found = measured
    top = next(row for row in found.rows if not row.dear)
    values = found.at(top.name).values["bank"]
    assert [e.photo for e in found.worst] == values.argsort()[:2].tolist()
    assert [e.photo for e in found.best] == values.argsort(descending=True)[:2].tolist()
    assert {e.explanation.target[0][0] for e in found.worst} == {found.classes[e.photo] for e in found.worst}
