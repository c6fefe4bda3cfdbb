"""Kills trainings, lets them go on, and compares what they leave with what a training has left that nothing stopped."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.fork_server import ForkServer, Kill, Outcome, Request
from campaign.trainings import Training, differences, remains


def console_of(place: Path) -> Path:
    """What the trainings in a place print; beside it, since the place may be full."""
    return place.with_name(f"{place.name}.console")


@dataclass(frozen=True)
class Reference:
    """A training that nothing stopped.

    Attributes:
        left: `remains` of it.
        commits: that its first process made, in order, as "replace run.json".
        seconds: that it took.
    """

    left: dict[str, Any]
    commits: list[str]
    seconds: float


@dataclass
class Campaign:
    """Trainings, kills, and what came of them.

    Attributes:
        server: that forks trainings.
        data: their data.
        folder: for all that they write.
        kills: trainings that were killed so far.
        faults: a line for each that did not go on as it should have.
    """

    server: ForkServer
    data: Path
    folder: Path
    kills: int = 0
    faults: list[str] = field(default_factory=list)
    _references: dict[str, Reference] = field(default_factory=dict)
    _count: int = 0

    def reference(self, training: Training) -> Reference:
        """The training without a kill, run once."""
        if training.name not in self._references:
            place = self.new_place()
            trace = place / "commits"
            outcome = self.run(training, place, trace=str(trace))
            assert outcome.succeeded, console_of(place).read_text()
            commits = trace.read_text().splitlines()
            self._references[training.name] = Reference(remains(place / "out"), commits, outcome.seconds)
            shutil.rmtree(place)
        return self._references[training.name]

    def resumed(self, training: Training, kill: Kill) -> list[str]:
        """Commits of the training that goes on after a kill, which is not counted."""
        place = self.new_place()
        trace = place / "commits"
        assert self.run(training, place, kill=kill).killed
        assert self.run(training, place, "--resume", trace=str(trace)).succeeded, console_of(place).read_text()
        return trace.read_text().splitlines()

    def check(self, training: Training, kills: Sequence[Kill], what: str = "") -> None:
        """Kill a training, once more for each further kill while it is gone on with, and let it end.

        Args:
            kills: one after the other; a training that ends before its kill ends them.
            what: is happening at the last one, for the message.
        """
        whole = self.reference(training)
        place = self.new_place()
        done = []
        words: tuple[str, ...] = ()
        problems: list[str] = []
        for kill in kills:
            outcome = self.run(training, place, *words, kill=kill)
            if not outcome.killed:
                problems = [] if outcome.succeeded else [f"ended with {outcome.statuses}"]
                break
            self.kills += 1
            done.append(str(kill))
            words = ("--resume",)
        if not problems:
            outcome = self.run(training, place, "--resume")
            problems = [f"ended with {outcome.statuses}"] if not outcome.succeeded else []
        if problems:
            problems.append(console_of(place).read_text()[-2000:])
        else:
            problems = differences(remains(place / "out"), whole.left)
        told = f"{training.name}: killed {', then '.join(done) or 'never'}{what and f' ({what})'}"
        print(f"{told}: {'; '.join(problems) or 'the same'}", flush=True)
        if problems:
            self.faults.append(f"{told}: {'; '.join(problems)}")
        else:
            shutil.rmtree(place)

    def new_place(self) -> Path:
        """A new folder for a run (`out`) and its caches (`cache`, `features`)."""
        self._count += 1
        place = self.folder / f"{self._count:04d}"
        place.mkdir()
        return place

    def run(
        self,
        training: Training,
        place: Path,
        *words: str,
        kill: Kill | None = None,
        trace: str | None = None,
        fault: tuple[str, str] | None = None,
    ) -> Outcome:
        """Run a training in a place; see `Request`."""
        return self.server.run(
            Request(
                words=training.words(self.data, place / "out", *words),
                console=str(console_of(place)),
                processes=training.processes,
                environment={"LORADET_CACHE": str(place / "cache")},
                kill=kill,
                trace=trace,
                fault=fault,
                folder=str(place / "out"),
            )
        )
