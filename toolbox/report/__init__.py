"""Pages of one file that open without a network: `report.html` of a run, and the comparison of runs."""

from toolbox.report.findings import load_findings, save_findings
from toolbox.report.report import write_report

__all__ = ["load_findings", "save_findings", "write_report"]
