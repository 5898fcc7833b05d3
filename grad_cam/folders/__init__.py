"""Explanations of whole folders: `run` writes them so that nothing is lost, `read` gives them back.

A run is a folder: the request (`run.json`), the listing of its inputs (`inputs.parquet`) and shards of rows
(`rows/`), each whole or not there. Needs the extra ``[folders]``.
"""

from __future__ import annotations

from .decoding import Decoder
from .exports import export
from .kinds import Input, Source, Stream
from .local import Interrupted
from .needs import RunError, SourceError
from .reading import Rows, read
from .running import RunWarning, run
from .sheet import contact_sheet
from .sources import open_source

__all__ = [
    "Decoder", "Input", "Interrupted", "Rows", "RunError", "RunWarning", "Source", "SourceError", "Stream",
    "contact_sheet", "export", "open_source", "read", "run",
]  # fmt: skip
