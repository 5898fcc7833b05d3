"""The frozen results of the engine: of one layer, and of several depths."""

from ..seen import Seen
from .explanation import Explanation, Layer
from .sweep import Sweep

__all__ = ["Explanation", "Layer", "Seen", "Sweep"]
