"""The tester: ``python tools/test.py --config configs/semantic_kitti/student.py --options weight=PATH``."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pointcept.datasets import build_dataset
from pointcept.datasets.submission import write_npy
from pointcept.engines.data import Loader, check_fit, eval_loader, per_process, scan_loader
from pointcept.engines.evaluate import evaluate_quick
from pointcept.engines.inference import Precision, ScanPrediction, predict_scan
from pointcept.engines.scores import network_name
from pointcept.evaluation import ConfusionMatrix, Kind, Metrics, format_table, report_file, write_report
from pointcept.models import build_inference_model
from pointcept.utils import comm, device
from pointcept.utils.checkpoint import load_weights
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.registry import Registry

logger = logging.getLogger(__name__)

TESTERS = Registry("testers")


def build_tester(cfg: Any, **supplied: Any) -> SemSegTester:
    """Build the tester that ``cfg.test`` names.

    Args:
        cfg: the resolved config.
        **supplied: ``model`` or ``weight`` in the place of ``cfg.weight``.

    Raises:
        ConfigError, CheckpointError: see the tester.
    """
    return TESTERS.build(cfg.test, cfg=cfg, **supplied)


def tested_section(cfg: Any) -> str:
    """Which section of ``cfg.data`` its tester reads."""
    return "val" if cfg.test.get("quick") else "test"


def result_path(cfg: Any, kind: Kind) -> Path:
    """Where the tester writes its report: ``cfg.miou_result_path``, a ``.json`` file or a folder, or below the run."""
    name = report_file(kind)
    if not cfg.miou_result_path:
        return Path(cfg.save_path) / name
    path = Path(cfg.miou_result_path)
    return path if path.suffix == ".json" else path / name.name


@TESTERS.register_module("SemSegTester")
class SemSegTester:
    """Evaluates weights: per-class IoU and accuracy, their means, and a JSON file.

    The scans come from ``data.test`` as fragments and views that vote; that result is called
    *precise*. Scans without labels go to a submission in the format of their benchmark instead,
    ``result/submission``.

    Args:
        cfg: the resolved config; ``weight`` names the weights when no ``model`` is given.
        verbose: log a line for each scan.
        save_predictions: keep the classes of every point as ``result/predictions/<name>.npy``.
        submit: write the submission of labelled scans too, for the official evaluation tools.
        quick: evaluate ``data.val`` in one pass instead, as it is done during training; that
            result is called *quick*.
        model: a network that holds its weights already.
        weight: weights to use instead of ``cfg.weight``.

    Raises:
        ConfigError: no weights are named.
        CheckpointError: the weights are missing, damaged or do not fit.
    """

    # A config does not name these; the engine may hand them over.
    supplied_by_engine = ("cfg", "model", "weight")

    def __init__(
        self,
        cfg: Any,
        verbose: bool = True,
        save_predictions: bool = False,
        submit: bool = False,
        quick: bool = False,
        model: nn.Module | None = None,
        weight: str | None = None,
    ) -> None:
        self.cfg = cfg
        self.verbose = verbose
        self.save_predictions = save_predictions
        self.submit = submit
        self.quick = quick
        self.folder = Path(cfg.save_path) / "result"
        self.weight = weight or cfg.weight
        if model is None:
            if not self.weight:
                raise ConfigError("the tester needs weights: --options weight=PATH (or --model-file PATH)")
            model = build_inference_model(cfg.model)
            load_weights(model, self.weight)
        self.model = model.to(device.get_device()).eval()
        self.precision = Precision.of(cfg)
        self.network = network_name(model, self.weight)

    @property
    def kind(self) -> Kind:
        """How the result is measured; it stands beside every number."""
        return "quick" if self.quick else "precise"

    def test(self) -> Metrics | None:
        """Evaluate, log the table and write the JSON file.

        Returns:
            The metrics, the same on every process; ``None`` when no scan has labels.

        Raises:
            DataError: scans, labels or fragments are wrong, with the name of the scan; or results cannot be written.
            FloatingPointError: scores of a scan are NaN or infinite; there is no result then.
        """
        start = time.perf_counter()
        place = "val" if self.quick else "test"
        dataset = build_dataset(self.cfg.data[place], f"data.{place}")
        check_fit(self.cfg, self.model, dataset, f"data.{place}")
        with closing((eval_loader if self.quick else scan_loader)(dataset, self.cfg)) as loader:
            if self.quick:
                metrics, _ = evaluate_quick(self.model, loader, dataset, self.precision, self.network)
            else:
                metrics = self._vote_on_all(dataset, loader)
        if metrics.num_scans == 0:
            if comm.is_main_process():
                logger.info("no scan has labels, so there is no mIoU")
            return None
        if comm.is_main_process():
            logger.info("%s", format_table(metrics, self.kind))
            path = result_path(self.cfg, self.kind)
            extra = {
                "weight": str(self.weight) if self.weight else None,
                "model": self.cfg.model.to_dict(),
                "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                "seconds": round(time.perf_counter() - start, 2),
            }
            write_report(path, metrics, self.kind, extra)
            logger.info("wrote %s", path)
        return metrics

    def _vote_on_all(self, dataset: Any, loader: Loader) -> Metrics:
        batch_size = per_process(self.cfg.batch_size_test, "batch_size_test")
        matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index, dataset.names, device.get_device())
        submitted = 0
        for number, sample in enumerate(loader, start=1):
            begin = time.perf_counter()
            if "fragment_list" not in sample:
                raise ConfigError("the tester needs data.test with test_mode=True and test_cfg (or test.quick=True)")
            scan = predict_scan(self.model, sample, batch_size, self.precision, self.network)
            submitted += self._keep(dataset, scan)
            if scan.target is not None:
                matrix.update(scan.pred, scan.target)
            if self.verbose:
                self._log_scan(scan, dataset, f"[{number}/{len(loader)}]", time.perf_counter() - begin)
        matrix.all_reduce()
        self._finish_submission(dataset, submitted)
        return matrix.compute()

    def _keep(self, dataset: Any, scan: ScanPrediction) -> bool:
        """Write what is asked for, predictions and the scan's part of a submission; returns whether it has one."""
        pred = scan.pred.cpu().numpy()
        submit = scan.target is None or self.submit
        try:
            if submit:
                dataset.write_submission(self.folder / "submission", scan.name, pred)
            if self.save_predictions:
                write_npy(self.folder / "predictions" / f"{scan.name}.npy", pred.astype(np.int16))
        except (OSError, ImportError) as error:  # a full disk, message classes that are not installed
            raise DataError(f"{scan.name}: cannot write its prediction below {self.folder}: {error}") from error
        return submit

    def _finish_submission(self, dataset: Any, submitted: int) -> None:
        """Complete the submission, on rank 0 once every process has written its scans; every process has to call it."""
        total = sum(comm.gather_objects(submitted))
        if total == 0 or not comm.is_main_process():
            return
        folder = self.folder / "submission"
        try:
            dataset.finish_submission(folder)
        except OSError as error:
            raise DataError(f"cannot complete the submission in {folder}: {error}") from error
        logger.info("submission of %d scans in %s", total, folder)

    def _log_scan(self, scan: ScanPrediction, dataset: Any, place: str, seconds: float) -> None:
        result = "no labels"
        if scan.target is not None:
            own = ConfusionMatrix(dataset.num_classes, dataset.ignore_index, dataset.names, scan.pred.device)
            own.update(scan.pred, scan.target)
            one = own.compute()
            result = f"mIoU {self.kind} {100 * one.miou_present:.2f} % accuracy {100 * one.all_acc:.2f} %"
        logger.info(
            "Test %s %s: %d points, %.1f passes per point, %.2f s, %s",
            *(place, scan.name, len(scan.pred), scan.passes, seconds, result),
        )
