"""The loop that runs a model over a data set and hands inputs and outputs to evaluators."""

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from detectron2.utils.comm import get_world_size, is_main_process
from torch import nn

logger = logging.getLogger(__name__)


class DatasetEvaluator:
    """Collects what a model says about a data set and turns it into metrics.

    `reset` is called first, then `process` for each batch, and `evaluate` at the end.
    """

    def reset(self) -> None:
        """Forget what was collected."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take in a batch: the inputs of the model and its outputs, one each per image."""

    def evaluate(self) -> Mapping[str, Any] | None:
        """Compute the metrics, on the main process over all ranks.

        Returns:
            Results such as {"bbox": {"AP": 40.1}}; None or empty on the other ranks.
        """


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their results are joined."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]):
        super().__init__()
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> OrderedDict:
        """Joined results; empty on ranks other than the main one.

        Raises:
            AssertionError: two evaluators return the same key.
        """
        joined = OrderedDict()
        for evaluator in self._evaluators:
            results = evaluator.evaluate()
            if results is None or not is_main_process():
                continue
            repeated = joined.keys() & results.keys()
            if repeated:
                raise AssertionError(f"Several evaluators return {', '.join(sorted(repeated))}; keys must differ.")
            joined.update(results)
        return joined


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode, and back into the mode it had at the end."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _Stopwatch:
    """Seconds spent on data, compute and evaluation, without the first iterations, which warm up."""

    PARTS = ("data", "compute", "eval")

    def __init__(self, total: int):
        self.total = total
        self.warmup = max(0, min(5, total - 1))
        self.done = 0
        self._restart()

    def _restart(self) -> None:
        self.timed = 0
        self.start = time.perf_counter()
        self.seconds = dict.fromkeys(self.PARTS, 0.0)

    def tick(self, since: float, part: str) -> float:
        """Book the time since `since` on a part; returns now."""
        now = time.perf_counter()
        self.seconds[part] += now - since
        return now

    def finish_iteration(self) -> None:
        self.done += 1
        self.timed += 1
        if self.done == self.warmup:
            self._restart()

    def per_iteration(self) -> str:
        """Averages of the parts and of the whole, with the time that is left."""
        count = max(self.timed, 1)
        whole = (time.perf_counter() - self.start) / count
        parts = ", ".join(f"{part} {seconds / count:.4f}" for part, seconds in self.seconds.items())
        remaining = datetime.timedelta(seconds=int(whole * (self.total - self.done)))
        return f"{parts}, total {whole:.4f} s/iter; ETA {remaining}"


def inference_on_dataset(
    model: nn.Module | Callable[[Any], Any],
    data_loader: Iterable[list[dict[str, Any]]],
    evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
    callbacks: Mapping[str, Callable[[], Any]] | None = None,
) -> Mapping[str, Any]:
    """Run a model over a data loader without gradients and evaluate its outputs.

    A module is put into eval mode meanwhile. Progress is logged every few seconds, and at the end how many
    seconds went into data, compute and evaluation.

    Args:
        model: called with each batch; gives a list of outputs.
        data_loader: of known length; each rank has its share.
        evaluator: one, several, or None to run the model alone.
        callbacks: functions under "on_start", "before_inference", "after_inference", "on_end", called around
            the loop and around the model.

    Returns:
        What the evaluator returns; {} where that is None, as on ranks other than the main one.
    """
    callbacks = callbacks or {}
    if evaluator is None:
        evaluator = DatasetEvaluators([])
    elif isinstance(evaluator, (list, tuple)):
        evaluator = DatasetEvaluators(evaluator)
    evaluator.reset()
    total = len(data_loader)
    logger.info("Inference on %d batches on each of %d processes.", total, get_world_size())

    started = time.perf_counter()
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        _call(callbacks, "on_start")
        watch = _run(model, data_loader, evaluator, callbacks)
        _call(callbacks, "on_end")
    evaluated_from = time.perf_counter()
    averages = watch.per_iteration().partition(";")[0]
    results = evaluator.evaluate()
    logger.info(
        "Inference took %.1f s (%s, without %d warm-up iterations); metrics took %.1f s.",
        evaluated_from - started,
        averages,
        watch.warmup,
        time.perf_counter() - evaluated_from,
    )
    return {} if results is None else results


def _run(
    model: Callable[[Any], Any],
    data_loader: Iterable[list[dict[str, Any]]],
    evaluator: DatasetEvaluator,
    callbacks: Mapping[str, Callable[[], Any]],
) -> _Stopwatch:
    watch = _Stopwatch(len(data_loader))
    has_cuda = torch.cuda.is_available()
    last_logged = now = time.perf_counter()
    for inputs in data_loader:
        now = watch.tick(now, "data")
        _call(callbacks, "before_inference")
        outputs = model(inputs)
        if has_cuda:
            torch.cuda.synchronize()  # else the wait would be booked on the evaluator
        _call(callbacks, "after_inference")
        now = watch.tick(now, "compute")
        evaluator.process(inputs, outputs)
        now = watch.tick(now, "eval")
        watch.finish_iteration()
        if now - last_logged > 5 and watch.timed:
            logger.info("Inference %d/%d: %s", watch.done, watch.total, watch.per_iteration())
            last_logged = now
    return watch


def _call(callbacks: Mapping[str, Callable[[], Any]], name: str) -> None:
    if name in callbacks:
        callbacks[name]()
