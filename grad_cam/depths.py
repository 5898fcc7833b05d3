"""Which cuts a sweep goes through: the blocks where there are any, else the stages, and why the others carry no map."""

from __future__ import annotations

from .errors import LayerError
from .layouts import Layout
from .results import Layer
from .splitting.cuts import BLOCKS, Cutter
from .splitting.default import default_cut, inner_cuts, mark_dead
from .splitting.log import Ref
from .splitting.plan import Cut
from .splitting.scoremaps import NOTE, is_score_map

WHOLE = ("auto", "stages", "blocks")


def empty_cuts(cutter: Cutter, depth: int) -> list[Cut]:
    """The cuts at which the gradient is known to be zero at every position: no map, but a ledger that says why."""
    cuts = [cutter.at_border(border) for border in cutter.borders_at(depth)[:-1]]
    return [cut for cut in cuts if cutter.record.dead.get(cut.value, False)]


def depth_of(cutter: Cutter, layers: str) -> tuple[int, list[Cut], list[tuple[Layer, str]]]:
    """The depth that a sweep goes through, its cuts that carry a map, and the others with the reason."""
    if layers == "stages":
        depths = [cutter.depth]
    else:
        depths = [max(BLOCKS, cutter.depth)]
    if layers == "auto":
        depths += [1]
    reasons: list[str] = []
    for depth in depths:
        cuts, skipped = _with_maps(cutter, depth)
        if cuts:
            return depth, cuts, skipped
        reasons += [f"{layer.name}: {note}" for layer, note in skipped]
    if layers == "auto":  # branches that share no border: their modules
        inner = list(reversed(inner_cuts(cutter)))
        layouts = [(c, cutter.reading(c).layout) for c in inner]
        mark_dead(cutter, [(c, layout) for c, layout in layouts if layout is not None])
        cuts = [c for c in inner if not (cutter.record.dead.get(c.value, False) or is_score_map(cutter, c))]
        if cuts:
            return depths[0], cuts, []
    inside = default_cut(cutter)  # a model of one stage, or whose borders carry none
    raise LayerError(
        f"no {'block' if layers == 'blocks' else 'stage'} of {type(cutter.model).__name__} carries a map",
        "; ".join(dict.fromkeys(reasons)) or "it has one stage",
        f'layers="blocks" or layers=["{inside.name}"]' if layers == "stages" else f'layers=["{inside.name}"]',
    )


def _with_maps(cutter: Cutter, depth: int) -> tuple[list[Cut], list[tuple[Layer, str]]]:
    """The cuts of a depth that carry a map, and the others with the reason."""
    borders = cutter.borders_at(depth)
    cuts: list[tuple[Cut, Layout]] = []
    skipped: list[tuple[Layer, str]] = []
    values: dict[Ref, str] = {}
    for before, border in zip((None, *borders), borders[:-1], strict=False):
        cut = cutter.at_border(border)
        reading = cutter.reading(cut)
        note, layout = reading.note, reading.layout
        if before is not None and cutter.record.plan.is_unchanged(before, border):
            note = note or f"the same as after {values.get(border.value, before.name)}"
        values.setdefault(border.value, border.name)
        note = note or (NOTE if is_score_map(cutter, cut) else "")
        if note or layout is None:
            skipped.append((Layer(cut.name, cut.layer_idx), note))
        else:
            cuts.append((cut, layout))
    mark_dead(cutter, cuts)
    alive = [cut for cut, _ in cuts if not cutter.record.dead.get(cut.value, False)]
    dead = [(Layer(cut.name, cut.layer_idx), "gradient at the patches is zero") for cut, _ in cuts if cut not in alive]
    return alive, [*skipped, *dead]
