"""What a folder of pictures says about a model: where it decides, and what it decides by."""

from .knowledge import Depth, Knowledge, Share
from .pictures import Pictures
from .regions import Region, Repetition
from .results import Study
from .shortcuts import Shortcut
from .studying import study
from .summaries import ClassSummary, Confusion, Summaries

__all__ = [
    "ClassSummary",
    "Confusion",
    "Depth",
    "Knowledge",
    "Pictures",
    "Region",
    "Repetition",
    "Share",
    "Shortcut",
    "Study",
    "Summaries",
    "study",
]
