"""Measures what a run costs more as a task of Ray than as a local process, in studies that take turns.

python -m loradet.benchmarks.ray_overhead --pairs 5 --runs 4

A run is a script that ends at once, so that what is left is the executor: its command, locks, records, processes. The
cluster is up before; each study's tasks have workers of their own, which import loradet once.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from tabulate import tabulate

from loradet.benchmarks.arguments import refuse_below_one
from loradet.benchmarks.turns import interleave

_ENDS = "raise SystemExit('a run that ends at once')\n"
_STORE_BYTES = 100_000_000


def write_stub_study(folder: Path, runs: int) -> None:
    """A study in `folder`, whose training tool is a script that does nothing."""
    (folder / "tools").mkdir(parents=True)
    (folder / "tools" / "lazyconfig_train_net.py").write_text(_ENDS)
    overrides = []
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text("{}")
        overrides.append(f"data.{split}_json={folder / split}.json")
    entry = {
        "id": "stub",
        "title": "stub",
        "objective": "none",
        "config": "configs/quickstart.py",
        "overrides": overrides,
        "seeds": list(range(runs)),
        "splits": ["val"],
    }
    study = {"name": "stub", "title": "Runs that end at once", "entries": [entry]}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))


def carry_out(folder: Path, runs: int, executor: Sequence[str]) -> None:
    """The study afresh, by the command that a user types. Raises RuntimeError where a run did not come as far."""
    with tempfile.TemporaryDirectory(dir=folder) as work_dirs:
        command = [sys.executable, "-m", "loradet.cli", "study", "--study", str(folder), "--work-dirs", work_dirs]
        done = subprocess.run(
            [*command, "run", "--jobs", "1", *executor],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 1 or done.stdout.count("failed  (a run that ends at once)") != runs:
            raise RuntimeError(done.stdout + done.stderr)


def benchmark_overhead(pairs: int, runs: int) -> dict[str, float]:
    """Medians over the pairs, in seconds a run, and the spread of their difference."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the other side has it
    import ray

    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "stub"
        write_stub_study(study, runs)
        began = time.perf_counter()
        ray.init(address="local", include_dashboard=False, object_store_memory=_STORE_BYTES, log_to_driver=False)
        up = time.perf_counter() - began
        try:
            by_ray = ("--executor", "ray", "--address", ray.get_runtime_context().gcs_address)
            seconds = interleave(
                lambda _: carry_out(study, runs, by_ray),
                lambda _: carry_out(study, runs, ()),
                [None],
                pairs=pairs,
                warmup=1,
            )
        finally:
            ray.shutdown()
    differences = [(ours - theirs) / runs for ours, theirs in zip(*seconds)]
    return {
        "cluster up (s)": up,
        "a run by Ray (s)": statistics.median(seconds[0]) / runs,
        "a run locally (s)": statistics.median(seconds[1]) / runs,
        "overhead a run (s)": statistics.median(differences),
        "least": min(differences),
        "most": max(differences),
        "runs a study": runs,
        "pairs": pairs,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m loradet.benchmarks.ray_overhead`; prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--runs", type=int, default=4, help="of a study (%(default)s)")
    options = parser.parse_args(arguments)
    refuse_below_one(parser, vars(options))
    print(tabulate(benchmark_overhead(options.pairs, options.runs).items(), tablefmt="plain", floatfmt=".3g"))


if __name__ == "__main__":
    main()
