"""A training that is a script of a few steps: it stands for the training tool where runs are carried out elsewhere."""

import json
from collections.abc import Sequence
from pathlib import Path

from helpers.engine_study import METRICS, entry, study
from helpers.paths import TEST_CONFIGS
from loradet.experiments.running.planning import plan
from loradet.experiments.running.run import Run
from loradet.training.folder import record

SCRIPT = """
import json, os, pathlib, signal, sys, time

words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = pathlib.Path(words["train.output_dir"])
plan = json.loads(pathlib.Path("plan.json").read_text())
asked = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: asked.append(number))


def note(word):
    with open(folder / "trace.txt", "a") as file:
        file.write(f"{word} {os.getpid()} {time.time()}\\n")


def save(status, step):
    content = {"status": status, "iteration": step, "config_sha256": plan["hashes"][folder.name]}
    (folder / "run.json.new").write_text(json.dumps(content))
    os.replace(folder / "run.json.new", folder / "run.json")


(folder / "environment.json").write_text(json.dumps(dict(os.environ)))
if words["train.seed"] in plan["failing"]:
    sys.exit("ValueError: this seed fails")
begun = folder / "run.json"
step = json.loads(begun.read_text())["iteration"] if begun.exists() else 0
note("begins")
while step < plan["steps"]:
    time.sleep(0.1)
    step += 1
    note(f"step{step}")
    save("running", step)
    if asked:
        time.sleep(0.5)
        save("interrupted", step)
        note("saved")
        sys.exit(128 + asked[0])
(folder / "val_metrics.json").write_text(json.dumps({"split": "val", **plan["metrics"]}))
save("finished", step)
note("ends")
"""


def stub_runs(folder: Path, *, seeds: Sequence[int] = (0,), steps: int = 2, failing: Sequence[int] = ()) -> list[Run]:
    """Runs for whoever stands in `folder`, where the script lies as the training tool; each step takes 0.1 s."""
    (folder / "data" / "Annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        (folder / "data" / "Annotations" / f"{split}.json").write_text("{}")
    one = entry(
        config=str(TEST_CONFIGS / "tiny.py"),
        overrides=(f"data.root={folder / 'data'}",),
        seeds=tuple(seeds),
        splits=("val",),
    )
    runs = plan(study(one), root=folder / "runs")
    (folder / "tools").mkdir(exist_ok=True)
    (folder / "tools" / "lazyconfig_train_net.py").write_text(SCRIPT)
    content = {
        "hashes": {run.name: record.config_hash(run.config) for run in runs},
        "steps": steps,
        "failing": [str(seed) for seed in failing],
        "metrics": METRICS,
    }
    (folder / "plan.json").write_text(json.dumps(content))
    return runs


def trace(run: Run) -> list[tuple[str, int]]:
    """What a run's processes have done, each with its number: "begins", "step1" …, "saved", "ends"."""
    file = run.folder / "trace.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [(word, int(pid)) for word, pid, _ in map(str.split, lines)]


def environment(run: Run) -> dict[str, str]:
    """Variables of the run's last process."""
    return json.loads((run.folder / "environment.json").read_text())
