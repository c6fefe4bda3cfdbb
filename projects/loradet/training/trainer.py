"""The training loop: micro-batches, mixed precision, clipping, EMA, and a stop that all processes agree on."""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from detectron2.engine import HookBase, TrainerBase
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from loradet.errors import UserError, one_line
from loradet.event_storage import DeferredStorage
from loradet.run_folder import RunFolder
from loradet.training.batches import images_to_device
from loradet.training.checkpoints.ema import ExponentialMovingAverage
from loradet.training.checkpoints.state import History, RankState
from loradet.training.fused import keep_fused
from loradet.training.hooks.stages import by_stage
from loradet.training.memory import TrainingMemory
from loradet.wording import shorten

logger = logging.getLogger(__name__)


class NonFiniteLossError(UserError, RuntimeError):
    """A loss or the gradient became NaN or infinite on some process.

    The weights are those before that step where losses are read in every step; else steps may have ruined them since,
    and none of these was saved.
    """


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What is known of a step before its numbers are read.

    Attributes:
        names: of the losses.
        losses: this process's own, float64.
        data_time: seconds of waiting, the mean over processes.
    """

    iteration: int
    names: list[str]
    losses: torch.Tensor
    image_ids: list[Any]
    data_time: float


class UnusedParameterError(UserError):
    """A parameter is marked to train, but no gradient or no optimizer reaches it."""


class Trainer(TrainerBase):
    """Trains a Detectron2 model; one iteration is one optimizer step over `accumulate` micro-batches.

    The gradient of a step is the mean over its micro-batches; with DDP the processes exchange gradients in the last
    micro-batch only. Losses are logged as means over micro-batches and processes.

    Args:
        model: takes a batch (list of dicts), returns a dict of scalar losses; may be wrapped in DDP.
        data_loader: endless; with `resume_at(batch)` (see `TrainLoader`) a resumed run sees the batches to come.
        optimizer: of the trainable parameters.
        accumulate: micro-batches a step.
        amp_dtype: run the forward pass under autocast in this type. None: float32.
        clip_norm: largest gradient norm. None: no clipping, the norm is logged all the same.
        clip_norm_type: order of that norm.
        ema_decay: keep an exponential moving average of the trainable parameters. None: do not.
        read_period: read losses and the gradient's norm off the device every so many iterations, before the optimizer's
            step, and before an evaluation or a checkpoint; a loss that is not finite ends training then. What is logged
            is the same. With a gradient scaler, which reads in every step itself, it is 1.
        output_dir: named in messages.
    """

    storage: DeferredStorage

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        *,
        accumulate: int = 1,
        amp_dtype: torch.dtype | None = None,
        clip_norm: float | None = None,
        clip_norm_type: float = 2.0,
        ema_decay: float | None = None,
        read_period: int = 1,
        output_dir: str | Path = "",
    ):
        super().__init__()
        self.model = model.train()
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.accumulate = accumulate
        self.amp_dtype = amp_dtype
        self.clip_norm = math.inf if clip_norm is None else clip_norm
        self.clip_norm_type = clip_norm_type
        self.output_dir = Path(output_dir)
        self.device = next(model.parameters()).device
        self.trainable = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self._check_optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp_dtype is torch.float16)
        self.read_period = 1 if self.scaler.is_enabled() else read_period
        self.ema = None if ema_decay is None else ExponentialMovingAverage(self.module, ema_decay)
        self.stop_reason: str | None = None
        self.stop_signal: signal.Signals | None = None  # where that is "interrupted"
        self._asked_by: int | None = None
        self.history = History()
        self.images_seen = 0
        self.step_seconds = 0.0
        self.memory = TrainingMemory()
        self._rank_state = RankState()
        self._iterator: Iterator[list[dict]] | None = None
        self._gradients_checked = False
        self._last_iter: int | None = None
        self._bad: tuple[_Step, list[str]] | None = None  # the first step with a number that is not finite

    @property
    def module(self) -> nn.Module:
        """The model without its DDP wrapper."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks; all have their turns in the order of their stages (see `loradet.training.hooks.Stage`)."""
        super().register_hooks(hooks)
        self._hooks.sort(key=by_stage)

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Ask for an end after the running step, from a signal handler, say; one process that asks is enough.

        Several processes agree on it in the forward pass: asked for later in a step, the end comes after the next one.

        Args:
            number: the signal that asks, SIGINT or SIGTERM.
        """
        self._asked_by = number

    def stop(self, reason: str) -> None:
        """End training after the running step. Every process must make this call in the same step."""
        self.stop_reason = reason

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations `start_iter` … `max_iter - 1`, or fewer where a stop is asked for."""
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        self._last_iter, self._bad = max_iter - 1, None
        self._seek(start_iter)
        with DeferredStorage(start_iter) as self.storage, self.stream():
            self.history.restore(self.storage)
            self.storage.iter = start_iter
            # Last of all, so that nothing done while setting up has moved the generators.
            self._rank_state.restore(self.module)
            try:
                self.before_train()
                while self.iter < max_iter and self.stop_reason is None:
                    self.before_step()
                    begin = time.perf_counter()
                    self.run_step()
                    self.step_seconds += time.perf_counter() - begin
                    self.after_step()
                    self.iter += 1
            except BaseException:
                try:
                    self._end_loop(start_iter)
                except Exception as error:  # may well have the same cause, of which the first tells more
                    logger.warning("What ends a training has failed too: %s", one_line(error))
                raise
            self._end_loop(start_iter)

    def _end_loop(self, start_iter: int) -> None:
        last = self.iter - 1
        # Hooks expect the number of the last iteration that was run.
        self.iter = max(last, start_iter)
        try:
            self.after_train()
        finally:
            self.iter = last

    @contextlib.contextmanager
    def stream(self, batches: Iterable[list[dict]] | None = None) -> Iterator[Iterator[list[dict]]]:
        """Inside the block steps take their batches from `batches`, or from the training loader."""
        self._iterator = iter(self.data_loader if batches is None else batches)
        try:
            yield self._iterator
        finally:
            self._iterator = None

    def _seek(self, start_iter: int) -> None:
        if start_iter:
            if hasattr(self.data_loader, "resume_at"):
                self.data_loader.resume_at(start_iter * self.accumulate)
            else:
                logger.warning("This training loader cannot be replayed: the data order begins anew.")

    def run_step(self) -> None:
        """One optimizer step."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        image_ids: list[Any] = []
        errors: list[str] = []
        data_time = 0.0
        for micro_step in range(self.accumulate):
            begin = time.perf_counter()
            batch = next(self._iterator)
            data_time += time.perf_counter() - begin
            batch = images_to_device(batch, self.device)
            image_ids += [sample.get("image_id") for sample in batch]
            with self._exchange(micro_step == self.accumulate - 1):
                losses = self._forward(batch, errors)
                if micro_step == self.accumulate - 1:
                    data_time = self._agree(errors, image_ids, data_time)
                if losses:
                    self.scaler.scale(sum(losses.values()) / self.accumulate).backward()
            for name, loss in losses.items():
                value = loss.detach() / self.accumulate
                sums[name] = sums[name] + value if name in sums else value
        self.images_seen += len(image_ids) * comm.get_world_size()
        self.after_backward()
        self._check_gradients()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trainable.values(), self.clip_norm, self.clip_norm_type)
        self._note(sums, norm, image_ids, data_time)
        if (self.iter + 1) % self.read_period == 0 or self.iter == self._last_iter:
            self.check_losses()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update()
        if self.scaler.is_enabled():
            self.storage.put_scalar("grad_scale", self.scaler.get_scale())
        if comm.get_world_size() == 1:
            self._stop_if([self._asked_by])

    def check_losses(self) -> None:
        """Read what waits on the device. Every process must make this call in the same step.

        Raises:
            NonFiniteLossError: a loss or the gradient of a step was not finite, on any process; it names the first one.
        """
        self.storage.read()
        if self._bad is not None:
            step, found = self._bad
            self._raise_non_finite(step.iteration, found, step.image_ids)

    def _exchange(self, is_last: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged in the last micro-batch alone."""
        distributed = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if distributed and not is_last else contextlib.nullcontext()

    def _forward(self, batch: list[dict], errors: list[str]) -> dict[str, torch.Tensor]:
        """Losses of a micro-batch; a forward pass without finite numbers adds to `errors` and has none."""
        try:
            with self._autocast(), torch.jit.optimized_execution(False):
                # Detectron2's focal loss is TorchScript. Optimized, its gradient is rounded in another way from the
                # second call on, so that a resumed run, and one on the embedded Detectron2, would drift away.
                return self.model(batch)
        except FloatingPointError as error:
            errors.append(str(error).rstrip("."))
            return {}

    def _agree(self, errors: list[str], image_ids: list[Any], data_time: float) -> float:
        """All processes hear what the host of each knows, for which no device is waited; the mean of `data_time`.

        A process without losses has no backward pass, and the others would wait for its gradients for ever: so all hear
        of it before.
        """
        failed, asked, waits = zip(*comm.all_gather((bool(errors), self._asked_by, data_time)))
        if any(failed):
            self.check_losses()  # an earlier step has ruined the weights, it may be
            self._raise_non_finite(self.iter, errors, image_ids)
        self._stop_if(asked)
        return sum(waits) / len(waits)

    def _stop_if(self, asked: Iterable[int | None]) -> None:
        """Stop where a process was asked to, by SIGTERM where any was asked by that."""
        if numbers := set(asked) - {None}:
            self.stop_reason = "interrupted"
            self.stop_signal = signal.SIGTERM if signal.SIGTERM in numbers else signal.SIGINT

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def _note(self, sums: dict[str, torch.Tensor], norm: torch.Tensor, image_ids: list[Any], data_time: float) -> None:
        """Leave the numbers of a step on the device, losses as means over processes, until they are read."""
        names = sorted(sums)
        losses = torch.stack([sums[name].double().reshape(()) for name in names])
        bad = (~torch.isfinite(losses)).any().double()
        row = torch.cat([losses, bad[None]])
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(row)
        step = _Step(iteration=self.iter, names=names, losses=losses, image_ids=image_ids, data_time=data_time)
        row = torch.cat([row, norm.double().reshape(1).to(row.device)])
        self.storage.defer(row, lambda values: self._log(step, values))

    def _log(self, step: _Step, values: list[float]) -> None:
        """Put the numbers of a step that were read, or remember that they are bad; all processes find the same."""
        if self._bad is not None:
            return  # what comes after a bad step is of ruined weights
        *losses, bad_processes, norm = values
        if bad_processes:
            own = zip(step.names, step.losses.tolist())
            self._bad = step, [f"{name}={value}" for name, value in own if not math.isfinite(value)]
            return
        # The scaler skips such steps and halves its scale; below 1 it is no longer the scale that overflows.
        if not math.isfinite(norm) and (not self.scaler.is_enabled() or self.scaler.get_scale() < 1.0):
            self._bad = step, [f"grad_norm={norm}"]
            return
        means = {name: value / comm.get_world_size() for name, value in zip(step.names, losses)}
        numbers = {"data_time": step.data_time, "total_loss": sum(means.values()), **means}
        if math.isfinite(norm):
            numbers["grad_norm"] = norm
        for name, number in numbers.items():
            self.storage.put_scalar(name, number, cur_iter=step.iteration)

    def _raise_non_finite(self, iteration: int, found: list[str], image_ids: list[Any]) -> NoReturn:
        """A collective call; `found` is what is bad on this process."""
        reports = comm.all_gather((comm.get_rank(), found, image_ids))
        lines = [
            f"process {rank}: {', '.join(dict.fromkeys(bad))}; images of the batch: {ids}"
            for rank, bad, ids in reports
            if bad
        ]
        tag = RunFolder(self.output_dir).last
        good = self.output_dir / tag.read_text().strip() if tag.is_file() else None
        late = "" if iteration == self.iter else f"It was read at iteration {self.iter}; nothing was saved since. "
        raise NonFiniteLossError(
            f"Loss or gradient is not finite at iteration {iteration} ({'; '.join(lines)}). {late}"
            f"Last good checkpoint: {good if good else 'none was written yet'}. "
            "A lower learning rate, a longer warm-up, train.clip_grad.max_norm=1.0 or train.amp.dtype=bf16 may help."
        )

    def _check_optimizer(self) -> None:
        held = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        left_out = [name for name, parameter in self.trainable.items() if id(parameter) not in held]
        if left_out:
            raise UnusedParameterError(
                f"{len(left_out)} trainable parameters are not in the optimizer: {shorten(left_out, 8)}. Give them to "
                "it (optimizer.params), or freeze them."
            )

    def _check_gradients(self) -> None:
        if self._gradients_checked:
            return
        unused = [name for name, parameter in self.trainable.items() if parameter.grad is None]
        if unused:
            raise UnusedParameterError(
                f"{len(unused)} trainable parameters get no gradient: {shorten(unused, 8)}. Freeze them, or remove "
                "the module that nothing uses (an output of the backbone that the neck does not take, say)."
            )
        self._gradients_checked = True

    def state_dict(self) -> dict[str, Any]:
        """State beside the model. A collective call: every process must make it."""
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["grad_scaler"] = self.scaler.state_dict()
        state["ema"] = None if self.ema is None else self.ema.state_dict()
        state["history"] = History.of(self.storage).state_dict()
        state["images_seen"] = self.images_seen
        state["step_seconds"] = self.step_seconds
        state["peak_memory_mb"] = self.memory.peak_mb()
        state["ranks"] = comm.all_gather(RankState.of(self.module).state_dict())
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Counterpart of `state_dict`.

        Raises:
            ValueError: the state is of a run with other settings.
        """
        super().load_state_dict(state)
        self.optimizer.load_state_dict(keep_fused(state["optimizer"], self.optimizer))
        if state["grad_scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["grad_scaler"])
        if self.ema is not None:
            # A run that goes on with EMA for the first time averages from its present weights on.
            self.ema.load_state_dict(state["ema"]) if state["ema"] is not None else self.ema.restart()
        self.history = History(state["history"])
        self.images_seen = state["images_seen"]
        self.step_seconds = state["step_seconds"]
        self.memory.resume(state.get("peak_memory_mb", 0.0))  # checkpoints had none at first
        self._rank_state = RankState.pick(state["ranks"])
