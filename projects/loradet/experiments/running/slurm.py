"""Runs as SLURM jobs, through submitit (`pip install -e '.[slurm]'`); also its executors without SLURM."""

import logging
import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loradet.errors import UserError
from loradet.experiments.results.folders import Result
from loradet.experiments.running.execution import execute
from loradet.experiments.running.job_shape import JobShape
from loradet.experiments.running.nodes import Nodes
from loradet.experiments.running.processes import Processes
from loradet.experiments.running.run import Launch, Run
from loradet.experiments.running.runner import failure
from loradet.experiments.running.state import inspect
from loradet.files import FileError, read_json, write_json
from loradet.training.launchers import srun_task

logger = logging.getLogger(__name__)

JOB = "job.json"  # which job works on a run folder
_MOST_TIMEOUTS = 100
_FORGOTTEN_S = 600.0


class RunJob:
    """What a job does; submitit pickles it. Preempted or out of time, it saves and is queued again."""

    def __init__(self, run: Run, launch: Launch):
        self.run, self.launch = run, launch
        self.folder = Path.cwd()

    def __call__(self) -> Result | None:
        os.chdir(self.folder)
        self._processes = Processes()
        try:
            if self.launch.nodes == 1:
                return execute(self.run, launch=self.launch, processes=self._processes)
            return self._on_several_nodes()
        except InterruptedError:
            return inspect(self.run)
        except (ValueError, OSError) as error:
            return failure(self.run, error)

    def _on_several_nodes(self) -> Result | None:
        """The first node's task carries the run out; that of another one starts its processes, and returns nothing."""
        task = srun_task()
        if task is None or task.count != self.launch.nodes:
            found = "no step of several tasks" if task is None else f"{task.count} tasks"
            raise UserError(f"The job is for {self.launch.nodes} nodes, but srun has started {found}.")
        nodes = Nodes(task, self.launch.num_gpus)
        if not nodes.is_first:
            nodes.follow(self._processes)
            return None
        try:
            return execute(self.run, launch=self.launch, processes=self._processes, nodes=nodes)
        finally:
            nodes.dismiss()

    def checkpoint(self) -> Any:
        """Called by submitit before the job is taken away."""
        from submitit.helpers import DelayedSubmission

        if (processes := getattr(self, "_processes", None)) is not None:  # else it has not begun
            processes.interrupt()
            processes.wait_for_all()
        return DelayedSubmission(RunJob(self.run, replace(self.launch, overwrite=False)))


class SubmititExecutor:
    """Submits every run as a job and waits for them; jobs of an earlier call that are still there are waited for.

    Args:
        folder: for the jobs' scripts and logs.
        launch: how each run is carried out.
        cluster: "slurm", or submitit's "local" (processes) and "debug" (this process) for trying out.
        jobs: most jobs at a time, for "slurm"; None: SLURM decides.
        parameters: submitit's own, such as `slurm_partition` or `timeout_min`; `nodes` is the machines of a run,
            `tasks_per_node`, or else `gpus_per_node`, its processes on each.
        poll_s: seconds between looks.

    Raises:
        ImportError: submitit is not installed.
        ValueError: a parameter that submitit does not know, numbers that contradict each other, or `jobs` where nothing
            keeps to it.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        launch: Launch,
        *,
        cluster: str = "slurm",
        jobs: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        poll_s: float = 5.0,
    ):
        if jobs is not None and (cluster != "slurm" or jobs < 1):
            raise UserError(f"--jobs {jobs}: expected 1 or more, with --executor local or slurm.")
        try:
            import submitit
        except ImportError as error:
            raise ImportError("Jobs need submitit: pip install -e '.[slurm]'.") from error
        shape = JobShape.of(launch, dict(parameters or {}), cluster)
        self.cluster, self.launch, self.poll_s = cluster, shape.launch(launch), poll_s
        self._folder = Path(folder)
        try:
            # Every time that it runs out of time a run has come further.
            again = {"slurm_max_num_timeout": _MOST_TIMEOUTS} if cluster == "slurm" else {}
            self._submitit = submitit.AutoExecutor(folder=self._folder, cluster=cluster, **again)
            settings = {"timeout_min": 24 * 60, **dict(parameters or {}), **shape.parameters}
            if cluster == "slurm" and jobs is not None:
                settings["slurm_array_parallelism"] = jobs
            self._submitit.update_parameters(**settings)
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise UserError(f"--executor {cluster}: {' '.join(str(error).split())}") from error

    def __call__(self, runs: Sequence[Run]) -> Generator[tuple[Run, Result], None, None]:
        waiting = {run.name: (run, self._job_of(run)) for run in runs}
        new = [run for run, job in waiting.values() if job is None]
        for run, job in zip(new, self._submit(new)):
            run.folder.mkdir(parents=True, exist_ok=True)
            if self.cluster == "slurm":
                write_json(run.folder / JOB, {"id": job.job_id, "folder": str(self._folder.absolute())})
            logger.info("%s: job %s", run.name, job.job_id)
            waiting[run.name] = (run, job)
        while waiting:
            for name, (run, job) in list(waiting.items()):
                if job.done():
                    del waiting[name]
                    yield run, self._result(run, job)
            if waiting:
                time.sleep(self.poll_s)

    def _submit(self, runs: Sequence[Run]) -> list[Any]:
        jobs = [RunJob(run, self.launch) for run in runs]
        if not jobs:
            return []
        with self._submitit.batch():
            submitted = [self._submitit.submit(job) for job in jobs]
        # Of a job on several nodes the first one's task has the result.
        return [job.task(0) for job in submitted]

    def _job_of(self, run: Run) -> Any | None:
        """The job of an earlier call that has not ended."""
        path = run.folder / JOB
        if self.cluster != "slurm" or not path.is_file():
            return None
        import submitit

        try:
            noted = read_json(path, advice="It names the job that works on the run; delete it when there is none.")
            job_folder, job_id = noted["folder"], noted["id"]
        except FileError as error:
            raise UserError(f"Entry {run.entry.id}: {error}") from error
        except KeyError as error:
            raise UserError(f"Entry {run.entry.id}: {path} lacks {error}; delete it when no job works.") from error
        job = submitit.SlurmJob(folder=job_folder, job_id=job_id)
        if job.done(force_check=True):
            return None
        # SLURM may not know a job yet that was submitted a moment ago; later it has forgotten it.
        return None if job.state == "UNKNOWN" and time.time() - path.stat().st_mtime > _FORGOTTEN_S else job

    def _result(self, run: Run, job: Any) -> Result:
        error = job.exception()
        if error is None:
            return job.result()
        try:
            found = inspect(run)
        except ValueError as broken:
            return failure(run, broken)
        return found if found.state == "finished" else failure(run, error)
