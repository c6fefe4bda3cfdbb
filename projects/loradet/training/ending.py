"""The summary at the end of a training: results, times, files, and commands to go on with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from loradet.config.trust import untrusted_calls_in_file
from loradet.evaluation.coco_metrics import PREFIX
from loradet.evaluation.operating_point import OperatingPoint, operating_point_table
from loradet.run_folder import RunFolder
from loradet.training.folder.metrics_log import read_lines
from loradet.training.folder.tool_commands import tool_command
from loradet.wording import in_minutes

# As files of metrics have them, and as an evaluation during training has them, in percent.
_SHOWN = {"AP": ("mAP", "bbox/AP"), "AP50": ("mAP_50", "bbox/AP50")}
_FILES = (RunFolder.BEST, RunFolder.FINAL, RunFolder.ADAPTER, RunFolder.OPERATING_POINT, RunFolder.CONFIG)


def final_summary(
    folder: RunFolder,
    record: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    point: OperatingPoint | None,
    example: str | None,
) -> str:
    """The end of a run, for people.

    Args:
        folder: of the run, whose files are written.
        record: content of its `run.json`.
        metrics: by split, the first one first, as `Split.write_metrics` gives them: of the best weights.
        point: of these weights.
        example: an image to try them on; None: nothing is known.
    """
    parts = [_results(folder, record, metrics), _costs(record), _files(folder)]
    if point is not None and point.overall.threshold is None:
        parts.insert(
            1, f"Nothing that it found on {point.split} is right: there is no score to take detections from on."
        )
    elif point is not None:
        title = f"Detections are taken from these scores on ({point.rule} on {point.split}):"
        parts.insert(1, f"{title}\n{operating_point_table(point)}")
    if commands := next_commands(folder, splits=list(metrics), example=example):
        lines = [f"  # {what}\n  {command}" for what, command in commands.items()]
        parts.append("\n".join(["What to type next:", *lines]))
    return "\n\n".join(filter(None, parts))


def _results(folder: RunFolder, record: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """A table: best weights and last evaluation, split by split."""
    best = record.get("best")
    if not best:
        return ""
    last = next((line for line in reversed(read_lines(folder.metrics)) if best["metric"] in line), {})
    rows = [("iteration", best["iteration"], last.get("iteration", "-"))]
    if best["metric"] not in [names[1] for names in _SHOWN.values()]:
        rows.append((best["metric"], _number(best["value"]), _number(last.get(best["metric"]))))
    for number, (split, found) in enumerate(metrics.items()):
        for name, (ours, theirs) in _SHOWN.items():
            if PREFIX + ours in found:
                percent = last.get(theirs) if number == 0 else None
                of_last = None if percent is None else percent / 100
                rows.append((f"{name} ({split})", _number(found[PREFIX + ours]), _number(of_last)))
    return tabulate(rows, headers=("", "best", "last"), disable_numparse=True, colalign=("left", "right", "right"))


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def _costs(record: Mapping[str, Any]) -> str:
    told = [f"Time: {in_minutes(record['wall_time_s'])}, of which training steps {in_minutes(record['train_seconds'])}"]
    if record.get("images_per_s") is not None:
        told.append(f"{record['images_per_s']:.1f} images/s")
    return "; ".join([*told, f"peak memory {record['peak_memory_mb']:,.0f} MB"]) + "."


def _files(folder: RunFolder) -> str:
    there = [folder.path / name for name in _FILES]
    there[3:3] = sorted(folder.path.glob(RunFolder.SPLIT_METRICS))
    shown = [f"{file.name}{_size(file)}" for file in there if file.is_file()]
    return f"Files in {folder.path}: {', '.join(shown)}."


def _size(file: Path) -> str:
    size = file.stat().st_size / 1e6
    return f" ({size:.2f} MB)" if file.suffix in (".pth", ".safetensors") else ""


def next_commands(folder: RunFolder, *, splits: list[str], example: str | None) -> dict[str, str]:
    """What people do with a finished run: commands by what they are for.

    Args:
        splits: that it was evaluated on.
        example: an image.
    """
    weights = folder.best if folder.best.is_file() else folder.path / folder.FINAL
    # A backbone of one's own, say: the files of one's own runs are programs like others.
    trust = ("--trust",) if untrusted_calls_in_file(folder.config) else ()
    of_run = ("--config-file", folder.config, "--checkpoint", weights, *trust)
    commands = {}
    if example is not None:
        found = folder.path / "found"
        commands["find objects in images or folders"] = tool_command("predict.py", *of_run, "--output", found, example)
    for split in splits[:1]:
        sheet = folder.path / "detections.png"
        words = (*of_run, "--split", split, "--contact-sheet", "--output", sheet)
        commands["paint detections beside the ground truth"] = tool_command("visualize.py", *words)
    for split in splits[-1:]:
        commands["evaluate again"] = tool_command("lazyconfig_train_net.py", "--eval-only", *of_run, "--split", split)
    commands["look into the adapter, which holds all that was trained"] = tool_command(
        "adapters.py", "inspect", folder.adapter
    )
    return commands
