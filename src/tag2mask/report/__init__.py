"""The report: one HTML page that shows what a run did."""

from tag2mask.report.page import write_report
from tag2mask.report.settings import ReportSettings

__all__ = ["ReportSettings", "write_report"]
