"""Carries out many runs, several at a time, and tells how it goes."""

import contextlib
import logging
import os
import queue
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import torch

from loradet.config.initial_weights import check_initial_weights
from loradet.errors import MissingFileError, UserError
from loradet.experiments.results.folders import Result
from loradet.experiments.running.execution import Processes, execute
from loradet.experiments.running.run import Launch, Run
from loradet.experiments.running.state import inspect
from loradet.experiments.study.definition import MAIN_METRIC
from loradet.run_folder import RunFolder

logger = logging.getLogger(__name__)

# Something that carries out runs and gives them with their results as they end.
Executor = Callable[[Sequence[Run]], Generator[tuple[Run, Result], None, None]]


class LocalExecutor:
    """Processes on this machine, `jobs` at a time, each with GPUs of its own.

    Args:
        launch: how each run is carried out.
        jobs: None: as many as there are sets of GPUs; one on a machine without.

    Raises:
        ValueError: more GPUs would be used than there are.
    """

    def __init__(self, launch: Launch, *, jobs: int | None = None):
        devices, num_gpus = _devices(), launch.num_gpus
        if jobs is None:
            jobs = max(1, len(devices) // num_gpus)
        if jobs < 1 or num_gpus < 1:
            raise UserError(f"--jobs {jobs} --num-gpus {num_gpus}: expected at least 1 of each.")
        if devices and jobs * num_gpus > len(devices):
            raise UserError(f"--jobs {jobs} x --num-gpus {num_gpus}: there are {len(devices)} GPUs.")
        self.jobs, self.launch = jobs, launch
        self._environments = queue.SimpleQueue()
        for job in range(jobs):
            self._environments.put(_environment(devices[job * num_gpus : (job + 1) * num_gpus], jobs * num_gpus))
        self._processes = Processes()

    def __call__(self, runs: Sequence[Run]) -> Generator[tuple[Run, Result], None, None]:
        with ThreadPoolExecutor(self.jobs) as pool:
            pending: dict[Future, Run] = {pool.submit(self._carry_out, run): run for run in runs}
            try:
                while pending:
                    done, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        run = pending.pop(future)
                        yield run, future.result()
            except BaseException:
                # What runs saves and leaves; what waits is not begun.
                pool.shutdown(wait=False, cancel_futures=True)
                self._processes.interrupt()
                raise

    def interrupt(self) -> None:
        """Let all that runs save and leave, and begin no more, from another thread than the one that waits for it."""
        self._processes.interrupt()

    def _carry_out(self, run: Run) -> Result:
        environment = self._environments.get()
        try:
            logger.info("%s: begins (%s)", run.name, run.folder)
            return execute(run, launch=self.launch, environment=environment, processes=self._processes)
        except InterruptedError:
            return inspect(run)
        except (ValueError, OSError) as error:
            return failure(run, error)
        finally:
            self._environments.put(environment)


def failure(run: Run, error: BaseException) -> Result:
    """The result of a run that could not even be begun."""
    base = {"entry": run.entry, "mode": run.mode, "seed": run.seed, "folder": run.folder}
    return Result(**base, state="failed", detail=" ".join(str(error).split()))


def _devices() -> list[str]:
    """Names of the CUDA devices that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return names if torch.cuda.is_available() else []


def _environment(devices: list[str], processes: int) -> dict[str, str]:
    """Variables of a job: its devices, or its share of the cores."""
    if devices:
        return {"CUDA_VISIBLE_DEVICES": ",".join(devices)}
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // processes))}


def run_all(runs: Sequence[Run], executor: Executor) -> list[Result]:
    """Carry out runs: trainings, then the pictures that need them. One that fails does not keep others from going on.

    Returns:
        A result for each run, in their order.
    """
    results: dict[str, Result] = {}
    for kind in ("training", "pictures"):
        todo = [run for run in runs if run.entry.kind == kind and not _is_settled(run, results)]
        for run in runs:
            if run.entry.kind == kind and run.name in results:
                _tell(run, results[run.name], f"[{len(results)}/{len(runs)}]", "already ")
        began = time.monotonic()
        if not todo:
            continue
        # Closed at once where this loop is interrupted, so that what runs is asked to save.
        with contextlib.closing(executor(todo)) as ended:
            for number, (run, result) in enumerate(ended, start=1):
                results[run.name] = result
                left = (time.monotonic() - began) / number * (len(todo) - number)
                _tell(run, result, f"[{len(results)}/{len(runs)}]", eta=left)
    return [results[run.name] for run in runs]


def _is_settled(run: Run, results: dict[str, Result]) -> bool:
    """Whether nothing is to be carried out: the run is finished, or cannot be begun; its result is noted."""
    try:
        result = inspect(run)
        if result.state != "finished":
            _check_start(run)
            run.data.prepare(run.entry)
            return False
    except (ValueError, OSError) as error:
        result = failure(run, error)
    results[run.name] = result
    return True


def _check_start(run: Run) -> None:
    """Whether a training has what it starts from, before data are painted and a process is started for it."""
    if run.entry.kind != "training":
        return
    try:
        check_initial_weights(run.config, fresh=RunFolder(run.folder).last_checkpoint() is None)
    except FileNotFoundError as error:
        origin = f" The experiment starts from {run.entry.weights}." if run.entry.weights else ""
        raise MissingFileError(f"{error}{origin}") from error


def _tell(run: Run, result: Result, number: str, before: str = "", eta: float = 0.0) -> None:
    words = [f"{number} {run.name}: {before if result.state == 'finished' else ''}{result.state}"]
    if result.synthetic:
        words.append("(synthetic)")
    if result.detail:
        words.append(f"({result.detail})")
    for split, metrics in result.metrics.items():
        if MAIN_METRIC in metrics:
            words.append(f"{split} AP {metrics[MAIN_METRIC]:.3f}")
    if eta > 0:
        words.append(f"about {eta / 60:.0f} min left" if eta > 90 else f"about {eta:.0f} s left")
    logger.log(logging.INFO if result.state == "finished" else logging.WARNING, "  ".join(words))
