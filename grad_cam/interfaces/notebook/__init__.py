"""An explorer for notebooks: sliders and pickers over one picture and one model (`explore`)."""

from .latest import LatestRequests, Outcome
from .state import Choice, Display, ExplorerState
from .widgets import Explorer, explore

__all__ = ["Choice", "Display", "Explorer", "ExplorerState", "LatestRequests", "Outcome", "explore"]
