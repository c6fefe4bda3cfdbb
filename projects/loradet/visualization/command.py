"""What `loradet visualize` does once its arguments are parsed."""

import argparse
from pathlib import Path
from typing import Any

from loradet.config import load_config
from loradet.datasets.annotations import read_annotations
from loradet.datasets.subset import choose_ids
from loradet.errors import UserError
from loradet.evaluation.detections.numbering import check_category_map, recorded_annotations
from loradet.evaluation.detections.records import read_records
from loradet.visualization.analysis import analyse
from loradet.visualization.comparison import compare_exports
from loradet.visualization.detections import paint_split
from loradet.visualization.export.folder import GROUND_TRUTH, PREDICTIONS, read_export
from loradet.visualization.export.split import export_split
from loradet.visualization.grad_cam.pictures import paint_grad_cam
from loradet.visualization.training_samples import paint_training_samples


def run_command(arguments: argparse.Namespace) -> list[Path]:
    """Make what `arguments.mode` names; options that were not given are absent. Returns the files written."""
    given = {name: value for name, value in vars(arguments).items() if name not in ("mode", "export", "analyse")}
    if arguments.mode == "--compare":
        return compare_exports(_named_folders(given.pop("compare")), **_renamed(given))
    if arguments.mode == "--analyse":
        return analyse_files(**given)
    config, overrides = given.pop("config_file"), given.pop("overrides", [])
    cfg = load_config(config, overrides, trusted=given.pop("trust", False))
    if arguments.mode == "--export":
        archive = given.pop("zip", False)
        with_analysis = hasattr(arguments, "analyse")
        return export_split(
            cfg, **given, with_analysis=with_analysis, archive=archive, config=config, overrides=overrides
        )
    if arguments.mode == "--grad-cam":
        words = given.pop("grad_cam")
        levels = None if words is None else [level.strip() for level in words.split(",")]
        return paint_grad_cam(cfg, levels=levels, **given)
    if arguments.mode == "--augmented":
        names = [name.strip() for name in (given.pop("augmented") or "").split(",") if name.strip()]
        return paint_training_samples(cfg, names=names, **given)
    return paint_split(cfg, **_renamed(given))


def analyse_files(
    predictions: str,
    output: str,
    *,
    annotations: str | None = None,
    subset: int | None = None,
    subset_seed: int = 0,
    **thresholds: float,
) -> list[Path]:
    """Analyse an export folder, or a detections file and the annotations of its images; no model is needed.

    Args:
        predictions: an export folder, or a `coco_instances_results.json`.
        output: a folder.
        annotations: COCO instances; with a file, where nothing beside it names them.
        subset, subset_seed: look at as many images only, those that `choose_subset` gives.
        thresholds: `score_threshold`, `iou_threshold`: see `analyse`.

    Raises:
        FileNotFoundError, ValueError: no such files, or files that do not belong together.
    """
    if Path(predictions).is_dir():
        if annotations is not None:
            raise UserError(f"{predictions} is an export, which holds its own annotations: leave --annotations out.")
        export = read_export(predictions)
        annotations, file = export.folder / GROUND_TRUTH, export.folder / PREDICTIONS
        title = f"{Path(export.manifest['checkpoint']).name} on {export.manifest['split']}"
    else:
        annotations = recorded_annotations(predictions) if annotations is None else annotations
        check_category_map(predictions, annotations)
        file, title = Path(predictions), "/".join(Path(predictions).parts[-4:])  # <run>/predictions/<split>/…
    ids = None
    if subset is not None:
        if subset < 1:
            raise UserError(f"A subset of {subset} images: expected 1 or more.")
        ids = choose_ids(read_annotations(annotations).images.ids, subset, subset_seed)
    return analyse(read_records(annotations, file, ids), output, title=title, **thresholds)


def _named_folders(words: list[str]) -> dict[str, str]:
    folders: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--compare {word}: expected NAME=EXPORT_DIR.")
        if name in folders:
            raise UserError(f"--compare: two experiments have the name {name}.")
        folders[name] = folder
    return folders


def _renamed(given: dict[str, Any]) -> dict[str, Any]:
    return {"sheet" if name == "contact_sheet" else name: value for name, value in given.items()}
