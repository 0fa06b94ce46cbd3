"""Reports: one self-contained HTML file on a fitted run, or on anything else; what scripts print, as Markdown."""

from typing import TYPE_CHECKING

from ppl_vae.core.lazy import exports

if TYPE_CHECKING:
    from ppl_vae.report.page import Report
    from ppl_vae.report.run import add_run, run_report
    from ppl_vae.report.script import RECORD, recorded
else:
    __getattr__, __dir__ = exports(__name__)

__all__ = ["RECORD", "Report", "add_run", "recorded", "run_report"]
