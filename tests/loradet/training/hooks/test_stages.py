"""Hooks have their turns by their stages, in whatever order they are registered."""

import random

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from loradet.training.hooks import (
    EvaluateAndKeepBest,
    KeepCheckpoints,
    LogMemory,
    ProgressBar,
    Stage,
    StopOnInterrupt,
    WriteMetrics,
    at_stage,
    by_stage,
)
from loradet.training.hooks.hub import HubUpload
from loradet.training.trainer import Trainer


class Noting(HookBase):
    def __init__(self, name, turns):
        self.name, self.turns = name, turns

    def after_step(self):
        self.turns.append(self.name)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch):  # noqa: ARG002
        return {"loss": self.weight.sum() ** 2}


def endless():
    while True:
        yield [{"image_id": 1}]


@pytest.mark.parametrize("seed", range(4))
def test_turns_follow_stages(seed):
    model, turns = Net(), []
    trainer = Trainer(model, endless(), torch.optim.SGD(model.parameters(), lr=0.1))
    hooks = [at_stage(stage, Noting(stage.name, turns)) for stage in Stage if stage is not Stage.OTHER]
    hooks += [Noting("first of no stage", turns), None, Noting("second of no stage", turns)]
    if seed:
        unstaged = iter([hook for hook in hooks if isinstance(hook, Noting) and by_stage(hook) is Stage.OTHER])
        random.Random(seed).shuffle(hooks)
        hooks = [next(unstaged) if hook is not None and by_stage(hook) is Stage.OTHER else hook for hook in hooks]
    trainer.register_hooks(hooks[:5])
    trainer.register_hooks(hooks[5:])
    trainer.train(0, 1)
    names = [stage.name for stage in Stage]
    place = names.index("OTHER")
    assert turns == [*names[:place], "first of no stage", "second of no stage", *names[place + 1 :]]


def test_what_depends_on_another_comes_after_it():
    assert LogMemory.stage < EvaluateAndKeepBest.stage < WriteMetrics.stage < KeepCheckpoints.stage < HubUpload.stage
    assert StopOnInterrupt.stage == min(Stage) and WriteMetrics.stage < ProgressBar.stage
