"""An explorer for notebooks: sliders and pickers over one picture and one model (`explore`)."""

from .latest import LatestRequests, Outcome
from .state import Choice, ExplorerState
from .widgets import Explorer, explore

__all__ = ["Choice", "Explorer", "ExplorerState", "LatestRequests", "Outcome", "explore"]
