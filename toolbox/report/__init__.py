"""Pages of one file that open without a network: `report.html` of a run, and the comparison of runs."""

from toolbox.report.report import write_report
from toolbox.report.report_items import load_report_items, save_report_items

__all__ = ["load_report_items", "save_report_items", "write_report"]
