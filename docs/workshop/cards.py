"""A card for every method: what the registry knows, the formula, what was measured, a picture on a CNN and on a ViT.

`data/cards.json` holds what a person wrote (formula, a sentence, when not to), `data/measured.json`, `data/costs.json`
and the tables of `evidence.md` what was measured; a method that is missing there is shown as not measured. The pictures
on a real ViT are stored in `vit/` (`make pictures VIT=path`).
"""

from __future__ import annotations

import inspect
import json
import os
import pathlib
import textwrap
from typing import Any

from . import examples
from .directives import write_picture

DATA = pathlib.Path(__file__).parents[1] / "data"
TITLES = {"cnn": "EfficientNet-Lite0", "vit": "ViT-S/14, DINOv2"}
FEWEST = 6
"""Photos from which on an interval is shown."""
CREDIT = (
    "Photo: [Ministério da Cultura](https://www.flickr.com/photos/ministeriodacultura/29085116541/), "
    "[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/), made smaller."
)
KINDS = {
    "gradient": "From gradients at a layer",
    "factorization": "From the activations of a layer, factorized",
    "perturbation": "From what is lost when something is taken away",
    "attention": "From the attention of a transformer",
    "network": "From the whole network",
    "other": "Others",
}
FASTER = {  # options of a card's picture where the defaults take minutes
    "score_cam": {"channels": 64},
    "ss_cam": {"channels": 32, "samples": 4},
    "is_cam": {"channels": 32, "steps": 4},
    "rise": {"masks": 400},
    "smooth_grad_cam_plus_plus": {"samples": 8},
}
_CNN = """import grad_cam
from grad_cam import loading

model = loading.load("demo")
images, _ = loading.preprocessing(model)(loading.samples()["cat"])
result = grad_cam.explain(model, images, target="tabby", method="{name}"{options})
result.figure()"""
_VIT = """import grad_cam
from docs.workshop import tiny  # a ViT that was trained on four drawn shapes

scene = tiny.scene()
result = grad_cam.explain(tiny.vit(), scene, target="ring", method="{name}"{options})
result.figure()"""
_SMALL = "result.overlay()"


def data(name: str) -> dict[str, Any]:
    """What a JSON file of `docs/data` holds; {} where there is none."""
    path = DATA / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


_PLACES = {"cnn": _CNN, "vit": _VIT}


def codes(name: str, refused: dict[str, str]) -> list[str]:
    """The examples of a card, each with its small picture: on a CNN and on a ViT, where they are not refused."""
    options = "".join(f", {key}={value!r}" for key, value in FASTER.get(name, {}).items())
    found = []
    for place, code in _PLACES.items():
        if not refused[place]:
            found += [code.format(name=name, options=options), _SMALL]
    return found


def refusal(method: Any, place: str) -> str:
    """Why one of the two models cannot be explained so, or ""."""
    import grad_cam
    from grad_cam import loading
    from grad_cam.errors import GradCamError

    from . import tiny

    if place == "cnn" and method.kind != "attention" or place == "vit" and method.kind != "network":
        return ""
    try:
        if place == "vit":
            grad_cam.explain(tiny.vit(), tiny.scene(), method=method.name)
        else:
            model = loading.load("demo")
            images, _ = loading.preprocessing(model)(loading.samples()["cat"])
            grad_cam.explain(model, images, method=method.name)
    except GradCamError as error:
        return str(error)
    return ""


def methods() -> dict[str, Any]:
    """The methods of the package that are documented, by name."""
    from grad_cam import METHODS

    return {name: m for name, m in METHODS.items() if m.function.__module__.startswith("grad_cam.")}


# --------------------------------------------------------------------------------------------------------------- pages


def _facts(method: Any) -> list[str]:
    reads = {"layer": "one layer, chosen by `layer=`", "input": "pictures and scores only: no layer, no gradient"}
    rows = [
        ("reads", reads.get(method.scope, "the whole network: no layer")),
        ("ingredients", ", ".join(f"`{each}`" for each in method.ingredients)),
        ("about a class", "yes" if method.class_specific else "no: the same map for every class"),
        ("one pass for every layer", "yes" if method.one_pass else "no"),
        ("smoothing", ", ".join(f"`{n}=True`" for n in ("aug_smooth", "eigen_smooth") if getattr(method, n)) or "none"),
        ("`rules=\"balanced\"`", "yes" if not method.no_rules else f"no: {method.no_rules}"),
    ]  # fmt: skip
    if method.gives == "concepts":
        rows.insert(0, ("gives", "several concepts, each with a map"))
    options = [
        f"`{key}`" if value is inspect.Parameter.empty else f"`{key}={value!r}`"
        for key, value in method.options.items()
        if key != "chunk"
    ]
    rows.append(("options", ", ".join(options) or "none"))
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)]


def judged() -> dict[str, dict[str, list[str]]]:
    """For each method and model the row of the table in `evidence.md`: where, bank, energy, pointing, difference."""
    found: dict[str, dict[str, list[str]]] = {}
    text = (DATA.parent / "evidence.md").read_text(encoding="utf-8")
    for key, heading in (("cnn", "## EfficientNet-Lite0"), ("vit", "## ViT-S/14")):
        table = text.partition(heading)[2].partition("\n\n| method |")[2].partition("\n\n")[0]
        for line in table.splitlines():
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            if len(cells) == 5 and not name.startswith("---"):
                found.setdefault(name.strip("`*"), {})[key] = cells
    return found


def measured_rows(name: str) -> list[str]:
    """The table of what was measured of a method, on each model."""
    figures, costs, tables = data("measured"), data("costs"), judged()
    srg = bool(figures)  # no column without a figure
    head = ["", "cost in forwards", *["SRG [95 % interval]"] * srg, "bank, 95 % interval", "its layer", "energy in box"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key, title in TITLES.items():
        found = figures.get("methods", {}).get(name, {}).get(key)
        counted = costs.get("methods", {}).get(name, {})
        if counted and key not in counted:
            rows.append(f"| {' | '.join([title, 'refused', *['–'] * (len(head) - 2)])} |")
            continue
        layer, bank, energy = tables.get(name, {}).get(key, ["–", "not measured", "not measured"])[:3]
        cells = [title, _cost(counted.get(key)), *[srg_cell(found)] * srg, bank, layer, energy]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def srg_cell(found: dict[str, Any] | None) -> str:
    """SRG with its interval and the number of photos."""
    if not found or found["photos"] < FEWEST:
        return "not measured"
    mean, low, high = found["srg"]
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}], {found['photos']} photos"


def _cost(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _on_real_vit(name: str, title: str) -> list[str]:
    """The stored picture on a real ViT, with the command that makes it and the credit of the photo."""
    if not (DATA.parent / f"vit/{name}.webp").exists():
        return []
    return [
        f":::{{figure}} ../../vit/{name}.webp", f":alt: {title} of a vision transformer that is asked about the church",
        ":width: 300px", "",
        f"On photos: DINOv2's ViT-S/14 with ten classes, asked about *church* (`make pictures VIT=weights`). "
        f"Where nothing is coloured, the method finds nothing for *church* at the layer it takes. {CREDIT}",
        ":::", "",
    ]  # fmt: skip


def card(name: str, method: Any, words: dict[str, str], refused: dict[str, str]) -> str:
    """The page of one method."""
    source = f"[{method.source}]({method.link})" if method.link else method.source or "a control"
    function = f"{method.function.__module__}.{method.function.__name__}"
    text = [
        f"# {method.title}", "",
        f"`method=\"{name}\"` · {method.kind} · {source}", "",
        f"**When.** {method.advice}", "",
    ]  # fmt: skip
    if words:
        text += [f"**When not.** {words['not']}", "", words["words"], "", "$$", words["formula"], "$$", ""]
        text += [
            "$A$ are the activations at the cut, $g$ the gradient of the score $y$ there; $k$ counts channels, $p$ "
            "positions.", "",
        ]  # fmt: skip
    left = iter(codes(name, refused))
    for place, title in (("cnn", "On a convolutional network"), ("vit", "On a vision transformer")):
        text += [f"## {title}", ""]
        if refused[place]:
            text += ["Refused, with the reason:", "", "```text", textwrap.fill(refused[place], 100), "```", ""]
            continue
        if place == "vit":
            text += ["The picture holds a ring and an upright cross; the map is asked about the ring.", ""]
        elif name in FASTER:
            given = ", ".join(f"`{key}={value}`" for key, value in FASTER[name].items())
            text += [f"The pictures here are made with {given}, to be quick.", ""]
        text += _example(next(left), f"{method.title}, {title.lower()}")
        text += _example(next(left), "", ":hide-code:\n:hide-output:\n")
        text += _on_real_vit(name, method.title) if place == "vit" else []
    text += ["## Facts", "", *_facts(method), ""]
    text += [
        "## Measured",
        "",
        *measured_rows(name),
        "",
        "SRG, in units of the logit, is of the map that the method makes where no layer is named; 0 is a random map. "
        "Costs were counted on Lite0 and ViT-S/16 at 224; the bank is at the method's best layer. What is meant, and "
        "on what: [numbers](../../numbers.md), [evidence](../../evidence.md).",
        "",
    ]
    text += ["## Reference", "", "```{eval-rst}", f".. autofunction:: {function}", "   :noindex:", "```", ""]
    return "\n".join(text)


def _example(code: str, alt: str, options: str = "") -> list[str]:
    about = f":alt: {alt}\n" if alt else ""
    return ["```{example}", f"{about}{options}\n{code}".strip("\n"), "```", ""]


def _tile(name: str, method: Any, address: str | None) -> list[str]:
    link = f"cards/{name}.md"
    picture = [f"[![{method.title} for tabby]({address})]({link})", ""] if address else []
    return [":::{container} card", *picture, f"[{method.title}]({link})", "", method.advice, ":::", ""]


def write(source: pathlib.Path, mode: str = "run") -> None:
    """Writes the cards, and the tiles of the overview, into `methods/`.

    Args:
        source: The folder of the pages.
        mode: See `examples.Page`.
    """
    folder = source / "methods" / "cards"
    folder.mkdir(parents=True, exist_ok=True)
    words = data("cards")
    tiles: dict[str, list[str]] = {}
    found = methods()
    for name, method in found.items():
        page = examples.Page(f"methods/cards/{name}", mode)
        refused = {
            place: page.remembered(place, lambda method=method, place=place: refusal(method, place))
            for place in _PLACES
        }  # fmt: skip
        outputs = [page.output(code) for code in codes(name, refused)]
        address = None
        for suffix, picture in outputs[1].pictures[:1] if outputs else ():
            address = write_picture(source, f"tile-{name}", suffix, picture)
        put(folder / f"{name}.md", card(name, method, words.get(name, {}), refused))
        tiles.setdefault(method.kind, []).extend(_tile(name, method, address))
    for other in folder.glob("*.md"):
        if other.stem not in found:
            os.remove(other)
    lines = []
    for kind, title in KINDS.items():
        if kind in tiles:
            lines += [f"## {title}", "", "::::{container} cards", *tiles[kind], "::::", ""]
    put(source / "methods" / "_tiles.md", "\n".join(lines))


def put(path: pathlib.Path, text: str) -> None:
    """Writes a file if its text is another."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
