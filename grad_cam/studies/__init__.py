"""What a folder of pictures says about a model: where it decides, and what it decides by."""

from .comparison import Comparison, compare
from .concepts import Concept, Concepts, concepts_of
from .knowledge import Depth, Knowledge, Share
from .pictures import Pictures
from .regions import Region, Repetition
from .results import Study
from .shortcuts import Shortcut
from .studying import study
from .summaries import ClassSummary, Confusion, Summaries

__all__ = [
    "ClassSummary", "Comparison", "Concept", "Concepts", "Confusion", "Depth", "Knowledge", "Pictures", "Region",
    "Repetition", "Share", "Shortcut", "Study", "Summaries", "compare", "concepts_of", "study",
]  # fmt: skip
