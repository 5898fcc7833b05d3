"""From raw maps to pictures: heatmaps, colours, overlays, figures, animations and the report.

Arrays go in; arrays, PIL pictures or matplotlib figures come out. Nothing is shown, and only `save` and `animation`
write a file. `Display` holds the settings with which a map is shown.
"""

from .animations import animation, captioned
from .bars import SignedBars, ledger_figure
from .colors import ALPHA, COLORMAP, COLORMAPS, colorize, opacity, overlay, palette
from .display import Display
from .figures import comparison, map_figure, overview, panels, sweep_figure
from .files import data_uri, png_bytes, save
from .heatmaps import Heat, View, default_smoothing, describe, heatmap
from .originals import OriginalMap
from .text import noted
from .volumes import require_pictures

__all__ = [
    "ALPHA", "COLORMAP", "COLORMAPS", "Display", "Heat", "OriginalMap", "SignedBars", "View", "animation", "captioned",
    "colorize", "comparison", "data_uri", "default_smoothing", "describe", "heatmap", "ledger_figure", "map_figure",
    "noted", "opacity", "overlay", "overview", "palette", "panels", "png_bytes", "require_pictures", "save",
    "sweep_figure",
]  # fmt: skip
