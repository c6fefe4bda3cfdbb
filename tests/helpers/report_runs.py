"""Run folders as training leaves them, with numbers of our choice."""

import json
from pathlib import Path

import yaml

from helpers.paths import ROOT
from loradet.experiments.results.folders import Result
from loradet.experiments.study.definition import Entry, Reported, Study

CONFIG = str(ROOT / "configs" / "quickstart.py")
CLASSES = ("ship", "aircraft", "car", "tank", "bridge", "harbor")
ITERATIONS, BATCH, IMAGES = 60, 8, 40


def entry(name: str, **values) -> Entry:
    return Entry(**{"id": name, "title": f"Experiment {name}", "objective": "to test", "config": CONFIG, **values})


def study(*entries: Entry) -> Study:
    return Study(name="trial", title="A trial", entries=entries, source="a paper, table 2")


def metrics(ap: float) -> dict[str, float]:
    """What a metrics file of a run with this AP holds."""
    values = {"": ap, "_50": 1.5 * ap, "_75": 0.9 * ap, "_s": 0.7 * ap, "_m": ap, "_l": 1.1 * ap}
    found = {f"coco/bbox_mAP{name}": value for name, value in values.items()}
    found["coco/bbox_AR@100"] = 1.2 * ap
    shares = (0.5, 0.8, 1.0, 1.1, 1.2, 1.4)
    found |= {f"coco/bbox_mAP/{name}": share * ap for name, share in zip(CLASSES, shares)}
    return found | {f"coco/bbox_AR@100/{name}": share * ap for name, share in zip(CLASSES, shares)}


def reported(split: str, *values: float) -> tuple[Reported, ...]:
    """Seeds 0, 1 ... with these APs; a single one has no seed."""
    seeds = range(len(values)) if len(values) > 1 else [None]
    return tuple(Reported(split=split, metrics={"coco/bbox_mAP": ap}, seed=seed) for seed, ap in zip(seeds, values))


def finished(
    root: Path,
    of: Entry,
    seed: int = 0,
    ap: float = 0.5,
    *,
    mode: str = "full",
    trainable: int = 9_944_000,
    fingerprint: str = "aaaa",
    synthetic: bool = False,
) -> Result:
    """A finished run and its folder; `test` is 0.03 below `val`."""
    folder = root / f"{of.id}_{mode}_seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "train": {"seed": seed, "output_dir": str(folder), "log_period": 20, "amp": {"enabled": True}},
        "data": {"root": "/data/set"},
        "dataloader": {"train": {"seed": seed, "total_batch_size": BATCH, "json": "/data/set/train.json"}},
        "optimizer": {"lr": 1e-4},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text("".join(log_lines(ap, seed)))
    (folder / "adapter.safetensors").write_bytes(b"an adapter" * 100_000)
    (folder / "run.json").write_text("{}")
    data = {
        split: {"source": f"/{split}.json", "fingerprint": fingerprint, "num_images": IMAGES, "synthetic": synthetic}
        for split in ("train", *(of.splits if mode == "full" else ("val",)))
    }
    heads = {"neck": 4_475_000, "head": 4_928_000}
    parts = {"backbone": trainable - sum(heads.values()), **heads, "all": trainable}
    record = {
        "data": data,
        "iteration": ITERATIONS - 1,
        "iterations_per_epoch": IMAGES // BATCH,
        "finished_at": "2023-11-14T22:13:20+00:00",
        "parameters": {part: {"trainable": n, "total": n + 1_000_000} for part, n in parts.items()},
        "images_per_s": 40.0 + seed,
        "peak_memory_mb": 2048.4,
        "wall_time_s": 600.0,
        "device": "NVIDIA H200",
        "processes": 1,
        "git_revision": "0123456789abcdef+changes",
    }
    splits = of.splits if mode == "full" else ("smoke",)
    found = {split: metrics(ap - (0.03 if split == "test" else 0)) for split in splits}
    return Result(
        entry=of,
        mode=mode,
        seed=seed,
        folder=folder,
        state="finished",
        metrics=found,
        record=record,
        synthetic=synthetic,
    )


def log_lines(ap: float, seed: int) -> list[str]:
    lines = []
    for iteration in range(4, ITERATIONS, 5):
        line = {"iteration": iteration, "total_loss": 0.4 + (1 + 0.1 * seed) / (1 + 0.1 * iteration)}
        if iteration % 10 == 9:
            line["bbox/AP"] = 100 * ap * (1 - 0.9 ** (iteration + seed))
        lines.append(json.dumps(line) + "\n")
    return lines


def absent(root: Path, of: Entry, seed: int = 0, *, mode: str = "full", state: str = "missing", detail: str = ""):
    folder = root / f"{of.id}_{mode}_seed{seed}"
    return Result(entry=of, mode=mode, seed=seed, folder=folder, state=state, detail=detail)
