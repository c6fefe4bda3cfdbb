"""When hooks have their turn."""

from enum import IntEnum

from detectron2.engine import HookBase


class Stage(IntEnum):
    """When a hook has its turn, within each of the events of training."""

    INTERRUPT = 0
    TIME = 1
    RATE = 2
    MEASURE = 3  # whatever puts a number: before the evaluation, which writes the iteration's line
    EVALUATE = 4
    OTHER = 5  # hooks that do not say
    WRITE = 6
    # After the evaluation, so that a checkpoint knows the best metric of its own iteration; after the iteration's line
    # is on disk, so that a run that is killed and goes on from there has it.
    SAVE = 7
    SHOW = 8
    UPLOAD = 9


def at_stage(stage: Stage, hook: HookBase) -> HookBase:
    """Detectron2's hook, which has no stage of its own."""
    vars(hook)["stage"] = stage  # its class knows of none
    return hook


def by_stage(hook: HookBase) -> Stage:
    """Key to order hooks by."""
    return getattr(hook, "stage", Stage.OTHER)
