"""Lines of `metrics.json`."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec

from loradet.files import FileError, atomic_open, parse_json
from loradet.json_kinds import NUMBER, WHOLE, entries, mapping_to

# What a line holds, for the reference; patterns as fnmatch has them.
MEANINGS = {
    "iteration": "number of the step, from 0",
    "lr": "learning rate of the step",
    "total_loss": "weighted sum of the losses, mean over micro-batches",
    "loss_*": "its parts, by the detector",
    "grad_norm": "norm of all gradients before clipping",
    "grad_scale": "the gradient scaler's factor, in fp16",
    "time": "seconds a step",
    "data_time": "seconds of it that the step waited for data",
    "rank_data_time": "the longest such wait of any process",
    "eta_seconds": "seconds to the end, as it goes",
    "memory_mb": "most memory that the process held so far, MiB (on CUDA what torch had allocated, in training alone)",
    "bbox/AP*": "Detectron2's AP in percent, at an evaluation: `bbox/AP`, `bbox/AP50`, `bbox/APs` …, `bbox/AP-<class>`",
    "val/*": "validation losses at an evaluation",
    "calibration/*": "ECE and NLL of the scores as they are, where the config has that evaluator",
    "num_pos_anchors": "positive anchors of an image, by RetinaNet and FCOS",
    "rpn/*": "of proposal networks: positive and negative anchors of an image",
    "roi_head/*": "of box heads: sampled proposals with and without an object",
    "*cls_accuracy": "of box heads: share of proposals that get their class; `fg_`: of those with an object",
    "*false_negative": "of box heads: share of proposals with an object that are taken for background",
    "class_error": "DETR: percent of matched queries with another class",
    "cardinality_error": "DETR: how far the number of detections is from the number of objects",
}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that a killed run left unfinished is passed over, and what follows it.

    Raises:
        FileError: the file holds no text, or a line something that is no number; it is named.
    """
    return read_whole_lines(path)[0]


def read_whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines, as `read_lines`, and how many the file has, the unfinished ones too."""
    content = path.read_bytes() if path.is_file() else b""
    if (sound := _sound_lines(content)) is not None:
        return sound, len(sound)
    lines: list[dict[str, Any]] = []
    try:
        texts = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is no metrics file ({error}). {_ADVICE}") from error
    for number, text in enumerate(texts, start=1):
        try:
            line = parse_json(text, str(path))
        except FileError:
            break
        if (problem := _VALUES(line, "") or _LINE(line, "")) is not None:
            raise FileError(f"{path}, line {number}: {problem}. {_ADVICE}")
        lines.append(line)
    return lines, len(texts)


def _sound_lines(content: bytes) -> list[dict[str, Any]] | None:
    """All lines at once, where they are numbers and finite; None where each is to be looked at."""
    try:
        lines = _DECODER.decode_lines(content)
    except msgspec.DecodeError:
        return None
    counted = content.count(b"\n") + (not content.endswith(b"\n")) if content else 0
    is_sound = len(lines) == counted and all(type(line.get("iteration", 0)) is int for line in lines)
    return lines if is_sound else None


_DECODER = msgspec.json.Decoder(dict[str, float | Annotated[int, msgspec.Meta(ge=-(2**63) + 1, le=2**63 - 1)]])
_VALUES = mapping_to(NUMBER)
_LINE = entries({"iteration": WHOLE})
_ADVICE = "Put the whole file back, or delete it: a resumed run goes on without it."


def drop_lines_after(path: Path, iteration: int) -> None:
    """Leave out what a killed run logged after its last checkpoint, since the resumed run logs it again."""
    lines = read_lines(path)
    kept = [line for line in lines if line.get("iteration", -1) <= iteration]
    if path.is_file():
        with atomic_open(path) as file:
            file.writelines(json.dumps(line, sort_keys=True) + "\n" for line in kept)
