"""What a folder says: probes, the curve over depth, the classes of a folder, shortcuts that are planted, the page."""

from __future__ import annotations

import html
import json
import pathlib
import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import grad_cam
from grad_cam.errors import GradCamError
from grad_cam.studies import Pictures, Region, Study, compare, probes, regions, shortcuts
from grad_cam.studies.knowledge import recommended
from tests import shortcut_sets

# ------------------------------------------------------------------------------------------------------------- probes


def _clouds(count: int = 90, width: int = 6, apart: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    centres = torch.randn(3, width, generator=generator) * apart
    return centres[labels] + torch.randn(count, width, generator=generator), labels


def test_folds_hold_every_class() -> None:
    """Every picture is in one part, every part has its share of every class, and pictures of no class are in none."""
    labels = torch.tensor([0] * 10 + [1] * 5 + [-1] * 3)
    parts = probes.folds(labels, 5)
    assert (parts[labels < 0] == -1).all() and (parts[labels >= 0] >= 0).all()
    assert [(parts[labels == 0] == k).sum() for k in range(5)] == [2] * 5
    assert [(parts[labels == 1] == k).sum() for k in range(5)] == [1] * 5


def test_probes_know_what_can_be_known() -> None:
    """Clouds that are apart are told apart when held out, noise is not: nothing leaks from the fitted pictures."""
    features, labels = _clouds()
    for said in probes.held_out(features, labels, probes.folds(labels, 5)):
        assert (said == labels).double().mean() > 0.95
    noise = torch.randn(150, 400, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(150) % 3
    for said in probes.held_out(noise, labels, probes.folds(labels, 5)):
        assert 0.18 < (said == labels).double().mean() < 0.5


def test_penalty_is_the_best_left_one_out() -> None:
    """The closed form of leaving one out chooses the penalty that fitting again without each picture chooses."""
    features, labels = _clouds(24, 5, 0.6)
    features = probes.standardised(features.double(), features.double())[0]
    wanted = torch.nn.functional.one_hot(labels).double()
    unit = torch.linalg.svdvals(features).square().mean()

    def error(strength: float) -> float:
        total = 0.0
        for i in range(len(features)):
            rest = torch.arange(len(features)) != i
            ones = torch.cat([features[rest], torch.ones(len(features) - 1, 1)], 1).double()
            penalty = torch.eye(6).double() * strength * unit
            penalty[-1, -1] = 0  # the constant is free
            weights = torch.linalg.solve(ones.T @ ones + penalty, ones.T @ wanted[rest])
            total += float(((torch.cat([features[i], torch.ones(1)]).double() @ weights - wanted[i]) ** 2).mean())
        return total

    best = min(probes.STRENGTHS, key=error)
    ones = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    penalty = torch.eye(6).double() * best * unit
    penalty[-1, -1] = 0
    said = (ones @ torch.linalg.solve(ones.T @ ones + penalty, ones.T @ wanted)).argmax(1)
    assert torch.equal(probes.linear_probe(features, labels, features), said)


def test_interval_of_a_share() -> None:
    """Wilson's interval, against the numbers of his formula by hand, and at the ends."""
    low, high = probes.wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert probes.wilson(0, 0) == (0.0, 1.0) and probes.wilson(5, 5)[1] == 1.0 and probes.wilson(0, 5)[0] == 0.0


# -------------------------------------------------------------------------------------------------------------- depth


def test_recommended_is_the_first_that_is_as_good() -> None:
    """The shallowest cut within a standard error of the best one, among those that carry a map."""
    table = torch.zeros(4, 100, dtype=torch.bool)
    table[0, :60], table[1, :89], table[2, :90], table[3, :] = True, True, True, True
    assert recommended(table, [0, 1, 2]) == (1, 2)
    assert recommended(table, [0, 2]) == (2, 2)
    assert recommended(table, [0, 1, 2, 3]) == (3, 3)


class Staged(nn.Module):
    """Colour is known after the first stage; which half is bright only after the second, which looks at halves."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1, bias=False)
        self.second = nn.Conv2d(3, 4, (4, 8), (4, 8), bias=False)
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(3)[:, :, None, None])
            self.second.weight.zero_()
            self.second.weight[0, :, :, :4], self.second.weight[0, :, :, 4:] = 1, -1
            self.head.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 2)."""
        return self.head(self.flatten(self.pool(self.second(self.first(x)))))


def _halves(count: int = 60) -> tuple[Tensor, list[int]]:
    generator = torch.Generator().manual_seed(3)
    images, labels = torch.randn(count, 3, 8, 8, generator=generator) * 0.3, [i % 2 for i in range(count)]
    for image, label in zip(images, labels, strict=True):
        image[:, :, 4:] += 1.0 if label else -1.0
        image[:, :, :4] += -1.0 if label else 1.0
    return images, labels


def test_curve_shows_where_the_class_is_decided() -> None:
    """A class that one stage makes is at chance before it, known after it, and that stage is recommended."""
    images, labels = _halves()
    model = Staged().eval()
    found = grad_cam.study(model, Pictures.of_tensors(images, labels, ["left", "right"], model), shortcuts=False)
    known = {d.place.name: d for d in found.knowledge.depths}
    assert known["first"].probe.value < 0.75 and known["first"].nearest_mean.value < 0.75
    assert known["second"].probe.value == known["second"].agreement.value == 1.0
    assert found.layer == next(d.place.layer_idx for d in found.knowledge.depths if d.place.name == "second")
    at = [d.place.name for d in found.knowledge.depths].index("second")
    tips = [tip for tip in found.knowledge.tips if tip is not None]
    assert len(tips) == len(images) and max(tips) == at
    assert {i for i, tip in enumerate(found.knowledge.tips) if tip != at} and found.tip(0) in known


def test_every_cut_of_a_transformer_is_studied() -> None:
    """Tokens are pooled beside the class token, and cuts whose gradient is zero carry features though no map."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=3).eval()
    images = torch.randn(21, 3, 32, 32)
    found = grad_cam.study(
        model, Pictures.of_tensors(images, [i % 3 for i in range(21)], ["a", "b", "c"], model), batch_size=8
    )  # fmt: skip
    places = {d.place.name: d.place for d in found.knowledge.depths}
    assert places["blocks.0"].features == 2 * 192 and places["blocks.2"].grid is None
    assert places["blocks.2"].note and places["blocks.1"].grid == (2, 2)


def test_last_batch_and_model_are_as_they_were() -> None:
    """The size of a batch changes no figure, and the model keeps its mode and its gradients."""
    images, labels = _halves(22)
    model = Staged().train()
    studies = [
        grad_cam.study(model, Pictures.of_tensors(images, labels, ["l", "r"], model), batch_size=size, shortcuts=False)
        for size in (22, 5)
    ]
    assert studies[0].knowledge == studies[1].knowledge and studies[0].answers == studies[1].answers
    assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())


# ------------------------------------------------------------------------------------------------------------ classes


def test_classes_by_name_and_by_answers() -> None:
    """Folders are matched by name where the model knows the names, else by what it answers, and never by order."""
    images, labels = _halves(20)
    model = Staged().eval()
    swapped = Pictures.of_tensors(images, [1 - k for k in labels], ["right", "left"], model)
    found = grad_cam.study(model, swapped, shortcuts=False)
    assert found.classes.indices == (1, 0) and found.knowledge.model is None
    model.class_names = ["left", "right"]  # type: ignore[assignment]
    named = grad_cam.study(model, swapped, shortcuts=False)
    assert named.classes.note == "by name" and named.knowledge.model is not None and named.knowledge.model.value == 1.0
    for each, known in ((found, False), (named, True)):  # what follows from the answers is not counted as right
        assert each.summaries is not None and (each.summaries.classes[0].right is not None) == known
        both = compare(each, each)
        assert (both.gain is not None) == known and "None" not in str(both)


# ---------------------------------------------------------------------------------------------------------- shortcuts


def test_regions_lie_where_they_say() -> None:
    """The masks of corners, edges and border are where their names say."""
    for region in regions.rim_regions():
        mask = region.mask(50, 50)
        rows, columns = (axis.double().mean() / 50 for axis in mask.nonzero().T)
        words = {"top": rows < 0.4, "bottom": rows > 0.6, "left": columns < 0.4, "right": columns > 0.6}
        assert all(right for word, right in words.items() if word in region.place.split())
    border = next(r for r in regions.rim_regions() if r.kind == "border").mask(50, 50)
    assert border[0].all() and border[:, -1].all() and not border[10:40, 10:40].any()


def test_repetition_is_chance_for_noise() -> None:
    """A look that is in every picture of a class is found, and what is learnt from noise tells nothing."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(120, 4, 32, 32, generator=generator)
    members = torch.arange(120) % 4 == 0
    parts = probes.folds(members.long(), 5)
    corner = regions.rim_regions()[0]
    assert 0.3 < regions.repetition(regions.look_of(small, corner), members, parts).area < 0.7
    small[members, 0, :4, :4] += 0.6
    again = regions.repetition(regions.look_of(small, corner), members, parts)
    assert again.area > 0.95 and again.within > 0.8 and again.elsewhere < 0.2


class Corner(nn.Module):
    """Its second class is the brightness of the top left corner, its first that of the middle."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 2)."""
        return torch.stack([x[:, :, 12:20, 12:20].mean((1, 2, 3)), x[:, :, :6, :6].mean((1, 2, 3))], 1)


def test_share_is_the_part_of_the_decision() -> None:
    """By hand: where the corner alone makes the difference, its share is 1, and that of another corner 0."""
    generator = torch.Generator().manual_seed(0)
    images = 0.1 * torch.rand(40, 3, 32, 32, generator=generator)
    labels = [i % 2 for i in range(40)]
    images[1::2, :, :6, :6] += 2
    images[:, :, 12:20, 12:20] += 1
    model = Corner()
    pictures = Pictures.of_tensors(images, labels, ["plain", "marked"], model)
    logits = model(images)
    search = shortcuts._Search(pictures, images[:, [0, 1, 2, 2]], logits, torch.tensor(labels), model, 0, 16)
    pairs = search._pairs(1, 1)
    members = torch.tensor(labels) == 1
    places = {r.place: r for r in regions.rim_regions()}
    share, turned, steady = search._share(places["top left corner"], members, 1, pairs)
    assert share == pytest.approx(1.0, abs=0.01) and turned == 1.0 and steady
    assert search._share(places["bottom right corner"], members, 1, pairs)[0] == pytest.approx(0.0, abs=1e-6)
    boxed = Pictures.of_tensors(images, labels, ["plain", "marked"], model, boxes=[(0, 0, 10, 10)] * 40)
    search.pictures = boxed
    assert search._share(places["top left corner"], members, 1, pairs)[:2] == (0.0, 0.0)  # the object is there


@pytest.mark.parametrize("number", [1, 2])
def test_planted_shortcut_is_found(number: int) -> None:
    """A tint and a corner text are named by class and place."""
    plant = shortcut_sets.plant_of(number)
    _, study = shortcut_sets.studied(number, plant, epochs=8)
    assert shortcut_sets.found(plant, study), str(study)


def test_clean_set_raises_no_alarm() -> None:
    """Without a shortcut none is reported, and the page says what was tried."""
    _, study = shortcut_sets.studied(2, None, epochs=8)
    assert study.shortcuts == ()
    assert "No shortcut was found" in str(study) and study.tested


@pytest.mark.slow
def test_planted_shortcuts_and_clean_sets() -> None:
    """Of 20 planted shortcuts 19 are found, and 20 sets without one raise no alarm."""
    verdicts = list(shortcut_sets.judged())
    missed = [each for each in verdicts[::2] if not each.right]
    alarms = [each for each in verdicts[1::2] if not each.right]
    assert len(verdicts) == 40 and len(missed) <= 1 and not alarms, (missed, alarms)
    assert max(each.seconds for each in verdicts) < 120  # of 200 pictures, in CPU time: some seconds are usual


# --------------------------------------------------------------------------------------------------- folders and page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of two classes whose names want escaping, with a file that is no picture."""
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for name, bright in (("<i>left", 0), ("right & co", 120)):
        (root / name).mkdir()
        for i in range(8):
            values = draw.integers(0, 120, (12, 16, 3)) + bright
            Image.fromarray(values.astype(np.uint8)).save(root / name / f"{i}.png")
    (root / "right & co" / "broken.jpg").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def studied(folder: pathlib.Path) -> Study:
    """A study of the folder by an untrained network."""
    torch.manual_seed(0)
    return grad_cam.study(shortcut_sets.Net().eval(), folder, name="<script>")


def test_folder_is_read(folder: pathlib.Path, studied: Study) -> None:
    """One class a folder, names with slashes, and a file that cannot be read is named."""
    assert studied.pictures.classes == ("<i>left", "right & co") and len(studied.pictures) == 16
    assert studied.pictures.names[0] == "<i>left/0.png"
    assert any("broken.jpg could not be read" in note for note in studied.notes)
    limited = Pictures.of_source(folder, shortcut_sets.Net(), limit=3)
    assert len(limited) == 6


def test_boxes_follow_the_crop(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A box in pixels of the file becomes parts of what the model sees: the middle of a wide picture is cropped out."""
    model = timm.create_model("resnet10t", num_classes=2)
    name = "right & co/1.png"
    rows = [f"{folder}/{name},r,2 0 8 12", f"{folder}/right & co/2.png,r,0 0 1 12"]
    rows += [f"{folder}/<i>left/{i}.png,l," for i in range(2)]
    (tmp_path / "table.csv").write_text("\n".join(["path,class,box", *rows]), encoding="utf-8")
    pictures = Pictures.of_source(tmp_path / "table.csv", model)
    box = pictures.boxes[pictures.labels.index(1)]
    left, top, right, bottom = pictures.preprocessing.used_box(Image.new("RGB", (16, 12)))
    assert box is not None and box[2] == pytest.approx((8 - left) / (right - left)) and box[1] == 0
    assert pictures.boxes[-1] is None and pictures.boxes[0] is None and right - left == bottom - top
    mask = Image.new("L", (16, 12))
    mask.paste(255, (2, 0, 8, 12))
    mask.save(tmp_path / "mask.png")
    Image.new("L", (9, 9), 255).save(tmp_path / "small.png")
    masks = [f"{folder}/{name},r,mask.png", f"{folder}/right & co/2.png,r,small.png", f"{folder}/right & co/0.png,r,"]
    (tmp_path / "masks.csv").write_text("\n".join(["path,class,mask", *masks, *rows[2:]]), encoding="utf-8")
    seen = Pictures.of_source(tmp_path / "masks.csv", model)
    assert seen.boxes[seen.labels.index(1)] == box and seen.boxes[-1] is None
    assert "small.png is 9 x 9, its picture 16 x 12" in seen.failed[f"{folder}/right & co/2.png"]


class _Broken:
    """A data set of which two items fail."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, n: int) -> tuple[Tensor, int]:
        if n >= 4:
            raise IndexError
        return torch.full((3, 32, 32), 1 / (n % 2)), n % 2


def test_what_is_no_study_is_refused(tmp_path: pathlib.Path) -> None:
    """A folder that is not there or holds one class, and labels that are too few."""
    model = shortcut_sets.Net()
    with pytest.raises(GradCamError, match="there is no"):
        grad_cam.study(model, tmp_path / "nothing")
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    with pytest.raises(GradCamError, match="two classes"):
        grad_cam.study(model, tmp_path)
    with pytest.raises(GradCamError, match="2 pictures could not be read: ZeroDivisionError"):
        grad_cam.study(model, _Broken())
    with pytest.raises(GradCamError, match="one label"):
        Pictures.of_tensors(torch.zeros(3, 3, 8, 8), [0, 1], ["a", "b"], model)


def test_page_holds_everything_and_escapes(studied: Study, tmp_path: pathlib.Path) -> None:
    """The page loads nothing, runs nothing, escapes names, and is not overwritten without being asked."""
    path = studied.report(tmp_path / "study.html")
    text = path.read_text(encoding="utf-8")
    assert "<i>left" not in text and "&lt;i&gt;left" in text and "&lt;script&gt;" in text
    assert "<script" not in text and "http" not in re.sub(r'http-equiv="Content-Security-Policy"', "", text)
    assert "default-src 'none'" in html.unescape(text) and text.count("<polyline") == 3
    with pytest.raises(FileExistsError):
        studied.report(path)


def test_page_shows_where_a_shortcut_is(studied: Study) -> None:
    """A finding is a sentence and pictures with its place outlined."""
    import dataclasses

    from grad_cam.studies.page import page

    region = Region("corner", "top left corner", (0.0, 0.0, 0.3, 0.3))
    one = shortcuts.Shortcut("right & co", region, 0.8, 0.9, regions.Repetition(0.95, 0.9, 0.05), 16, (8, 9))
    text = page(dataclasses.replace(studied, shortcuts=(one,)))
    assert "carries 80 % of the decision" in text and text.count('class="mark"') == 2


def test_as_dict_is_plain(studied: Study) -> None:
    """The findings are JSON."""
    found = json.loads(json.dumps(studied.as_dict()))
    assert len(found["tips"]) == 16 and found["recommended"] == studied.layer


# ------------------------------------------------------------------------------------------------------------ classes


def test_maps_are_laid_over_each_other_by_box() -> None:
    """A spot in the middle of the box comes to the middle of the window, wherever box and spot are."""
    from grad_cam.studies.summaries import SIDE, aligned

    for x, y in ((0.25, 0.25), (0.6, 0.4)):
        raw = torch.full((40, 40), -1.0)
        raw[int(y * 40) - 1 : int(y * 40) + 2, int(x * 40) - 1 : int(x * 40) + 2] = 3.0
        found = aligned(raw, (x - 0.2, y - 0.2, x + 0.2, y + 0.2))
        row, column = divmod(int(found.argmax()), SIDE)
        assert abs(row - SIDE / 2) <= 2 and abs(column - SIDE / 2) <= 2 and found.max() == pytest.approx(1.0)
    assert aligned(torch.ones(4, 4), (0.0, 0.0, 0.5, 0.5))[0, 0] == 0  # outside the picture
    assert aligned(torch.full((4, 4), -1.0), None).max() == 0


def test_summaries_name_what_is_confused_and_what_is_odd() -> None:
    """The mean map lies where the class is read, an odd picture is the least typical, and a confusion is explained."""
    images, labels = _halves(40)
    images[0] = 3 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(9))
    images[0, :, :, 4:] -= 6.0
    labels[2] = 1  # in the wrong folder: the model says the other class
    model = Staged().eval()
    model.class_names = ["left", "right"]  # type: ignore[assignment]
    named = Pictures.of_tensors(images, [1 - k for k in labels], ["right", "left"], model)
    found = grad_cam.study(model, named, shortcuts=False).summaries
    assert found is not None and len(found.classes) == 2
    (confusion,) = [c for c in found.confusions if 2 in c.pictures]
    assert (confusion.label, confusion.answer) == ("right", "left") or (confusion.label, confusion.answer) == (
        "left", "right"
    )  # fmt: skip
    assert set(found.contrasts) >= set(confusion.pictures)
    assert any(0 in each.untypical for each in found.classes)
    assert all(each.mean.shape == (28, 28) and not each.aligned for each in found.classes)


def test_run_is_studied(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The folder of a run is studied as the folder it was made of."""
    model = shortcut_sets.Net().eval()
    grad_cam.run(model, folder, tmp_path / "out", progress=None)
    again = Pictures.of_source(tmp_path / "out", model)
    first = Pictures.of_source(folder, model)
    assert again.names == first.names and again.labels == first.labels and again.classes == first.classes
    assert torch.equal(again.images([3]), first.images([3]))


def test_command_writes_the_page(folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`grad-cam study` prints the findings and writes the page."""
    from typer.testing import CliRunner

    from grad_cam.interfaces.cli import app

    (tmp_path / "own_net.py").write_text("from tests.shortcut_sets import Net\n\n\ndef net():\n    return Net()\n")
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["study", str(folder), "-m", "own_net:net", "-o", "page.html"])
    assert ran.exit_code == 0, ran.output
    assert "Recommended layer" in ran.output and (tmp_path / "page.html").stat().st_size > 5000
    torch.save(shortcut_sets.Net().state_dict(), tmp_path / "later.pt")
    call = ["study", str(folder), "-m", "own_net:net", "--no-shortcuts", "--against", "later.pt", "-o", "two.html"]
    ran = CliRunner().invoke(app, call)
    assert ran.exit_code == 0 and "later.pt beside own_net:net" in ran.output, ran.output
    again = CliRunner().invoke(app, ["study", str(folder), "-m", "own_net:net", "-o", "page.html"])
    assert again.exit_code == 1 and "already" in again.output


# --------------------------------------------------------------------------------------------------------- comparison


def _pair_of_studies() -> tuple[Study, Study]:
    images, labels = _halves(60)
    good, bad = Staged().eval(), Staged().eval()
    with torch.no_grad():
        bad.second.weight.copy_(torch.randn(bad.second.weight.shape, generator=torch.Generator().manual_seed(1)))
        bad.second.weight[:] = bad.second.weight.mean((2, 3), keepdim=True)  # it no longer looks at halves
    for model in (good, bad):
        model.class_names = ["right", "left"]  # type: ignore[assignment]
    pictures = Pictures.of_tensors(images, labels, ["right", "left"], good)
    one, other = (grad_cam.study(m, pictures, shortcuts=False, name=n) for m, n in ((good, "good"), (bad, "bad")))
    return one, other


def test_comparison_says_where_two_models_part() -> None:
    """Equal up to the stage that differs: the first depth, the answers and their balance are named."""
    one, other = _pair_of_studies()
    found = compare(one, other)
    assert found.parts_at is not None and found.parts_at.first.place.name == "second"
    first = found.depths[0]
    assert first.same == 1.0 and first.gain == (0.0, 0.0, 0.0) and not first.differs
    wrong = [i for i in range(60) if other.answers[i] != one.answers[i]]
    assert [c.picture for c in found.changes] == wrong and {c.right for c in found.changes} == {"first"}
    assert found.gain is not None and found.gain[0] == pytest.approx(-len(wrong) / 60) and found.gain[2] < 0
    assert "first depth that differs is second" in str(found) and json.dumps(found.as_dict())


def test_a_model_beside_itself_is_the_same(tmp_path: pathlib.Path) -> None:
    """No change, no depth that differs, maps that agree; and the page says so."""
    one, other = _pair_of_studies()
    found = compare(one, one)
    assert not found.changes and found.parts_at is None and found.gain == (0.0, 0.0, 0.0)
    assert found.maps is not None and np.nanmin(found.maps) == pytest.approx(1.0)
    text = found.report(tmp_path / "same.html").read_text(encoding="utf-8")
    assert "At no depth" in text and "<script" not in text
    text = compare(one, other).report(tmp_path / "compared.html").read_text(encoding="utf-8")
    assert "the first is right" in text and text.count("<polyline") == 2


def test_other_pictures_are_not_compared(studied: Study) -> None:
    """Two studies of other pictures are refused."""
    with pytest.raises(GradCamError, match="not of the same pictures"):
        compare(studied, _pair_of_studies()[0])
