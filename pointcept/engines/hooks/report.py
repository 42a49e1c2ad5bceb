"""The report of the run, written when the training is complete."""

from __future__ import annotations

import logging

from pointcept.engines.hooks.base import HookBase, Phase
from pointcept.engines.hooks.builder import HOOKS
from pointcept.reports import write_reports
from pointcept.utils import comm

logger = logging.getLogger(__name__)


@HOOKS.register_module()
class ReportWriter(HookBase):
    """Writes ``report.html`` and ``report.md`` into ``save_path``, after the last evaluation; ends no run."""

    phase = Phase.REPORT

    def after_train(self) -> None:
        trainer = self.trainer
        if not trainer.completed or not comm.is_main_process():
            return
        trainer.writer.flush()
        try:
            report = write_reports(trainer.cfg.save_path)
        except Exception as error:  # the training is done and saved, and a page about it can be made again
            logger.warning(
                "no report: %s: %s; python tools/report.py %s writes it",
                type(error).__name__,
                error,
                trainer.cfg.save_path,
            )
            return
        logger.info("report in %s", report.html)
