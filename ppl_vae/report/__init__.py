"""Reports: one self-contained HTML file on a fitted run, or on anything else."""

from ppl_vae.report.page import Report
from ppl_vae.report.run import add_run, run_report

__all__ = ["Report", "add_run", "run_report"]
