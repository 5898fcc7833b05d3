"""What detectors return, as one table (B, boxes, columns) with the graph of every number in it."""

from __future__ import annotations

from .families import default_layer, detect, seen_size
from .tables import COLUMNS, Found, of_queries, raw, table

__all__ = ["COLUMNS", "Found", "default_layer", "detect", "of_queries", "raw", "seen_size", "table"]
