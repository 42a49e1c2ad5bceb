"""The tester: ``python tools/test.py --config configs/semantic_kitti/student.py --options weight=PATH``."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pointcept.datasets import build_dataset
from pointcept.datasets.submission import write_npy
from pointcept.engines import run_folder
from pointcept.engines.data import check_fit, eval_loader, eval_sampler, per_process, scan_loader
from pointcept.engines.evaluate import evaluate_quick
from pointcept.engines.inference import Precision, ScanPrediction, predict_scan
from pointcept.engines.kept_results import Entry, KeptResults, fingerprint, scan_mark
from pointcept.engines.scores import network_name
from pointcept.evaluation import ConfusionMatrix, Kind, Metrics, format_table, report_file, write_report
from pointcept.evaluation.worst import POINTS, WorstScans
from pointcept.models import build_inference_model
from pointcept.utils import comm, device
from pointcept.utils.checkpoint import load_weights
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.patience import waiting
from pointcept.utils.progress import progress
from pointcept.utils.registry import Registry

logger = logging.getLogger(__name__)

TESTERS = Registry("testers")


def build_tester(cfg: Any, **supplied: Any) -> SemSegTester:
    """Build the tester that ``cfg.test`` names.

    Args:
        cfg: the resolved config.
        **supplied: ``model`` or ``weight`` in the place of ``cfg.weight``; ``record``.

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

    A test that was stopped goes on with the scans that are left, and one that is over is not repeated, if weights,
    config, scans and code are the same (:mod:`~pointcept.engines.kept_results`); results of others that lie in the
    folder are set aside.

    Args:
        cfg: the resolved config; ``weight`` names the weights when no ``model`` is given.
        verbose: log a line for each scan.
        save_predictions: keep the classes of every point as ``result/predictions/<name>.npy``.
        submit: write the submission of labelled scans too, for the official evaluation tools.
        quick: evaluate ``data.val`` in one pass instead, as it is done during training; that
            result is called *quick*.
        again: predict everything, whatever an earlier test has left.
        model: a network that holds its weights already.
        weight: weights to use instead of ``cfg.weight``.
        record: write ``config.py`` and ``environment.json`` beside the results.

    Raises:
        ConfigError: no weights are named.
        CheckpointError: the weights are missing, damaged or do not fit.
    """

    # A config does not name these; the engine may hand them over.
    supplied_by_engine = ("cfg", "model", "weight", "record")

    def __init__(
        self,
        cfg: Any,
        verbose: bool = True,
        save_predictions: bool = False,
        submit: bool = False,
        quick: bool = False,
        again: bool = False,
        model: nn.Module | None = None,
        weight: str | None = None,
        record: bool = False,
    ) -> None:
        self.cfg = cfg
        self.verbose = verbose
        self.save_predictions = save_predictions
        self.submit = submit
        self.quick = quick
        self.again = again
        self.record = record
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
        self.worst = WorstScans()

    @property
    def kind(self) -> Kind:
        """How the result is measured; it stands beside every number."""
        return "quick" if self.quick else "precise"

    def test(self) -> Metrics | None:
        """Evaluate, log the table and write the JSON file.

        Returns:
            The metrics, the same on every process; ``None`` when no scan has labels.

        Raises:
            ConfigError: another process tests in the same folder.
            DataError: scans, labels or fragments are wrong, with the name of the scan; or results cannot be written.
            FloatingPointError: scores of a scan are NaN or infinite; there is no result then.
        """
        place = "val" if self.quick else "test"
        with waiting("listing the scans"):
            dataset = build_dataset(self.cfg.data[place], f"data.{place}")
        check_fit(self.cfg, self.model, dataset, f"data.{place}")
        mark = fingerprint(self.cfg, place, self.model, dataset)
        kept = KeptResults(self.folder, mark, result_path(self.cfg, self.kind))
        try:
            return self._test(dataset, kept)
        finally:
            kept.release()

    def _test(self, dataset: Any, kept: KeptResults) -> Metrics | None:
        start = time.perf_counter()
        if self.quick:
            kept.take(self.again, None)
            self._write_record()
            with closing(eval_loader(dataset, self.cfg)) as loader:
                metrics, _ = evaluate_quick(self.model, loader, dataset, self.precision, self.network)
            seconds = 0.0
        else:
            metrics, seconds = self._vote_on_all(dataset, kept)
        if metrics.num_scans == 0:
            if comm.is_main_process():
                logger.info("no scan has labels, so there is no mIoU")
            return None
        if comm.is_main_process():
            logger.info("%s", format_table(metrics, self.kind))
            if self.quick or not kept.is_reported():
                self._write_report(metrics, kept, time.perf_counter() - start + seconds)
                self._write_worst(Path(self.cfg.save_path) / POINTS, dataset)
                kept.drop_worst_points()
            logger.info("result in %s", kept.report)
        return metrics

    def _write_report(self, metrics: Metrics, kept: KeptResults, seconds: float) -> None:
        extra = {
            "weight": str(self.weight) if self.weight else None,
            "model": self.cfg.model.to_dict(),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "seconds": round(seconds, 2),
            "fingerprint": kept.mark,
            "worst_scans": self.worst.report(),
        }
        write_report(kept.report, metrics, self.kind, extra)

    def _write_worst(self, path: Path, dataset: Any) -> None:
        """Write the points of the scans with the most errors, which the run's report draws."""
        try:
            self.worst.write(path, getattr(dataset, "colours", ()))
        except OSError as error:  # the result is there, and a picture is not worth an error
            logger.warning("the report will have no pictures: cannot write %s: %s", path, error.strerror or error)

    def _write_record(self) -> None:
        if self.record and comm.is_main_process():
            run_folder.write_record(self.cfg, self.folder)

    def _vote_on_all(self, dataset: Any, kept: KeptResults) -> tuple[Metrics, float]:
        """The metrics, and the seconds that earlier starts of this test have taken."""
        batch_size = per_process(self.cfg.batch_size_test, "batch_size_test")
        earlier = kept.take(self.again, partial(self._is_valid, dataset, kept))
        self._welcome(dataset, kept, earlier)
        self.worst = WorstScans(dataset.ignore_index)
        if comm.is_main_process():
            shown = kept.worst_points()
            scores = [entry.score() for entry in earlier if entry.wrong is not None]
            self.worst.insert([replace(score, shown=shown.get(score.name)) for score in scores])
        entries = list(earlier) if comm.is_main_process() else []
        if len(earlier) < len(dataset):
            self._write_record()
            done = {entry.index for entry in earlier}
            with closing(scan_loader(dataset, self.cfg, done)) as loader:
                left = eval_sampler(dataset, done).indices
                for index, sample in zip(left, progress(loader, len(left), "testing", "scan"), strict=True):
                    begin = time.perf_counter()
                    if "fragment_list" not in sample:
                        words = "test_mode=True and test_cfg (or test.quick=True)"
                        raise ConfigError(f"the tester needs data.test with {words}")
                    scan = predict_scan(self.model, sample, batch_size, self.precision, self.network)
                    entries.append(self._keep(dataset, kept, scan, index, begin))
                    if self.verbose:
                        self._log_scan(entries[-1], dataset)
        matrix = self._matrix(dataset)
        for entry in entries:
            self._count(matrix, entry)
        matrix.all_reduce()
        self.worst.gather()
        self._finish_submission(dataset, kept, sum(map(self._submits, entries)))
        return matrix.compute(), sum(entry.seconds for entry in earlier) / comm.world_size()

    def _submits(self, entry: Entry) -> bool:
        return entry.counts is None or self.submit

    def _matrix(self, dataset: Any) -> ConfusionMatrix:
        return ConfusionMatrix(dataset.num_classes, dataset.ignore_index, dataset.names, device.get_device())

    def _count(self, matrix: ConfusionMatrix, entry: Entry) -> None:
        if entry.counts is not None:
            matrix.counts += torch.tensor(entry.counts, device=matrix.counts.device).view_as(matrix.counts)
            for cell, count in entry.by_range:
                matrix.by_range.view(-1)[cell] += count
            matrix.num_scans += 1

    def _is_valid(self, dataset: Any, kept: KeptResults, entry: Entry) -> bool:
        """Whether what is kept of a scan is what this test would make of it."""
        wanted = ["submission"] if self._submits(entry) else []
        wanted += ["predictions"] if self.save_predictions else []
        return (
            entry.index < len(dataset)
            and entry.name == dataset.get_data_name(entry.index)
            and (entry.counts is None or len(entry.counts) == dataset.num_classes**2)
            and entry.mark == scan_mark(dataset, entry.index)
            and all(kept.has(entry.files.get(kind)) for kind in wanted)
        )

    def _welcome(self, dataset: Any, kept: KeptResults, entries: Sequence[Entry]) -> None:
        """Say what an earlier start of this test has done."""
        if not entries or not comm.is_main_process():
            return
        if len(entries) == len(dataset):
            words = "tested already: the same weights, config and scans; nothing is predicted (test.again=True does)"
        else:
            words = f"the test goes on: {len(entries)} of {len(dataset)} scans are done"
        logger.info("%s; fingerprint %s", words, kept.mark)
        if self.verbose and run_folder.is_claimed(self.cfg):  # a training has taken back what its log said of them
            for entry in entries:
                self._log_scan(entry, dataset)

    def _keep(self, dataset: Any, kept: KeptResults, scan: ScanPrediction, index: int, begin: float) -> Entry:
        """Write what is asked for, predictions and the scan's part of a submission, and that the scan is done.

        Args:
            begin: when the prediction began, by ``time.perf_counter``.
        """
        pred = scan.pred.cpu().numpy()
        files: dict[str, Any] = {}
        counts, by_range, score = None, [], None
        if scan.target is not None:
            own = self._matrix(dataset)
            own.update(scan.pred, scan.target, distance=scan.distance)
            counts, cells = own.counts.flatten().tolist(), own.by_range.flatten().cpu()
            by_range = torch.stack([cells.nonzero()[:, 0], cells[cells > 0]], 1).tolist()
            score = self.worst.add(scan.name, scan.pred, scan.target, scan.coord)
            if score is not None and score.shown is not None:
                self._write_worst(kept.worst, dataset)
        try:
            if scan.target is None or self.submit:
                path = dataset.write_submission(self.folder / "submission", scan.name, pred)
                files["submission"] = kept.file_facts(path)
            if self.save_predictions:
                path = write_npy(self.folder / "predictions" / f"{scan.name}.npy", pred.astype(np.int16))
                files["predictions"] = kept.file_facts(path)
            seconds = time.perf_counter() - begin
            mark = scan_mark(dataset, index)
            entry = Entry(index, scan.name, len(pred), scan.passes, round(seconds, 2), counts, mark, files, by_range)
            if score is not None:
                entry = replace(entry, labelled=score.points, wrong=score.wrong)
            kept.add(entry)
        except (OSError, ImportError) as error:  # a full disk, message classes that are not installed
            raise DataError(f"{scan.name}: cannot write its prediction below {self.folder}: {error}") from error
        return entry

    def _finish_submission(self, dataset: Any, kept: KeptResults, submitted: int) -> None:
        """Complete the submission, on rank 0 once every process has written its scans; every process has to call it."""
        total = sum(comm.gather_objects(submitted))
        if total == 0 or not comm.is_main_process():
            return
        folder = self.folder / "submission"
        try:
            if not kept.finished:
                dataset.finish_submission(folder)
                kept.finish()
        except OSError as error:
            raise DataError(f"cannot complete the submission in {folder}: {error}") from error
        logger.info("submission of %d scans in %s", total, folder)

    def _log_scan(self, entry: Entry, dataset: Any) -> None:
        result = "no labels"
        if entry.counts is not None:
            own = self._matrix(dataset)
            self._count(own, entry)
            one = own.compute()
            result = f"mIoU {self.kind} {100 * one.miou_present:.2f} % accuracy {100 * one.all_acc:.2f} %"
        logger.info(
            "Test [%d/%d] %s: %d points, %.1f passes per point, %.2f s, %s",
            *(entry.index + 1, len(dataset), entry.name, entry.points, entry.passes, entry.seconds, result),
        )
