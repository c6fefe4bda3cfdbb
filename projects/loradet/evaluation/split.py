"""A split of a config's data, read once for all that a run asks of it."""

import copy
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from loradet.config.initial_weights import initial_weights
from loradet.config.intensity import check_images
from loradet.config.splits import check_evaluation_split, evaluation_splits, split_config
from loradet.evaluation.calibration.split_calibration import (
    SplitFiles,
    calibrate_split,
    calibration_metrics,
    calibration_node,
)
from loradet.evaluation.coco_metrics import coco_metrics, write_metrics
from loradet.evaluation.detections.limit import detection_limit
from loradet.evaluation.detections.numbering import write_category_map
from loradet.evaluation.detections.records import read_records
from loradet.evaluation.ground_truth_check import check_ground_truth
from loradet.evaluation.operating_point import OperatingPoint, choose_operating_point
from loradet.evaluation.split_loop import build_evaluator, dataset_metadata, instantiate_loader, load_dataset
from loradet.run_folder import RunFolder
from loradet.views import ViewDetector, ViewMapper, Views

logger = logging.getLogger(__name__)


class Split:
    """What `dataloader.<name>` describes: its data set is read when this is made, and not again.

    Loader and evaluators are built when they are first asked for, and stay.

    Args:
        cfg: with `dataloader`.
        name: as "val".

    Attributes:
        records: Detectron2's dicts; None where the loader's config does not tell its data set.
        metadata: Detectron2's, of these data (`thing_classes`, `json_file` …).
        wrap_mapper: makes of the loader's mapper the one that `evaluate` uses; set before its first call.
        about: plain values that files of numbers have besides.

    Raises:
        UserError: the config has no such split, or its data are broken.
    """

    def __init__(self, cfg: DictConfig, name: str):
        self.cfg = cfg
        self.name = name
        self.records: Sequence[dict[str, Any]] | None = load_dataset(cfg, name)
        self.metadata = dataset_metadata(cfg, name)
        self.wrap_mapper: Callable[[Any], Any] | None = None
        self.about: dict[str, Any] = {}
        self._evaluators: dict[Path, DatasetEvaluator] = {}

    @property
    def classes(self) -> list[str] | None:
        """Class names by contiguous id; None where the data do not tell."""
        names = self.metadata.get("thing_classes")
        return None if names is None else list(names)

    @property
    def annotations(self) -> Path | None:
        """The COCO file that detections are numbered as; None for data without one."""
        file = self.metadata.get("json_file")
        return None if file is None else Path(file)

    @property
    def synthetic(self) -> bool:
        """Whether the images are known to be synthetic."""
        return bool(self.metadata.get("synthetic"))

    @property
    def provenance(self) -> dict[str, str]:
        """What files of numbers say of the images: {"data": "synthetic"}, or nothing."""
        return {"data": "synthetic"} if self.synthetic else {}

    @cached_property
    def loader(self) -> Any:
        """The loader, of the records that are read already; its mapper's failures name the file and the image id."""
        return self._build_loader()

    @cached_property
    def _evaluation_loader(self) -> Any:
        """What `evaluate` reads: the loader, or one whose mapper knows which features are kept."""
        return self.loader if self.wrap_mapper is None else self._build_loader(self.wrap_mapper)

    def _build_loader(self, wrap: Callable[[Any], Any] = lambda mapper: mapper) -> Any:
        node = split_config(self.cfg, self.name)
        if self.records is not None:
            node = copy.deepcopy(node)
            node.dataset = {"_target_": _Given(self.records)}
        return instantiate_loader(node, f"dataloader.{self.name}", wrap)

    def evaluator(self, output_dir: Path) -> DatasetEvaluator:
        """`dataloader.evaluator` for this split, which writes below a run's folder."""
        if output_dir not in self._evaluators:
            folder = RunFolder(output_dir).predictions(self.name).parent
            self._evaluators[output_dir] = build_evaluator(self.cfg, self.name, folder)
        return self._evaluators[output_dir]

    def check(self) -> None:
        """Raise UserError where the split has nothing to find, cannot be evaluated, or its images would lose pixels.

        See `check_ground_truth` and `check_images`.
        """
        check_ground_truth(self.metadata, max_detections=detection_limit(self.cfg))
        check_images(self.cfg, self.name, self.records)

    def look(self, views: Views) -> None:
        """Let `evaluate` read tiles and other views of the images, for a `ViewDetector`; before its first call."""
        self.wrap_mapper = lambda mapper: ViewMapper(mapper, views)
        self.about["views"] = views.to_dict()

    def evaluate(self, model: nn.Module | ViewDetector, output_dir: Path) -> dict[str, Any]:
        """Run a model over the split, on all processes.

        Args:
            model: without a DDP wrapper; what `look` asks for.
            output_dir: `coco_instances_results.json` goes into `<output_dir>/predictions/<name>/`.

        Returns:
            Detectron2's nested results, percent ({"bbox": {"AP": …}}); empty on processes other than the main one.
        """
        check_evaluation_split(self.cfg, self.name)
        results = inference_on_dataset(model, self._evaluation_loader, self.evaluator(output_dir))
        if comm.is_main_process():
            print_csv_format(results)
        return dict(results or {})

    def files(self, output_dir: Path) -> SplitFiles | None:
        """Annotations and detections of an evaluation; None where there is no COCO file or no detections."""
        predictions = RunFolder(output_dir).predictions(self.name)
        if self.annotations is None or not predictions.is_file():
            return None
        return SplitFiles(split=self.name, annotations=self.annotations, predictions=predictions)

    def write_metrics(
        self,
        output_dir: Path,
        *,
        checkpoint: str | Path,
        iteration: int | None,
        output: Path | None = None,
        fit: SplitFiles | None = None,
    ) -> dict[str, Any]:
        """Write `<name>_metrics.json` (`smoke_metrics.json`) from the detections in a folder, main process only.

        Where the config's evaluator measures calibration, its numbers are in there too, before and after a
        temperature, and the whole of it is written beside the detections.

        Args:
            output_dir: what `evaluate` was given.
            checkpoint: of the detections.
            iteration: of the checkpoint.
            output: another file to write to.
            fit: what a temperature is fitted on; its detections are of the same weights. None, or those of this split:
                on halves of it.
        """
        if not comm.is_main_process():
            return {}
        files = self.files(output_dir)
        if files is None:
            what = RunFolder.PREDICTIONS
            logger.warning("No COCO metrics of %s: its evaluator leaves no %s for a COCO file.", self.name, what)
            return {}
        write_category_map(files.predictions, files.annotations, detection_limit(self.cfg))
        metrics, more = coco_metrics(files.annotations, files.predictions), {"annotations": str(files.annotations)}
        if (node := calibration_node(self.cfg)) is not None:
            report, source = calibrate_split(node, files, fit if fit is not None and fit.split != self.name else None)
            report.write(files.predictions.parent)
            metrics |= calibration_metrics(report)
            more["temperature_fitted_on"] = source
        path = output or RunFolder(output_dir).split_metrics(self.name, smoke=self.cfg.train.smoke)
        data = self.provenance
        more |= initial_weights(self.cfg) | self.about
        write_metrics(path, metrics, checkpoint=str(checkpoint), iteration=iteration, split=self.name, **data, **more)
        logger.info("Metrics of %s%s written to %s.", self.name, " (synthetic images)" if data else "", path)
        return metrics

    def operating_point(self, output_dir: Path) -> OperatingPoint | None:
        """Score thresholds by class, as `train.operating_point` asks for; None where `files` gives none."""
        if (files := self.files(output_dir)) is None:
            return None
        settings = self.cfg.train.operating_point
        return choose_operating_point(
            read_records(files.annotations, files.predictions),
            split=self.name,
            match_iou=settings.match_iou,
            wished_precision=settings.precision,
        )


def build_splits(cfg: DictConfig) -> dict[str, Split]:
    """The splits that a config is evaluated on, by name and in order."""
    return {name: Split(cfg, name) for name in evaluation_splits(cfg)}


class _Given:
    """Stands in a loader's config for a call that reads the data set."""

    def __init__(self, records: Sequence[dict[str, Any]]):
        self._records = records

    def __call__(self) -> Sequence[dict[str, Any]]:
        return self._records
