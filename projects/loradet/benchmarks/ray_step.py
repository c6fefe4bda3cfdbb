"""Measures training steps inside Ray Train against torchrun's: the same training by both, in alternating pairs.

Each training is a whole one of few steps, with processes of its own; a step's seconds are the median of 20 successive
steps, as its log has them, where that was least: other work on the machine comes and goes, and only makes steps slower.
Start, evaluation and checkpoints are left out of it.

    python -m loradet.benchmarks.ray_step --config-file quickstart --workers 2 --pairs 5 data.root=~/scenes
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from loradet.benchmarks.arguments import refuse_below_one
from loradet.benchmarks.turns import ratio_figures
from loradet.errors import UserError, errors_in_one_line
from loradet.ray import trainer
from loradet.run_folder import RunFolder
from loradet.training.folder.metrics_log import read_lines

_WINDOW = 20  # steps whose median a line of the log has
_STORE_BYTES = 100_000_000  # Ray's object store, in which next to nothing lies


def benchmark_ray(
    config: str, overrides: Sequence[str], *, workers: int = 2, pairs: int = 5, steps: int = 40
) -> dict[str, Any]:
    """Median seconds a step of both, and their ratio by `ratio_figures`: Ray Train's over torchrun's.

    Args:
        config: a file, or the name of one of the project's own.
        overrides: `key=value` words.
        workers: processes of a training.
        pairs: of trainings; which goes first alternates.
        steps: of a training, 20 or more.

    Raises:
        ImportError: Ray is not installed.
        UserError: a training fails.
    """
    short = [f"train.max_iter={steps}", "train.eval_period=0", "train.checkpointer.period=0", "train.log_period=1"]
    words = [*overrides, *short, "train.eval_splits=[]"]
    sides: tuple[Callable[[Path], None], ...] = (
        lambda folder: _by_ray(config, [*words, f"train.output_dir={folder}"], workers),
        lambda folder: _by_torchrun(config, [*words, f"train.output_dir={folder}"], workers),
    )
    seconds: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as root, _cluster(workers):
        for pair in range(pairs):
            for side in (0, 1) if pair % 2 else (1, 0):
                folder = Path(root, f"{pair}_{side}")
                sides[side](folder)
                lines = read_lines(RunFolder(folder).metrics)
                seconds[side].append(min(line["time"] for line in lines[_WINDOW - 1 :]))
    ray, torchrun = map(statistics.median, seconds)
    return {"ray_s_per_iter": ray, "torchrun_s_per_iter": torchrun, **ratio_figures(*seconds)}


@contextlib.contextmanager
def _cluster(workers: int) -> Iterator[None]:
    """Ray on this machine, with as many CPUs as a training has processes."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("This needs Ray: pip install -e '.[ray]'.") from error
    options = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    ray.init(address="local", log_to_driver=False, **options)  # whatever else runs on this machine
    try:
        yield
    finally:
        ray.shutdown()


def _by_ray(config: str, words: Sequence[str], workers: int) -> None:
    trainer(config, words, num_workers=workers, max_failures=0).fit()


def _by_torchrun(config: str, words: Sequence[str], workers: int) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    command = [*launcher, "-m", "loradet.cli", "train", "--config-file", config, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"torchrun's training ended with status {done.returncode}: {last}")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes of a training (%(default)s)")
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="of trainings (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, metavar="N", help="of a training (%(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args(argv)
    refuse_below_one(parser, {name: getattr(arguments, name) for name in ("workers", "pairs")})
    if arguments.steps < _WINDOW:
        parser.error(f"--steps {arguments.steps}: a training needs {_WINDOW} steps for a figure.")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures."""
    arguments = parse_arguments(argv)
    with errors_in_one_line():
        figures = benchmark_ray(
            arguments.config_file,
            arguments.overrides,
            workers=arguments.workers,
            pairs=arguments.pairs,
            steps=arguments.steps,
        )
    for name, value in figures.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    main()
