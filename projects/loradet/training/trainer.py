"""The training loop: micro-batches, mixed precision, clipping, EMA, and a stop that all processes agree on."""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from detectron2.engine import HookBase, TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from loradet.errors import UserError
from loradet.run_folder import RunFolder
from loradet.training.batches import images_to_device
from loradet.training.checkpoints.ema import ExponentialMovingAverage
from loradet.training.checkpoints.state import History, RankState
from loradet.training.hooks.stages import by_stage
from loradet.training.memory import TrainingMemory
from loradet.wording import shorten

logger = logging.getLogger(__name__)


class NonFiniteLossError(UserError, RuntimeError):
    """A loss or the gradient became NaN or infinite on some process; the weights are those before that step."""


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
        output_dir: named in messages.
    """

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
        self._seek(start_iter)
        with EventStorage(start_iter) as self.storage, self.stream():
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
            finally:
                last = self.iter - 1
                # Hooks expect the number of the last iteration that was run.
                self.iter = max(last, start_iter)
                self.after_train()
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
            losses = self._forward_backward(batch, image_ids, errors, exchange=micro_step == self.accumulate - 1)
            for name, value in losses.items():
                sums[name] = sums[name] + value if name in sums else value
        self.images_seen += len(image_ids) * comm.get_world_size()
        self.after_backward()
        means = self._mean_losses(sums, data_time, image_ids)
        self._check_gradients()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trainable.values(), self.clip_norm, self.clip_norm_type).item()
        # The scaler skips such steps and halves its scale; below 1 it is no longer the scale that overflows.
        if not math.isfinite(norm) and (not self.scaler.is_enabled() or self.scaler.get_scale() < 1.0):
            # All processes hold the same gradient, so all of them come here.
            self._raise_non_finite([f"grad_norm={norm}"], image_ids)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update()
        self._log(means, norm)

    def _forward_backward(
        self, batch: list[dict], image_ids: list[Any], errors: list[str], *, exchange: bool
    ) -> dict[str, torch.Tensor]:
        """One micro-batch; a forward pass without finite numbers adds to `errors` and has no losses."""
        distributed = isinstance(self.model, DistributedDataParallel)
        with self.model.no_sync() if distributed and not exchange else contextlib.nullcontext():
            try:
                with self._autocast(), torch.jit.optimized_execution(False):
                    # Detectron2's focal loss is TorchScript. Optimized, its gradient is rounded in another way from the
                    # second call on, so that a resumed run, and one on the embedded Detectron2, would drift away.
                    losses = self.model(batch)
            except FloatingPointError as error:
                errors.append(str(error).rstrip("."))
                losses = {}
            # A process without losses has no backward pass, and the others would wait for its gradients for ever: so
            # all hear of it before. The host knows by itself whether it has failed, so the device is not waited for.
            if exchange and any(comm.all_gather(bool(errors))):
                self._raise_non_finite(errors, image_ids)
            if losses:
                total = sum(losses.values()) / self.accumulate
                self.scaler.scale(total).backward()
        return {name: value.detach() / self.accumulate for name, value in losses.items()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def _mean_losses(self, sums: dict[str, torch.Tensor], data_time: float, image_ids: list[Any]) -> dict[str, float]:
        """Means over processes. All of them learn here of an interrupt, and all raise for a bad loss."""
        names = sorted(sums)
        row = torch.stack([sums[name].double().reshape(()) for name in names])
        bad = (~torch.isfinite(row)).any().double()
        asked = [row.new_tensor(float(self._asked_by == number)) for number in (signal.SIGINT, signal.SIGTERM)]
        row = torch.cat([row, torch.stack([row.new_tensor(data_time), bad, *asked])])
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(row)
        values = row.tolist()
        *losses, data_time, bad_processes, interrupts, terminations = values
        if bad_processes:
            self._raise_non_finite([f"{k}={v.item()}" for k, v in sums.items() if not torch.isfinite(v)], image_ids)
        if interrupts or terminations:
            self.stop_reason = "interrupted"
            self.stop_signal = signal.SIGTERM if terminations else signal.SIGINT
        means = {name: value / comm.get_world_size() for name, value in zip(names, losses)}
        means["data_time"] = data_time / comm.get_world_size()
        return means

    def _raise_non_finite(self, found: list[str], image_ids: list[Any]) -> NoReturn:
        """A collective call; `found` is what is bad on this process."""
        reports = comm.all_gather((comm.get_rank(), found, image_ids))
        lines = [
            f"process {rank}: {', '.join(dict.fromkeys(bad))}; images of the batch: {ids}"
            for rank, bad, ids in reports
            if bad
        ]
        tag = RunFolder(self.output_dir).last
        good = self.output_dir / tag.read_text().strip() if tag.is_file() else None
        raise NonFiniteLossError(
            f"Loss or gradient is not finite at iteration {self.iter} ({'; '.join(lines)}). "
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

    def _log(self, means: dict[str, float], norm: float) -> None:
        data_time = means.pop("data_time")
        self.storage.put_scalar("data_time", data_time)
        self.storage.put_scalars(total_loss=sum(means.values()), **means)
        if math.isfinite(norm):
            self.storage.put_scalar("grad_norm", norm)
        if self.scaler.is_enabled():
            self.storage.put_scalar("grad_scale", self.scaler.get_scale())

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
        self.optimizer.load_state_dict(state["optimizer"])
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
