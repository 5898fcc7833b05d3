"""The texts of the explorer as HTML: captions, status, code with a copy button, style."""

from __future__ import annotations

import html
import pathlib

from ... import METHODS, Explanation
from ...loading import WholePhoto
from ...predictions import percentage
from ...rendering import Display, data_uri, noted
from ..common import one_line
from .state import Choice, ExplorerState

# JupyterLab takes the arrow keys for its cells unless an element says that it wants them. Widgets have no attributes of
# their own, so the page sets it once the explorer is shown; the start of an animation is the event of that moment.
_KEEP_KEYS = (
    "this.closest('.gradcam-explorer')?.querySelectorAll('select')"
    ".forEach((list) => list.setAttribute('data-lm-suppress-shortcuts', 'true'))"
)

_COPY = (
    "const pre = this.previousElementSibling; getSelection().selectAllChildren(pre); "
    "(navigator.clipboard ? navigator.clipboard.writeText(pre.textContent) "
    ": Promise.resolve(document.execCommand('copy')))"
    ".then(() => { this.textContent = 'Copied'; setTimeout(() => { this.textContent = 'Copy'; }, 1500); }, () => {});"
)


def style() -> str:
    """The style sheet, and the element that keeps the arrow keys for the class list."""
    css = (pathlib.Path(__file__).parent / "explorer.css").read_text(encoding="utf-8")
    return f'<style>{css}</style><span class="gradcam-keys" onanimationstart="{html.escape(_KEEP_KEYS)}"></span>'


def quiet(text: str) -> str:
    """A text in a quieter colour."""
    return f'<span class="gradcam-quiet">{html.escape(text)}</span>'


def alert(text: str) -> str:
    """A text in the colour of warnings."""
    return f'<span class="gradcam-alert">{html.escape(text)}</span>'


def code(text: str) -> str:
    """Code with a button that copies it."""
    return (
        f'<div class="gradcam-call"><pre>{html.escape(text)}</pre>'
        f'<button type="button" onclick="{html.escape(_COPY)}">Copy</button></div>'
    )


def computing(choice: Choice, share: float | None = None) -> str:
    """The status while a choice is computed; `share` is the part that is done."""
    done = "" if share is None else f" {percentage(share)}"
    return f'<span class="gradcam-spin"></span>Computing {html.escape(_title(choice))} …{done}'


def failed(choice: Choice, error: BaseException) -> str:
    """The status after a choice could not be computed."""
    return alert(f"{_title(choice)}: {one_line(error)}")


def caption(state: ExplorerState, choice: Choice, one: Explanation, display: Display) -> str:
    """What the picture shows: class, method, layer, size of the map, its colours, and what is unusual about it."""
    chance = state.percentage(choice.target)
    first = f"<b>{html.escape(state.label(choice.target))}</b>{f', {chance}' if chance else ''}"
    where = ["the whole network" if METHODS[choice.method].scope == "network" else "the input"]
    if choice.method == "auto":
        where = [html.escape(one.title().partition("\n")[2])]
    if choice.layer is not None:
        layer = state.layers[choice.layer]
        where = [text for text in (layer.name, layer.type) if text]
    where.append(f"map {one.map.shape[-2]} × {one.map.shape[-1]}")
    if choice.layer is not None and layer.layer_idx is not None:
        where.append(f"layer_idx {layer.layer_idx}")
    low, high = display.showing([one.on_picture()]).ends(one.on_picture(), (state.picture.height, state.picture.width))
    colours = f"Colours: {low} to {high}, in units of the score"
    lines = [f"{first} — {html.escape(METHODS[choice.method].title)}", quiet(" · ".join(where)), quiet(colours)]
    note = one.note()
    return "<br>".join(lines if note is None else [*lines, alert(f"{noted('The map', note)}.")]) + _used(state.whole)


def _used(whole: WholePhoto) -> str:
    """The whole photo, and how much of it the model sees; nothing where that is all of it."""
    if not whole.note:
        return ""
    source = "" if whole.picture is None else data_uri(whole.picture, "jpeg")
    image = f'<img src="{source}" alt="The whole photo, the unused part dimmed">' if source else ""
    return f'<div class="gradcam-used">{image}{quiet(whole.note)}</div>'


def _title(choice: Choice) -> str:
    title = METHODS[choice.method].title
    return title if choice.layer is None else f"{title} at {choice.layer}"
