"""A model as a chain of stages that can be cut anywhere, exactly.

`chain` turns a model into an `nn.Sequential` of named stages whose composition *is* the model; `split` cuts it into an
extractor and a classifier. Everything is read off one record of the model's own forward (`log`), made on the images at
hand with a copy that shares the model's memory (`evalcopy`).
"""

from ..errors import SplitError
from .public import Chain, Split, StageInfo, chain, layer_table, split
from .verification import Verification, verify

__all__ = ["Chain", "Split", "SplitError", "StageInfo", "Verification", "chain", "layer_table", "split", "verify"]
