"""Numbers that judge maps: what they look like, where they lie, whether the score depends on what they mark.

`focus` and `agreement` read maps alone, `energy_inside` and `pointing_game` compare them with boxes or masks. The
others ask the model, through a function that scores versions of the images (`grad_cam.engine.score_function`): `srg`
first, `insertion`, `deletion` and `region_deletion`, and `Bank`, which scores random coalitions of regions once and
then judges any map without a further pass. `compare` puts maps and the two controls into one table.
"""

from __future__ import annotations

from .bank import Bank
from .comparison import Comparison, Row, compare, interval
from .controls import centred_gaussian, random_maps
from .faithfulness import completeness_gap, deletion, insertion, ranked, region_deletion, srg, units_of
from .localisation import box_area, energy_inside, pointing_game
from .maps import agreement, entropy, focus
from .sanity import parameter_randomisation

__all__ = [
    "Bank", "Comparison", "Row", "agreement", "box_area", "centred_gaussian", "compare", "completeness_gap", "deletion",
    "energy_inside", "entropy", "focus", "insertion", "interval", "parameter_randomisation", "pointing_game",
    "random_maps", "ranked", "region_deletion", "srg", "units_of",
]  # fmt: skip
