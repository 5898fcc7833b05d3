"""Old name of `grad_cam.rendering.report`; gone in the next release."""

from __future__ import annotations

import warnings

from ..rendering.report import (
    Report,
    ReportError,
    ReportImage,
    ReportLayer,
    ReportPrediction,
    report_html,
    report_of,
    write_report,
)

__all__ = [
    "Report", "ReportError", "ReportImage", "ReportLayer", "ReportPrediction", "report_html", "report_of",
    "write_report",
]  # fmt: skip

warnings.warn(
    "grad_cam.interfaces.report is now grad_cam.rendering.report; this name goes with the next release",
    FutureWarning,
    stacklevel=2,
)
