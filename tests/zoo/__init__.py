"""Small models as users write them, each with the layer that is explained and what may be answered.

Run as a script it judges all models, or those whose name or kind holds one of the given words, and prints a table::

    python -m tests.zoo             # everything
    python -m tests.zoo hooks moe   # some
"""

from . import architectures, changes, habits, memory, outputs, python, wrappers  # noqa: F401  (they fill the registry)
from .registry import ALL, GRADIENTS, NOTHING, OPERATIONS, ZOO, Entry, Net, block, zoo

__all__ = ["ALL", "GRADIENTS", "NOTHING", "OPERATIONS", "ZOO", "Entry", "Net", "block", "zoo"]
