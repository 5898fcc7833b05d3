"""Balanced evidence: gradients that add up to the score, the ledger of what the map leaves out, and the audit."""

from .balanced import Balanced

__all__ = ["Balanced"]
