"""Balanced evidence: gradients that add up to the score, the ledger of what the map leaves out, and the audit."""

from .balanced import Balanced, Rules
from .conservation import Audit, Operation, audit
from .ledger import Ledger

__all__ = ["Audit", "Balanced", "Ledger", "Operation", "Rules", "audit"]
