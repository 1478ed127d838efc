"""The page that a run leaves: `report.html`, one file that opens without a network."""

from toolbox.report.report import write_report

__all__ = ["write_report"]
