"""What a run has come to, on a page: ``report.html`` and ``report.md``; several runs side by side.

This package reads the files that runs leave (``run_folder``, ``evaluation.report``) and knows no engine; the hook
``ReportWriter`` calls it at the end of a training.
"""

from pointcept.reports.report import write_reports
from pointcept.reports.run import Run, read_run

__all__ = ["Run", "read_run", "write_reports"]
