"""Carries out a search: asks for points, watches trials, stops bad ones, and notes how each ends."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from loradet.errors import is_user_error, one_line
from loradet.experiments.results.folders import Result
from loradet.experiments.running.run import Run
from loradet.experiments.running.runner import Executor
from loradet.experiments.search.asker import Asker
from loradet.experiments.search.runs import TrialRuns
from loradet.experiments.search.slots import RunError, Slots
from loradet.experiments.search.space import shown
from loradet.experiments.search.state import Objective
from loradet.experiments.search.trial import DIVERGED, FAILED, FINISHED, OPEN, PRUNED, Trial, write_trial
from loradet.files import FileError
from loradet.run_folder import RunFolder
from loradet.training.folder.metrics_log import read_lines

logger = logging.getLogger(__name__)

MOST_FAILURES = 2  # of one trial, which is given up then
_IN_A_ROW = 3  # trials that fail before any finishes: it is not the point that is wrong


@dataclass
class _Running:
    """A trial on its way."""

    trial: Trial
    run: Run
    seen: float = 0.0  # when its metrics file had changed last
    is_stopped: bool = False


class Searching:
    """One session of a search, under the lock of its folder.

    Args:
        runs: of the search's trials.
        objective: what trials are compared by.
        trials: that there are; what comes is added.
        executors: one a slot.
        outlive: runs go on without this process, as jobs of SLURM do.
        poll_s: seconds between looks at the metrics of running trials.
    """

    def __init__(
        self,
        runs: TrialRuns,
        objective: Objective,
        trials: list[Trial],
        executors: Sequence[Executor],
        *,
        outlive: bool = False,
        poll_s: float = 1.0,
    ):
        self.runs, self.objective, self.trials = runs, objective, trials
        self.search, self.folder = runs.search, runs.folder
        self.outlive, self.poll_s = outlive, poll_s
        self._asker = Asker(runs.search, objective.mode, trials)
        self._slots = Slots(executors)
        self._running: dict[str, _Running] = {}
        self._waiting = [trial for trial in trials if trial.state == OPEN]
        self._failed_in_a_row = 0
        self._warned = False

    def carry_out(self) -> None:
        """Bring all trials to an end.

        Raises:
            KeyboardInterrupt: what runs has saved, where its executor can do that.
        """
        try:
            while self._fill() or self._running:
                self._step()
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        if self.outlive or not self._running:
            return
        if not self._slots.interrupt():
            for running in self._running.values():
                RunFolder(running.run.folder).stop.touch()
        logger.info("Waiting for %d trials to save.", len(self._running))
        while self._running:
            try:
                self._step()
            except Exception as error:
                logger.error("While the others save: %s", one_line(error))

    def _step(self) -> None:
        try:
            ended = self._slots.wait(self.poll_s)
        except RunError as error:
            self._running.pop(error.name)
            assert error.__cause__ is not None
            raise error.__cause__ from None
        if ended is not None:
            self._end(self._running.pop(ended[0].name), ended[1])
        for running in self._running.values():
            with contextlib.suppress(FileError):  # of a broken file the run's end tells
                self._look(running)

    def _fill(self) -> bool:
        """Begin as many trials as there is room for; whether any began."""
        began = False
        while self._slots.is_free and self._failed_in_a_row < _IN_A_ROW and (trial := self._next()) is not None:
            try:
                run = self.runs.run(trial)
            except (ValueError, OSError) as error:
                if not is_user_error(error):
                    raise
                self._fail(trial, one_line(error))
                continue
            logger.info("%s: %s", trial.run, _described(trial))
            self._running[run.name] = _Running(trial, run)
            RunFolder(run.folder).stop.unlink(missing_ok=True)  # of a session that was killed
            self._slots.start(run)
            began = True
        return began

    def _next(self) -> Trial | None:
        if self._waiting:
            return self._waiting.pop(0)
        if len(self.trials) >= self.search.trials:
            return None
        number = self.trials[-1].number + 1 if self.trials else 0
        trial = self.runs.new_trial(number, self._asker.ask(number))
        self.trials.append(trial)
        write_trial(self.folder, trial)
        return trial

    def _look(self, running: _Running, *, judge: bool = True) -> None:
        """Read what a trial has been evaluated to since; ask it to stop where that is bad."""
        file = RunFolder(running.run.folder).metrics
        with contextlib.suppress(OSError):
            changed = file.stat().st_mtime
            if changed == running.seen:
                return
            running.seen = changed
            self._report(running, self.objective.evaluations(read_lines(file)), judge=judge)

    def _report(self, running: _Running, values: Sequence[float], *, judge: bool) -> None:
        trial = running.trial
        known = len(trial.evaluations)
        if not values[known:]:
            return  # none is new; a run that goes on from a checkpoint has lost some
        trial.evaluations = list(values)
        for number in range(known + 1, len(values) + 1):
            bad = self._asker.report(trial.number, number, values[number - 1])
            if bad and judge and not running.is_stopped:
                # Noted at once: it is not gone on with, should this process be killed now.
                running.is_stopped = True
                trial.state, trial.detail = PRUNED, f"stopped after evaluation {number}"
                RunFolder(running.run.folder).stop.touch()
                logger.info(
                    "%s: %s %s at evaluation %d; stopping it.",
                    trial.run,
                    self.objective.metric,
                    shown(values[number - 1]),
                    number,
                )
        write_trial(self.folder, trial)

    def _end(self, running: _Running, result: Result) -> None:
        trial = running.trial
        with contextlib.suppress(FileError):  # the result says what it is
            self._look(running, judge=False)
        RunFolder(running.run.folder).stop.unlink(missing_ok=True)
        value = self.objective.value(result.record) if result.state == "finished" else None
        if value is not None:
            self._close(trial, FINISHED, value=value)
        elif running.is_stopped:
            self._close(trial, PRUNED, detail=trial.detail)
        elif result.state in ("interrupted", "missing"):
            trial.detail = result.detail  # it goes on next time
            write_trial(self.folder, trial)
        elif result.state == "failed" and str(result.record.get("error")).startswith("NonFiniteLossError"):
            self._close(trial, DIVERGED, detail=result.detail)
        else:
            self._fail(trial, result.detail or f"{self.objective.metric} is not a number")
        self._warn_of_few_evaluations(trial)

    def _fail(self, trial: Trial, why: str) -> None:
        trial.failures += 1
        self._failed_in_a_row += 1
        if trial.failures >= MOST_FAILURES:
            self._close(trial, FAILED, detail=why)
        else:
            trial.detail = why
            write_trial(self.folder, trial)
            logger.warning("%s: failed (%s); the same command tries it once more.", trial.run, why)
        if self._failed_in_a_row >= _IN_A_ROW:
            logger.warning("%d trials have failed one after the other: no more is begun.", _IN_A_ROW)

    def _close(self, trial: Trial, state: str, *, value: float | None = None, detail: str = "") -> None:
        trial.state, trial.value, trial.detail = state, value, detail
        self._failed_in_a_row = self._failed_in_a_row if state == FAILED else 0
        write_trial(self.folder, trial)
        self._asker.tell(trial)
        told = "" if value is None else f", {self.objective.metric} {shown(value)}"
        best = self.objective.best(self.trials)
        if best is not None:
            told += f"; best so far {shown(best.value)} ({best.run})"
        done = sum(one.state != OPEN for one in self.trials)
        logger.info("%s: %s%s  [%d/%d]", trial.run, state, told, done, max(self.search.trials, len(self.trials)))

    def _warn_of_few_evaluations(self, trial: Trial) -> None:
        if self.search.prune is None or self._warned or trial.state != FINISHED or len(trial.evaluations) > 1:
            return
        self._warned = True
        logger.warning(
            "%s was evaluated once, at its end, so that no trial can be stopped before: lower train.eval_period.",
            trial.run,
        )


def _described(trial: Trial) -> str:
    return ", ".join(f"{key}={shown(value)}" for key, value in trial.point.items())
