"""Balanced evidence: gradients that add up to the score, the ledger of what the map leaves out, and the audit."""

from .audit import Audit, Operation, audit
from .balanced import Balanced
from .ledger import Ledger

__all__ = ["Audit", "Balanced", "Ledger", "Operation", "audit"]
