"""The training loop and the hooks' contract."""

import logging
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine.async_metrics import MetricsThread
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]

logger = logging.getLogger(__name__)


class HookBase:
    """What happens around a training step; a trainer calls its hooks in the order of registration.

    `self.trainer` is the trainer (a weak reference), with `iter`, `start_iter`, `max_iter` and `storage`. In
    `after_train`, `iter` is `max_iter` if training came to its end.
    """

    trainer: "TrainerBase" = None

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last iteration, also when it failed."""

    def before_step(self) -> None:
        """Before an iteration."""

    def after_backward(self) -> None:
        """Between the backward pass and the optimizer's step."""

    def after_step(self) -> None:
        """After an iteration; `iter` is still its number."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this hook; one with content comes back through `load_state_dict`."""
        return {}


class TrainerBase:
    """Runs iterations `start_iter` to `max_iter - 1` with hooks; `run_step` of a subclass is one of them."""

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks behind those that there are; None stands for no hook."""
        for hook in hooks:
            if hook is None:
                continue
            assert isinstance(hook, HookBase), f"A hook is a HookBase, but this one is {type(hook).__name__}."
            # A hook must not keep its trainer, and with it model and data, alive.
            hook.trainer = weakref.proxy(self)
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the loop.

        Args:
            start_iter: first iteration.
            max_iter: the one that is not run any more.
        """
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for iteration in range(start_iter, max_iter):
                    self.iter = iteration
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter = max(start_iter, max_iter)
            except Exception:
                logger.exception("Training stopped by an error in iteration %d", self.iter)
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        """Call the hooks."""
        self._call_hooks("before_train")

    def after_train(self) -> None:
        """Call the hooks."""
        self.storage.iter = self.iter
        self._call_hooks("after_train")

    def before_step(self) -> None:
        """Set the storage to this iteration and call the hooks."""
        self.storage.iter = self.iter
        self._call_hooks("before_step")

    def after_backward(self) -> None:
        """Call the hooks; `run_step` does this between its backward pass and its optimizer's step."""
        self._call_hooks("after_backward")

    def after_step(self) -> None:
        """Call the hooks."""
        self._call_hooks("after_step")

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError(f"{type(self).__name__} must define run_step().")

    def _call_hooks(self, event: str) -> None:
        for hook in self._hooks:
            getattr(hook, event)()

    def state_dict(self) -> dict[str, Any]:
        """The iteration, and the states of those hooks that have one, by class name."""
        state: dict[str, Any] = {"iteration": self.iter}
        hooks: dict[str, Any] = {}
        for hook in self._hooks:
            if content := hook.state_dict():
                # Of several hooks of one class the first is kept: there is no name to tell them apart.
                hooks.setdefault(type(hook).__qualname__, content)
        if hooks:
            state["hooks"] = hooks
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Counterpart of `state_dict`; for a hook that this trainer lacks there is a warning."""
        self.iter = state_dict["iteration"]
        for name, content in state_dict.get("hooks", {}).items():
            hook = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None:
                logger.warning("The checkpoint has a state of a hook %s, which this trainer does not use.", name)
            else:
                hook.load_state_dict(content)


class SimpleTrainer(TrainerBase):
    """One loss, one optimizer, one data loader: an iteration is a forward pass, a backward pass and a step.

    A loss that is not finite stops all processes in the same iteration, before the optimizer's step (with
    `async_write_metrics` before the next one, or at the end of the last iteration).

    Args:
        model: takes a batch, returns a loss or a dict of losses (scalars), whose sum is minimized.
        data_loader: iterable of batches; it should not end before training does.
        optimizer: of the model's parameters.
        gather_metric_period: collect losses from all processes every so many iterations.
        zero_grad_before_forward: clear gradients before the forward pass instead of after it.
        async_write_metrics: fetch the losses from the device, and from the other processes, in a thread, so
            that an iteration does not wait for it. The numbers are the same.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ):
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self._metrics_thread = MetricsThread()
        self._iterator: Iterator | None = None

    @property
    def _data_loader_iter(self) -> Iterator:
        # Made at first use: worker processes should not start before training does.
        if self._iterator is None:
            self._iterator = iter(self.data_loader)
        return self._iterator

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Let go of the data loader, then build another one."""
        del self.data_loader
        self._iterator = None
        self.data_loader = data_loader_builder()

    def run_step(self) -> None:
        """One iteration."""
        data, data_time = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses, loss_dict = self._forward(data)
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses.backward()
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.optimizer.step()

    def _next_batch(self) -> tuple[Any, float]:
        assert self.model.training, (
            f"{type(self).__name__}: the model is in eval mode; a hook should call model.train()."
        )
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        return data, time.perf_counter() - start

    def _forward(self, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = self.model(data)
        if isinstance(output, torch.Tensor):
            return output, {"total_loss": output}
        return sum(output.values()), output

    def _write_metrics(
        self,
        loss_dict: Mapping[str, torch.Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,
    ) -> None:
        iteration = self.iter if iter is None else iter
        if (iteration + 1) % self.gather_metric_period != 0:
            return
        if not self.async_write_metrics:
            self.write_metrics(loss_dict, data_time, iteration, prefix)
            return
        group = self._metrics_thread.group()
        self._metrics_thread.start(
            get_event_storage(), lambda: _gather_metrics(loss_dict, data_time, iteration, prefix, group)
        )

    def after_step(self) -> None:
        """Call the hooks; the last iteration ends with its losses known."""
        if self.iter + 1 == self.max_iter:
            self._metrics_thread.wait()
        super().after_step()

    def after_train(self) -> None:
        """Call the hooks."""
        error = self._metrics_thread.close()
        if error is not None:
            # Training stopped by another error, which is on its way.
            logger.error("The losses of the last iteration could not be written.", exc_info=error)
        super().after_train()

    @staticmethod
    def write_metrics(
        loss_dict: Mapping[str, torch.Tensor],
        data_time: float,
        cur_iter: int,
        prefix: str = "",
    ) -> None:
        """Put the means of the losses over all processes, which all must call this, into the event storage.

        Args:
            loss_dict: scalars; the same keys on all processes.
            data_time: seconds this process waited for its batch; the longest wait is kept.
            cur_iter: iteration.
            prefix: put before the name `total_loss`.

        Raises:
            FloatingPointError: the sum is not finite; on every process.
        """
        _gather_metrics(loss_dict, data_time, cur_iter, prefix)(get_event_storage())

    def state_dict(self) -> dict[str, Any]:
        """The base class's, and the optimizer's."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Counterpart of `state_dict`."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


def _gather_metrics(
    loss_dict: Mapping[str, torch.Tensor],
    data_time: float,
    cur_iter: int,
    prefix: str,
    group: dist.ProcessGroup | None = None,
) -> Callable[[EventStorage], None]:
    """Fetch the numbers of all processes; what comes back puts them into a storage."""
    own = {name: value.detach().float().cpu().item() for name, value in loss_dict.items()}
    # To all, not to rank 0 alone: a bad loss then stops every process, and none is left waiting.
    gathered = comm.all_gather((own, data_time), group)
    means = {name: sum(losses[name] for losses, _ in gathered) / len(gathered) for name in own}
    total = sum(means.values())
    if not math.isfinite(total):
        bad = "; ".join(
            f"process {rank}: {losses}"
            for rank, (losses, _) in enumerate(gathered)
            if not math.isfinite(sum(losses.values()))
        )
        raise FloatingPointError(f"Loss became infinite or NaN in iteration {cur_iter} ({bad}).")
    numbers = {"rank_data_time": data_time}
    if comm.is_main_process():
        numbers |= {"data_time": max(wait for _, wait in gathered), f"{prefix}total_loss": total}
        if len(means) > 1:
            numbers |= means

    def put(storage: EventStorage) -> None:
        storage.put_scalars(cur_iter=cur_iter, **numbers)

    return put


class AMPTrainer(SimpleTrainer):
    """SimpleTrainer in mixed precision.

    Args:
        model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics: as
            in SimpleTrainer.
        grad_scaler: default: a GradScaler, which is active for float16 only, the type that needs one.
        precision: type of the forward pass under autocast.
        log_grad_scaler: put its scale as `[metric]grad_scaler` into the event storage.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ):
        if isinstance(model, DistributedDataParallel):
            several_devices = model.device_ids and len(model.device_ids) > 1
        else:
            several_devices = isinstance(model, DataParallel)
        assert not several_devices, "AMPTrainer takes a model on one device; use a process for each GPU."
        super().__init__(
            model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics
        )
        self._device_type = next(model.parameters()).device.type
        if grad_scaler is None:
            grad_scaler = torch.amp.GradScaler(self._device_type, enabled=precision == torch.float16)
        self.grad_scaler = grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def run_step(self) -> None:
        """One iteration."""
        data, data_time = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        with torch.autocast(self._device_type, dtype=self.precision):
            losses, loss_dict = self._forward(data)
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self.grad_scaler.scale(losses).backward()
        if self.log_grad_scaler:
            self.storage.put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The base class's, and the scaler's: of one that does nothing, the state that a working one begins with.

        An installed Detectron2 scales bfloat16 too, and could not go on from an empty state.
        """
        scaler_state = self.grad_scaler.state_dict() or torch.amp.GradScaler("cpu").state_dict()
        return {**super().state_dict(), "grad_scaler": scaler_state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Counterpart of `state_dict`."""
        super().load_state_dict(state_dict)
        scaler_state = state_dict["grad_scaler"]
        if scaler_state or not self.grad_scaler.is_enabled():
            self.grad_scaler.load_state_dict(scaler_state)
        else:
            logger.warning("The checkpoint was trained without gradient scaling: the scaler starts anew.")
