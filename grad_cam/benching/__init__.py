"""Which map to trust, measured on photos of your own: every method at every layer, judged by the model itself.

`bench` judges all maps of a photo by one `metrics.Bank` of scored coalitions, so that a further map costs nothing; with
boxes also by where they lie, and on request by `metrics.srg`. The result is a frozen `Bench`.
"""

from __future__ import annotations

from .contenders import Contender
from .measuring import bench, spread
from .results import Bench, Entry, Example, Summary

__all__ = ["Bench", "Contender", "Entry", "Example", "Summary", "bench", "spread"]
