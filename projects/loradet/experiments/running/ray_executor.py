"""Runs as tasks of a Ray cluster (`pip install -e '.[ray]'`): each has CPUs and GPUs, and is retried elsewhere."""

import logging
import math
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle

import loradet
from loradet.errors import UserError
from loradet.experiments.results.folders import Result
from loradet.experiments.running.ray_cluster import Node, alive_nodes, connected, imported_ray
from loradet.experiments.running.ray_task import NodeProblem, RayJob
from loradet.experiments.running.run import Launch, Run
from loradet.experiments.running.runner import failure
from loradet.experiments.running.state import inspect
from loradet.files import FileError, read_json
from loradet.training.folder.folder_lock import HELD_FOLDER

logger = logging.getLogger(__name__)

_RETRIES = 100  # on machines that may be taken away at any time; each time a run has come further
_LOST_NODE_S = 300.0
_POLL_S = 0.5
_LOOK_S = 2.0  # between looks at the nodes
# Variables of the command that its runs have too, wherever they are; the others are those of the node.
_PASSED_ON = ("OMP_NUM_THREADS", "LORADET_", "HF_", "TORCH_", "WANDB_", "TRACKIO_", "AWS_")


@dataclass(frozen=True)
class Need:
    """What a run takes of a node."""

    cpus: float
    gpus: float

    def fits(self, node: Node) -> bool:
        """Whether the node could ever hold such a run."""
        return node.cpus >= self.cpus and node.gpus >= self.gpus

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU, {self.gpus:g} GPU"


class RayExecutor:
    """Submits every run as a task and waits for them. One whose node dies goes on, from its checkpoint, on another.

    Args:
        folder: of the run folders, on storage that all nodes share.
        launch: how each run is carried out.
        address: see `loradet.experiments.running.ray_cluster.connected`.
        jobs: most runs at a time; None: as many as the cluster has room for.
        gpus_per_run: GPUs of a run, or a part of one, as 0.5; None: `launch.num_gpus` where the cluster has any.
        cpus_per_run: its CPUs; None: its share of a node's, that of its GPUs or of as many runs as there are at a time.
        node_wait_s: seconds to wait for a node that can hold a run; None: no time at the start, five minutes where all
            such nodes have been lost.

    Raises:
        UserError: a number is too small, or two of them contradict each other.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        launch: Launch,
        *,
        address: str | None = None,
        jobs: int | None = None,
        gpus_per_run: float | None = None,
        cpus_per_run: float | None = None,
        node_wait_s: float | None = None,
    ):
        self.folder, self.address, self.jobs = Path(folder), address, jobs
        self.gpus_per_run, self.cpus_per_run, self.node_wait_s = gpus_per_run, cpus_per_run, node_wait_s
        self._check(launch)
        imported_ray()  # before any data are prepared
        # One process a GPU; on CPUs as many as `num_gpus` says, as everywhere.
        self.launch = replace(launch, num_gpus=int(gpus_per_run)) if (gpus_per_run or 0) >= 1 else launch

    def _check(self, launch: Launch) -> None:
        gpus = self.gpus_per_run
        if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise UserError(f"--gpus-per-run {gpus:g}: expected a whole number, or a part of one GPU as 0.5.")
        if launch.num_gpus < 1 or (gpus and launch.num_gpus not in (1, max(1, int(gpus)))):
            also = "" if gpus is None else f" --gpus-per-run {gpus:g}"
            raise UserError(f"--num-gpus {launch.num_gpus}{also}: expected one process a GPU, at least 1.")
        if self.cpus_per_run is not None and self.cpus_per_run <= 0:
            raise UserError(f"--cpus-per-run {self.cpus_per_run:g}: expected more than 0.")
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"--jobs {self.jobs}: expected 1 or more.")
        if self.node_wait_s is not None and self.node_wait_s < 0:
            raise UserError(f"--node-wait {self.node_wait_s:g}: expected seconds, 0 or more.")

    def __call__(self, runs: Sequence[Run]) -> Generator[tuple[Run, Result], None, None]:
        with connected(self.address) as ray, _board(self.folder) as board:
            need = self._need(alive_nodes(ray))
            watch = _NodeWatch(lambda: alive_nodes(ray), need, self.node_wait_s)
            submit = self._submitter(ray, need, board)
            waiting, pending, told = deque(runs), {}, {}
            try:
                while waiting or pending:
                    while waiting and (self.jobs is None or len(pending) < self.jobs):
                        job, reference = submit(waiting.popleft())
                        pending[reference] = job
                    done, _ = ray.wait(list(pending), num_returns=1, timeout=_POLL_S)
                    _tell_begins(pending.values(), told)
                    for reference in done:
                        job = pending.pop(reference)
                        yield job.run, _result(ray, job.run, reference)
                    if not done:
                        watch.look()
            except BaseException:
                # What runs saves and leaves; what waits is not begun.
                _interrupt(ray, list(pending))
                raise

    def _need(self, nodes: Sequence[Node]) -> Need:
        """A run's share of a node; where several are possible, of the smallest that can have one."""
        gpus = self.gpus_per_run
        if gpus is None:
            gpus = float(self.launch.num_gpus) if any(node.gpus for node in nodes) else 0.0
        if self.cpus_per_run is not None:
            return Need(self.cpus_per_run, gpus)
        fitting = [node for node in nodes if node.cpus and node.gpus >= gpus]
        if not fitting:
            return Need(1.0, gpus)
        spread = math.ceil(self.jobs / len(fitting)) if self.jobs else 1
        shares = [node.cpus / (node.gpus // gpus if gpus else spread) for node in fitting]
        return Need(math.floor(min(shares)) or min(shares), gpus)

    def _submitter(self, ray: Any, need: Need, board: Path) -> Callable[[Run], tuple[RayJob, Any]]:
        logger.info("Ray: %s. A run takes %s.", "; ".join(map(str, alive_nodes(ray))), need)
        # The training is a process of its own, so that a worker has no GPU memory to give back after each (max_calls).
        options = {"num_cpus": need.cpus, "num_gpus": need.gpus, "max_retries": _RETRIES, "max_calls": 0}
        carry_out, paths = ray.remote(**options)(_task()), _import_paths()
        threads = max(1, int(need.cpus) // self.launch.num_gpus)
        environment = {"OMP_NUM_THREADS": str(threads), **_passed_on()}
        if paths:
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        if not need.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""

        def submit(run: Run) -> tuple[RayJob, Any]:
            job = RayJob(run=run, launch=self.launch, folder=Path.cwd(), board=board, environment=environment)
            return job, carry_out.options(name=run.name).remote(cloudpickle.dumps(job), paths)

        return submit


def _task() -> Callable[[bytes, list[str]], Result | NodeProblem | str]:
    """What Ray pickles whole, since it is defined in a function: a node may not find loradet by itself."""

    def carry_out(job: bytes, paths: list[str]) -> Any:
        import pickle
        import socket
        import sys

        sys.path[:0] = [path for path in paths if path not in sys.path]
        try:
            return pickle.loads(job)()
        except ImportError as error:
            return f"Node {socket.gethostname()} has not what this machine has: {error}."

    return carry_out


def _import_paths() -> list[str]:
    """Where this process has loradet and what PYTHONPATH names, without what is installed."""
    own = str(Path(loradet.__file__).resolve().parents[1])
    given = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    found = [path for path in (*given, own) if Path(path).name not in ("site-packages", "dist-packages")]
    return list(dict.fromkeys(found))


def _passed_on() -> dict[str, str]:
    names = [name for name in os.environ if name.startswith(_PASSED_ON) and name != HELD_FOLDER]
    return {name: os.environ[name] for name in names}


@contextmanager
def _board(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    board = Path(tempfile.mkdtemp(prefix=".ray_", dir=folder.absolute()))
    try:
        board.chmod(0o755)
        yield board
    finally:
        shutil.rmtree(board, ignore_errors=True)


def _tell_begins(jobs: Sequence[RayJob], told: dict[str, Any]) -> None:
    """Say where runs have begun since the last time."""
    for job in jobs:
        try:
            note = read_json(job.note) if job.note.is_file() else None
        except FileError:
            note = None  # removed or replaced in this moment
        if note is None or note == told.get(job.run.name):
            continue
        what = "goes on" if job.run.name in told else "begins"
        told[job.run.name] = note
        logger.info("%s: %s on %s (%s)", job.run.name, what, note["node"], job.run.folder)


def _result(ray: Any, run: Run, reference: Any) -> Result:
    try:
        found = ray.get(reference)
    except ray.exceptions.RayError as error:
        try:
            result = inspect(run)
        except ValueError as broken:
            return failure(run, broken)
        return result if result.state == "finished" else failure(run, UserError(_reason(error)))
    if isinstance(found, (NodeProblem, str)):
        raise UserError(found if isinstance(found, str) else found.message)
    return found


def _reason(error: Exception) -> str:
    """The last line of a task's traceback, or the first of what Ray says itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if hasattr(error, "traceback_str") else lines[0]


def _interrupt(ray: Any, references: Sequence[Any]) -> None:
    for reference in references:
        ray.cancel(reference)
    # A task that is cancelled ends when its run has saved.
    if references:
        ray.wait(references, num_returns=len(references))


class _NodeWatch:
    """Looks at the nodes now and then: says which are lost, and does not wait for ever for what none of them has."""

    def __init__(self, nodes: Callable[[], list[Node]], need: Need, wait_s: float | None):
        self._nodes, self._need = nodes, need
        self._at_start = 0.0 if wait_s is None else wait_s
        self._after_loss = _LOST_NODE_S if wait_s is None else wait_s
        self._known: dict[str, Node] = {}
        self._fitted = False
        self._since, self._looked = time.monotonic(), -math.inf
        self.look()

    def look(self) -> None:
        """Raises UserError where no node that can hold a run has been there for too long."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        nodes = {node.id: node for node in self._nodes()}
        for lost in self._known.keys() - nodes.keys():
            logger.warning("Node %s was lost; its runs go on elsewhere.", self._known[lost].name)
        self._known, self._looked = nodes, now
        if any(map(self._need.fits, nodes.values())):
            self._since, self._fitted = now, True
        elif now - self._since >= (self._after_loss if self._fitted else self._at_start):
            raise UserError(self._problem(list(nodes.values())))

    def _problem(self, nodes: list[Node]) -> str:
        there = "; ".join(map(str, nodes)) or "none"
        what = "any more " if self._fitted else ""
        return (
            f"A run takes {self._need}: no node of the Ray cluster has so many {what}({there}). "
            "See --cpus-per-run and --gpus-per-run, or --node-wait SECONDS for a node that is still to come."
        )
