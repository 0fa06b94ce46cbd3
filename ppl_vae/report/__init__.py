"""Reports: one self-contained HTML file on a fitted run, or on anything else; what scripts print, as Markdown."""

from ppl_vae.report.page import Report
from ppl_vae.report.run import add_run, run_report
from ppl_vae.report.script import RECORD, recorded

__all__ = ["RECORD", "Report", "add_run", "recorded", "run_report"]
