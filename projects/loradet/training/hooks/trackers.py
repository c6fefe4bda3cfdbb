"""Writers that report a run to a tracking service beside TensorBoard: Trackio, Weights & Biases."""

import contextlib
import logging
import os
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import numpy as np
from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import DictConfig, OmegaConf

from loradet.config.flattening import flatten
from loradet.errors import UserError

logger = logging.getLogger(__name__)


class RunWriter(EventWriter):
    """An event writer that reports one run: its config at the start, its scalars, and how it ended.

    A subclass says how to reach its service, by `_start`, `_log` and `_finish`. A service that fails once training
    has begun is told of in the log, once, and does not stop training.

    Args:
        project: the project that the run belongs to.
        name: the run's name in it; None: the name of the run's folder.
        window_size: iterations of the median that is taken of losses, as in `metrics.json`.
    """

    KEY = ""  # of its settings below `train`

    def __init__(self, *, project: str, name: str | None = None, window_size: int = 20):
        self.project = project
        self.name = name
        self.run_id: str | None = None
        self.folder = Path()
        self._window_size = window_size
        self._last_write = -1
        self._started = False
        self._has_failed = False

    def start(
        self, config: dict[str, Any], folder: Path, *, start_iter: int = 0, past: Mapping[str, str | None] | None = None
    ) -> None:
        """Open the run.

        Args:
            config: dotted key -> plain value.
            folder: of the run.
            start_iter: the first iteration that is to come; earlier ones are not written again.
            past: the `identity` of the writers of an earlier part of a resumed run; without one a new run begins.

        Raises:
            ValueError: the service does not take the run.
        """
        self.folder = folder
        self._last_write = start_iter - 1
        name = self.name or folder.resolve().name
        try:
            self._start(name, config, past or {})
        except Exception as error:
            raise UserError(
                f"train.{self.KEY}: run {name!r} of project {self.project!r} cannot be opened: "
                f"{type(error).__name__}: {error}"
            ) from error
        self._started = True

    @property
    def identity(self) -> dict[str, str | None]:
        """What tells the run from others in its service, for the run's record: its id by `KEY`, and more."""
        return {self.KEY: self.run_id}

    def write(self) -> None:
        """Report what is new in the event storage since the last call."""
        new: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                new[iteration][name] = value
        for iteration in sorted(new):
            self._last_write = iteration
            with self._told_once():
                self._log(new[iteration], iteration)

    def write_pictures(self, pictures: Mapping[str, np.ndarray], iteration: int) -> None:
        """Report RGB uint8 pictures (H, W, 3) of an iteration, by name."""
        if pictures and iteration > self._last_write:
            with self._told_once():
                self._log_pictures(pictures, iteration)

    def finish(self, status: str, error: str | None = None) -> None:
        """Close the run; the end of the training loop does not, as an evaluation follows.

        Args:
            status: "finished", "interrupted" or "failed".
            error: why it failed.
        """
        if self._started:
            with self._told_once():
                self._finish(status, error)
            self._started = False

    @contextlib.contextmanager
    def _told_once(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._has_failed:
                logger.warning(
                    "%s fails (%s: %s); training goes on, metrics.json and TensorBoard have all.",
                    type(self).__name__,
                    type(error).__name__,
                    error,
                )
            self._has_failed = True

    @abstractmethod
    def _start(self, name: str, config: dict[str, Any], past: Mapping[str, str | None]) -> None:
        """Open the run and set `run_id`; where it goes on, raise `_last_write` to what the service has."""

    @abstractmethod
    def _log(self, scalars: dict[str, float], iteration: int) -> None:
        """Report the scalars of an iteration."""

    @abstractmethod
    def _log_pictures(self, pictures: Mapping[str, np.ndarray], iteration: int) -> None:
        """Report the pictures of an iteration, whose scalars follow."""

    @abstractmethod
    def _finish(self, status: str, error: str | None) -> None:
        """Report the end, and wait until all is sent."""


class TrackioWriter(RunWriter):
    """Reports to Trackio: by default to its database on this machine, without any network.

    Args:
        project, name: see `RunWriter`.
        space_id: a Hugging Face Space, as "user/space", to report to instead; it is made where there is none.
        private: whether a Space that is made is private.

    Raises:
        ImportError: trackio is not installed.
    """

    KEY = "trackio"
    _NAME = "trackio_name"

    def __init__(self, *, project: str, name: str | None = None, space_id: str | None = None, private: bool = True):
        super().__init__(project=project, name=name)
        self.space_id = space_id
        self.private = private
        self._trackio = _import("trackio")
        self._run: Any = None

    @property
    def identity(self) -> dict[str, str | None]:
        """The run's id and its name, by which Trackio looks for it."""
        return {self.KEY: self.run_id, self._NAME: None if self._run is None else self._run.name}

    def _start(self, name: str, config: dict[str, Any], past: Mapping[str, str | None]) -> None:
        remote = self.space_id or os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
        past_id = past.get(self.KEY)
        with contextlib.nullcontext() if remote else _hub_offline():
            if past_id is not None and not self._go_on(past_id, past.get(self._NAME), config, bool(remote)):
                logger.warning(
                    "train.trackio: project %r has no run with the id %s, of which the earlier part is: a new run "
                    "begins there.",
                    *(self.project, past_id),
                )
                past_id = None
            if past_id is None:
                self._run = self._init(name, config, "never")
        self.run_id = self._run.id
        if past_id is None:
            # Trackio keeps the config with the first values: so it has it even if no iteration succeeds.
            self._run.log({}, step=0)
        elif not remote:
            # A run that was killed had reported more than its last checkpoint has.
            last = self._storage.get_max_step_for_run(self.project, self._run.name, run_id=self._run.id)
            self._last_write = max(self._last_write, -1 if last is None else last)

    def _init(self, name: str, config: dict[str, Any], resume: str) -> Any:
        return self._trackio.init(
            project=self.project,
            name=name,
            space_id=self.space_id,
            private=self.private if self.space_id else None,
            config=config,
            resume=resume,
            embed=False,
        )

    @property
    def _storage(self) -> Any:
        return self._trackio.sqlite_storage.SQLiteStorage

    def _go_on(self, past_id: str, past_name: str | None, config: dict[str, Any], remote: bool) -> bool:
        """Open the run of an earlier part; False where it cannot be told from others, or is gone."""
        name = past_name if remote else self._own_name(past_id)
        if name is None:
            return False
        self._run = self._init(name, config, "allow")
        # Runs that older versions began were noted by name.
        if past_id in (self._run.id, name):
            return True
        self._run.finish()
        return False

    def _own_name(self, past_id: str) -> str | None:
        """A name by which Trackio finds the run with an id on this machine; None where there is no such run.

        Of runs with one name it takes the newest, so an older one gets a name of its own.
        """
        runs = list(self._trackio.Api().runs(self.project)) if self.project in self._storage.get_projects() else []
        found = [run for run in runs if run.id == past_id] or [run for run in runs if run.name == past_id]
        if len(found) != 1:
            return None
        (own,) = found
        if self._storage.get_latest_run_record_by_name(self.project, own.name)["id"] != own.id:
            renamed = f"{own.name}-{own.id[:6]}"
            logger.warning(
                "train.trackio: project %r has a newer run that is called %r too; the one that goes on is called %r "
                "from now on.",
                *(self.project, own.name, renamed),
            )
            own.rename(renamed)
        return own.name

    def _log(self, scalars: dict[str, float], iteration: int) -> None:
        # "time" is trackio's own.
        self._run.log({"iter_time" if k == "time" else k: v for k, v in scalars.items()}, step=iteration)

    def _log_pictures(self, pictures: Mapping[str, np.ndarray], iteration: int) -> None:
        self._run.log({name: self._trackio.Image(picture) for name, picture in pictures.items()}, step=iteration)

    def _finish(self, status: str, error: str | None) -> None:
        if status != "finished":
            level = self._trackio.AlertLevel.ERROR if status == "failed" else self._trackio.AlertLevel.WARN
            self._run.alert(title=f"Run {status}", text=error, level=level)
        self._trackio.finish()


@contextlib.contextmanager
def _hub_offline() -> Iterator[None]:
    """Keep huggingface_hub from the network: Trackio asks it for the name of a logged-in user, also for a local run."""
    constants = huggingface_hub.constants
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


class WandbWriter(RunWriter):
    """Reports to Weights & Biases; its files go into `wandb/` in the run's folder.

    Args:
        project, name: see `RunWriter`.
        entity: the user or team that the project belongs to; None: the one that is logged in.
        mode: "online", "offline" or "disabled"; None: as the environment (`WANDB_MODE`) says, online without.

    Raises:
        ImportError: wandb is not installed.
    """

    KEY = "wandb"

    def __init__(self, *, project: str, name: str | None = None, entity: str | None = None, mode: str | None = None):
        super().__init__(project=project, name=name)
        self.entity = entity
        self.mode = mode
        self._wandb = _import("wandb")
        self._run: Any = None

    def _start(self, name: str, config: dict[str, Any], past: Mapping[str, str | None]) -> None:
        run_id = past.get(self.KEY)
        self._run = self._wandb.init(
            project=self.project,
            entity=self.entity,
            name=name,
            id=run_id,
            resume="allow" if run_id else None,
            mode=self.mode,
            config=config,
            dir=str(self.folder),
        )
        self.run_id = self._run.id
        if run_id is not None:
            # 0 offline, where the service's history is out of reach.
            self._last_write = max(self._last_write, self._run.step - 1)

    def _log(self, scalars: dict[str, float], iteration: int) -> None:
        self._run.log(scalars, step=iteration)

    def _log_pictures(self, pictures: Mapping[str, np.ndarray], iteration: int) -> None:
        self._run.log({name: self._wandb.Image(picture) for name, picture in pictures.items()}, step=iteration)

    def _finish(self, status: str, error: str | None) -> None:
        self._run.summary["status"] = status
        if error is not None:
            self._run.summary["error"] = error
        self._run.finish(exit_code=0 if status == "finished" else 1)


def _import(package: str) -> ModuleType:
    try:
        return import_module(package)
    except ImportError as error:
        found = "is not installed" if error.name == package else f"cannot be imported ({error})"
        raise ImportError(
            f"train.{package}.project is set, but {package} {found}: pip install -e '.[{package}]', or set "
            f"train.{package}.project=null."
        ) from error


def run_writers(train: DictConfig) -> list[RunWriter]:
    """The writers that `cfg.train` asks for, not started.

    Raises:
        ImportError: the package of one is not installed; the message says how to get it.
    """
    return [
        writer(**settings)
        for writer, settings in ((TrackioWriter, train.trackio), (WandbWriter, train.wandb))
        if settings.project is not None
    ]


def flat_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as dotted key -> plain value; functions and classes by their names."""
    return flatten(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False), leaf=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{name}" if name else repr(value)
