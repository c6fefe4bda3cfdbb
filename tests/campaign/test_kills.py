"""A training that is killed at any moment goes on to the end that it would have had, bit for bit."""

import random

import pytest

from campaign.fork_server import Kill
from campaign.killing import Campaign
from campaign.trainings import TRAININGS, Training

SINGLE = TRAININGS[0]
RANDOM_KILLS = 2  # of each training, twice at a time; as many at a commit


def test_a_training_that_is_killed_at_a_commit_goes_on(campaign: Campaign) -> None:
    short = Training("short", settings=("train.max_iter=3", "train.eval_splits=[val]"))
    number = campaign.reference(short).commits.index("unlink model_0000001.pth")
    before = campaign.kills
    campaign.check(short, [Kill(number, "before")])
    assert campaign.kills == before + 1
    assert not campaign.faults


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_commit(campaign: Campaign, faults: list[str], when: str) -> None:  # noqa: ARG001 (fails at its end)
    for number, commit in enumerate(campaign.reference(SINGLE).commits):
        campaign.check(SINGLE, [Kill(number, when)], commit)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["replace last_checkpoint", "fsync metrics.json"])
def test_every_commit_of_a_training_that_goes_on(
    campaign: Campaign,
    faults: list[str],  # noqa: ARG001
    first: str,
) -> None:
    """Killed after its first checkpoint, or before it; and once more while it takes over what the kill has left."""
    begin = Kill(campaign.reference(SINGLE).commits.index(first), "after")
    for number, commit in enumerate(campaign.resumed(SINGLE, begin)):
        campaign.check(SINGLE, [begin, Kill(number, "before")], commit)
        if commit == "replace model_best.pth":  # what follows is as in a first training
            break


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.name)
def test_random_kills(campaign: Campaign, faults: list[str], seed: int, training: Training) -> None:  # noqa: ARG001
    draw = random.Random(f"{seed} {training.name}")
    whole = campaign.reference(training)
    for _ in range(RANDOM_KILLS):
        kill = Kill(after_s=draw.uniform(0.0, 0.95 * whole.seconds), rank=draw.randrange(training.processes))
        campaign.check(training, [kill, Kill(after_s=draw.uniform(0.0, 0.95 * whole.seconds))])
        number, when = draw.randrange(len(whole.commits)), draw.choice(["before", "after"])
        campaign.check(training, [Kill(number, when)], whole.commits[number])
