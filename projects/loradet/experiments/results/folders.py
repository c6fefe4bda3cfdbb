"""What the runs of a study have come to, read from their folders."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loradet.experiments.study.definition import Entry


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run, or the place where one is missing.

    Attributes:
        entry: what was run.
        mode: "full" or "smoke".
        seed: of the run.
        folder: of its files.
        state: "finished", or why there are no numbers: "missing", "running", "interrupted", "failed", "changed" (a run
            of another config is there), "broken" (a file of it cannot be read), "incomplete" (trained, not evaluated),
            "waiting" (pictures without a source).
        detail: more about the state in a few words.
        metrics: split ("val", "test", "smoke") -> metric name -> value; empty unless finished.
        record: contents of its `run.json` (see `loradet.training.folder.record`), with `parameters`
            ({"backbone" | "neck" | "head" | "all": {"trainable": n, "total": n}}), `images_per_s`, `peak_memory_mb`,
            `train_seconds`, `wall_time_s`, `efficiency` (of inference; see `loradet.evaluation.throughput`), `device`,
            `data`, `processes`, `versions`, `git_revision`; {} where there is none.
        synthetic: its images are synthetic.
    """

    entry: Entry
    mode: str
    seed: int
    folder: Path
    state: str
    detail: str = ""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    synthetic: bool = False
