"""Export of a split to one folder: detections, metrics, painted images."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from omegaconf import DictConfig
from tqdm import tqdm

from loradet.config.splits import check_evaluation_split
from loradet.datasets.files import fingerprint, read_coco, write_coco
from loradet.errors import UserError
from loradet.evaluation.coco_metrics import coco_metrics, write_metrics
from loradet.evaluation.detections.limit import detection_limit
from loradet.evaluation.detections.numbering import MAX_DETECTIONS, write_category_map
from loradet.evaluation.detections.records import read_records
from loradet.evaluation.operating_point import DEFAULT_THRESHOLD
from loradet.evaluation.score_thresholds import ScoreThresholds, choose_thresholds, find_operating_point
from loradet.files import atomic_open, sha256, write_json
from loradet.visualization.analysis import analyse
from loradet.visualization.detections import make_panel, picture_name
from loradet.visualization.export.archive import write_archive
from loradet.visualization.export.folder import (
    ANALYSIS,
    FORMAT,
    GROUND_TRUTH,
    MANIFEST,
    METRICS,
    PICTURES,
    PREDICTIONS,
    archive_of,
    finish_folder,
    start_folder,
)
from loradet.visualization.loaded_split import LoadedSplit, evaluation_mode, load_split
from loradet.visualization.painting import paint_pair, save_png


def export_split(
    cfg: DictConfig,
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    split: str = "val",
    subset: int | None = None,
    subset_seed: int = 0,
    score_threshold: float | None = None,
    ground_truth: bool = True,
    with_analysis: bool = False,
    iou_threshold: float = 0.5,
    archive: bool = False,
    config: str = "",
    overrides: Sequence[str] = (),
) -> list[Path]:
    """Run a model over a split and leave everything about it in one folder.

    The folder gets `coco_instances_results.json` (all detections), `ground_truth.json` (of the images run on),
    `metrics.json`, `pictures/` and, last, `manifest.json`: without it an export is not finished. An earlier export in
    the folder is replaced; a folder that holds other things is refused.

    Args:
        checkpoint: `.pth`, or an adapter's `.safetensors`.
        output: the folder.
        split: an evaluation split.
        subset, subset_seed: run on as many images only, see `choose_subset`.
        score_threshold: detections under it are not painted, and not in the confusion matrix. None: the operating
            point of the checkpoint (of the matrix 0.3), else 0.3.
        ground_truth: paint it beside the detections.
        with_analysis: put curves, confusion matrix and error breakdown into `analysis/`.
        iou_threshold: of that confusion matrix.
        archive: pack the folder as `<output>.zip`, with `<output>.zip.sha256` beside it.
        config, overrides: what `cfg` was made from, for the manifest.

    Returns:
        The manifest, and the zip file if asked for.

    Raises:
        ValueError: a foreign folder or zip file, no such split, a checkpoint of another model, or data that no COCO
            file describes.
    """
    output = Path(output)
    check_evaluation_split(cfg, split)
    loaded = load_split(cfg, checkpoint, split, subset=subset, subset_seed=subset_seed)
    truth = _ground_truth(loaded, split)
    point = find_operating_point(checkpoint, cfg.train.get("output_dir"))
    thresholds = choose_thresholds(score_threshold, point, loaded.class_names, checkpoint)
    start_folder(output, archive=archive)

    write_coco(output / GROUND_TRUTH, truth)
    pictures = _run(loaded, output, thresholds=thresholds, ground_truth=ground_truth)
    source = {"checkpoint": str(checkpoint), "split": split, "num_images": len(pictures)}
    if loaded.synthetic:
        source["data"] = "synthetic"
    if (limit := detection_limit(cfg)) != MAX_DETECTIONS:
        write_category_map(output / PREDICTIONS, output / GROUND_TRUTH, limit)
    write_metrics(output / METRICS, coco_metrics(output / GROUND_TRUTH, output / PREDICTIONS), **source)
    if with_analysis:
        analyse(
            read_records(output / GROUND_TRUTH, output / PREDICTIONS),
            output / ANALYSIS,
            title=f"{Path(checkpoint).name} on {split}",
            score_threshold=DEFAULT_THRESHOLD if score_threshold is None else score_threshold,
            iou_threshold=iou_threshold,
        )
    manifest = {
        "format": FORMAT,
        "config": config,
        "overrides": list(overrides),
        **source,
        "subset": None if subset is None else {"images": subset, "seed": subset_seed},
        "score_threshold": thresholds.plain(loaded.class_names),
        "classes": loaded.class_names,
        "image_root": loaded.metadata.get("image_root", ""),
        "intensity": loaded.intensity.to_value(),
        "data_fingerprint": fingerprint(truth["images"], truth["annotations"], truth["categories"]),
        "sha256": {name: sha256(output / name) for name in (GROUND_TRUTH, METRICS, PREDICTIONS)},
        "images": _image_list(truth, pictures),
    }
    write_json(output / MANIFEST, manifest)
    finish_folder(output)
    return [output / MANIFEST, *([write_archive(output, archive_of(output))] if archive else [])]


def _image_list(truth: dict[str, Any], pictures: Sequence[tuple[Any, str]]) -> list[dict[str, Any]]:
    file_names = {image["id"]: image["file_name"] for image in truth["images"]}
    return [{"id": image_id, "file_name": file_names[image_id], "picture": path} for image_id, path in pictures]


def _ground_truth(loaded: LoadedSplit, split: str) -> dict[str, Any]:
    """The content of the file that the split is evaluated against, cut to the images to run on."""
    json_file = loaded.metadata.get("json_file")
    if json_file is None or loaded.metadata.get("thing_dataset_id_to_contiguous_id") is None:
        raise UserError(f"dataloader.{split} reads no COCO or YOLO data: there is no annotation file to export.")
    content = read_coco(json_file)
    wanted = {record["image_id"] for record in loaded.records}
    return {
        "info": {"description": f"ground truth of {split}", "synthetic": loaded.synthetic},
        "images": [image for image in content["images"] if image["id"] in wanted],
        "annotations": [entry for entry in content["annotations"] if entry["image_id"] in wanted],
        "categories": content["categories"],
    }


@torch.no_grad()
def _run(
    loaded: LoadedSplit, output: Path, *, thresholds: ScoreThresholds, ground_truth: bool
) -> list[tuple[Any, str]]:
    """Paint every image and write the detections; returns image ids and paths in the order of the split."""
    by_id = {record["image_id"]: record for record in loaded.records}
    category_ids = {place: number for number, place in loaded.metadata.thing_dataset_id_to_contiguous_id.items()}
    names = loaded.class_names
    detections, images = [], []
    with evaluation_mode(loaded.model), tqdm(total=len(by_id), desc="images", unit="image") as progress:
        for batch in loaded.batches():
            for item, result in zip(batch, loaded.model(batch)):
                record, instances = by_id[item["image_id"]], result["instances"].to("cpu")
                for entry in instances_to_coco_json(instances, record["image_id"]):
                    detections.append({**entry, "category_id": category_ids[entry["category_id"]]})
                options = {"score_threshold": thresholds, "ground_truth": ground_truth}
                panel = make_panel(record, loaded.read(record), instances, **options)
                painted = f"{PICTURES}/{picture_name(record)}"
                save_png(output / painted, paint_pair(panel, names))
                images.append((record["image_id"], painted))
                progress.update()
    with atomic_open(output / PREDICTIONS) as file:
        json.dump(detections, file)
    return images
