"""A table of finished runs, read from their folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from loradet.errors import UserError
from loradet.evaluation.cells import millions_cell
from loradet.evaluation.coco_metrics import read_metrics
from loradet.experiments.results.table import PARTS
from loradet.run_folder import RunFolder
from loradet.wording import in_minutes


def comparison(folders: Sequence[Path], split: str = "val") -> str:
    """Runs as columns: AP, parameters, adapter size, speed, time, and where their files lie.

    Args:
        folders: of runs, in the order of the columns.
        split: whose metrics file to read.

    Raises:
        ValueError: a folder holds no finished run.
    """
    runs = [_describe(folder, split) for folder in folders]
    rows = [[name, *(run[name] for run in runs)] for name in runs[0]]
    return tabulate(rows, headers=["", *(folder.name for folder in folders)], disable_numparse=True)


def _describe(folder: Path, split: str) -> dict[str, str]:
    record = RunFolder(folder).read_record()
    if record.get("status") != "finished":
        raise UserError(
            f"{folder} holds no finished run (status: {record.get('status', 'no run.json')}); "
            "train it, or go on with it by --resume."
        )
    metrics = read_metrics(RunFolder(folder).split_metrics(split))
    _check_present(RunFolder(folder).record, record, ("parameters", "images_per_s", "wall_time_s", "device"))
    _check_present(RunFolder(folder).record, record["parameters"], PARTS, "parameters.")
    needed = ("coco/bbox_mAP", "coco/bbox_mAP_50", "checkpoint", "iteration")
    _check_present(RunFolder(folder).split_metrics(split), metrics, needed)
    parameters = record["parameters"]
    rows = {
        f"AP ({split})": f"{metrics['coco/bbox_mAP']:.3f}",
        f"AP50 ({split})": f"{metrics['coco/bbox_mAP_50']:.3f}",
    }
    for part in PARTS:
        rows[f"trainable / total, {part} (M)"] = _millions(parameters[part])
    return rows | {
        RunFolder.ADAPTER: f"{RunFolder(folder).adapter.stat().st_size / 1e6:.2f} MB",
        "training images/s": "-" if record["images_per_s"] is None else f"{record['images_per_s']:.1f}",
        "wall time": in_minutes(record["wall_time_s"]),
        "device": record["device"],
        "best checkpoint": Path(metrics["checkpoint"]).name + f", iteration {metrics['iteration']}",
        "files": f"{folder}/",
    }


def _check_present(file: Path, content: Mapping[str, Any], names: Sequence[str], where: str = "") -> None:
    if absent := [name for name in names if name not in content]:
        raise UserError(f"{file} has no {where}{absent[0]}, which a finished run leaves; put the whole file back.")


def _millions(count: dict[str, Any]) -> str:
    return f"{millions_cell(count['trainable'])} / {millions_cell(count['total'])}"
