"""What a search is, read from one file and checked against the config that it begins from."""

import copy
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loradet.config import load_config
from loradet.config.library import LIBRARY
from loradet.config.load import complete
from loradet.config.overrides import check_overrides
from loradet.errors import MissingFileError, UserError, one_line
from loradet.experiments.search.space import Space, read_space
from loradet.experiments.study.definition import Entry, Scenes, Study

FILE = "search.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SAMPLERS = ("tpe", "random")
# What decides which weights and trials are best is not to be searched for.
_FIXED = ("train.best", "train.eval_splits", "train.seed", "train.output_dir", "train.smoke")


@dataclass(frozen=True, kw_only=True)
class Prune:
    """When a trial is stopped: its best evaluation so far lies below that of others at the same number of evaluations.

    Attributes:
        percentile: of the others' best so far, that a trial has to reach; 50: their median.
        startup_trials: so many finish before any is stopped.
        warmup_evaluations: so many of a trial's own pass before it may be stopped.
    """

    percentile: float = 50.0
    startup_trials: int = 4
    warmup_evaluations: int = 0


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search over values of a config.

    Attributes:
        name: its runs lie in `<work_dirs>/<name>_search/`.
        config: LazyConfig file that every trial begins from.
        space: what varies.
        overrides: `KEY=VALUE` words that all trials share.
        trials: how many.
        splits: evaluated at the end of a trial; trials are compared by the first.
        seed: of every training, and of the sampler.
        sampler: "tpe" (learns from the trials before) or "random".
        prune: when bad trials are stopped; None: never.
        scenes: synthetic data to train on, where the config has none of its own.
        path: of the file.
    """

    name: str
    config: str
    space: Space
    title: str = ""
    overrides: tuple[str, ...] = ()
    trials: int = 20
    splits: tuple[str, ...] = ("val",)
    seed: int = 0
    sampler: str = "tpe"
    prune: Prune | None = Prune()
    scenes: Scenes | None = None
    path: str = ""

    def entry(self, number: int, words: list[str]) -> Entry:
        """Trial `number` as an entry of a study, with the overrides of its point."""
        return Entry(
            id=f"trial_{number:03d}",
            title=f"trial {number}",
            objective=", ".join(words) or "the config as it is",
            config=self.config,
            overrides=(*self.overrides, *words),
            seeds=(self.seed,),
            splits=self.splits,
        )

    def study(self, *entries: Entry) -> Study:
        """A study of some trials."""
        return Study(name=self.name, title=self.title or f"Search {self.name}", entries=entries, scenes=self.scenes)

    def base_config(self) -> DictConfig:
        """The config that trials begin from, as far as it is the same in all of them."""
        shared = [f"train.seed={self.seed}", f"train.eval_splits=[{','.join(self.splits)}]"]
        return load_config(self.config, [*self.overrides, *shared])


def load_search(path: Path) -> Search:
    """Read a search file, or `search.yaml` in a folder (here, or among the project's own), and check it.

    Raises:
        MissingFileError: it, or its config, is not there.
        UserError: a key or value that a search does not have, or a key, a value or a setting that its config refuses.
    """
    inside = path.relative_to("configs") if path.is_relative_to("configs") else path
    path = path if path.exists() or not (LIBRARY / inside).exists() else LIBRARY / inside
    file = path / FILE if path.is_dir() else path
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"No search at {file}; expected a YAML file with name, config and space.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
    search = _from_plain(content, file)
    _check(search)
    return search


def _from_plain(content: Any, file: Path) -> Search:
    known = [one.name for one in dataclasses.fields(Search) if one.name != "path"]
    if not isinstance(content, dict) or any(key not in content for key in ("name", "config", "space")):
        raise UserError(f"{file}: expected name, config and space.")
    if unknown := [key for key in content if key not in known]:
        raise UserError(f"{file}: there is no {unknown[0]!r}; expected {', '.join(known)}.")
    values = dict(content)
    values["space"] = read_space(values["space"], str(file))
    for key in ("overrides", "splits"):
        if key in values:
            if not isinstance(values[key], list) or not all(isinstance(word, str) for word in values[key]):
                raise UserError(f"{file}: {key}={values[key]!r}; expected a list of texts.")
            values[key] = tuple(values[key])
    if values.get("scenes") is not None:
        values["scenes"] = _part(Scenes, values["scenes"], f"{file}: scenes")
    given = values.get("prune", {})
    if given is False or given is None:
        values["prune"] = None
    else:
        values["prune"] = _part(Prune, {} if given is True else given, f"{file}: prune")
    search = Search(**values, path=str(file))
    _check_plain(search)
    return search


def _part(kind: type, values: Any, where: str) -> Any:
    known = {one.name for one in dataclasses.fields(kind)}
    if not isinstance(values, Mapping):
        raise UserError(f"{where} is {values!r}; expected {', '.join(sorted(known))}.")
    if unknown := [key for key in values if key not in known]:
        raise UserError(f"{where}: there is no {unknown[0]!r}; expected {', '.join(sorted(known))}.")
    try:
        return kind(**values)
    except TypeError as error:
        problem = re.sub(r"^[\w.]+\(\) ", "", str(error))
        raise UserError(f"{where}: {problem}.") from error


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_plain(search: Search) -> None:
    """Raise for values that no config is needed to tell wrong."""
    file = search.path
    if not isinstance(search.name, str) or not _NAME.fullmatch(search.name):
        raise UserError(f"{file}: name={search.name!r}; expected letters, digits, '_', '-', '.': it names a folder.")
    if not isinstance(search.config, str) or not isinstance(search.title, str):
        raise UserError(f"{file}: config and title are texts.")
    for key, least in (("trials", 1), ("seed", 0)):
        if not _is_whole(getattr(search, key), least):
            raise UserError(f"{file}: {key}={getattr(search, key)!r}; expected a whole number from {least} on.")
    if search.sampler not in SAMPLERS:
        raise UserError(f"{file}: sampler={search.sampler!r}; expected one of {', '.join(SAMPLERS)}.")
    if not search.splits:
        raise UserError(f"{file}: splits is empty; trials are compared on the first of them.")
    if (prune := search.prune) is not None:
        percentile = prune.percentile
        if isinstance(percentile, bool) or not isinstance(percentile, int | float) or not 0 <= percentile <= 100:
            raise UserError(f"{file}: prune: percentile={percentile!r}; expected a number from 0 to 100.")
        for key in ("startup_trials", "warmup_evaluations"):
            if not _is_whole(getattr(prune, key), 0):
                raise UserError(f"{file}: prune: {key}={getattr(prune, key)!r}; expected a whole number from 0 on.")


def _check(search: Search) -> None:
    """Raise where the config does not take the space: every key, and every extreme value and choice."""
    where = f"{search.path}: space"
    keys = list(search.space.described())
    for key in keys:
        if any(key == fixed or key.startswith(f"{fixed}.") for fixed in _FIXED):
            raise UserError(f"{where}: {key} is the same in all trials, or they could not be compared.")
    given = {word.partition("=")[0] for word in search.overrides}
    if both := [key for key in keys if key in given]:
        raise UserError(f"{where}: {both[0]} is in overrides too, which is the same in all trials.")
    search.study(search.entry(0, []))  # whose config is there, whose overrides are no keys of the run's own
    try:
        base = search.base_config()
    except (ValueError, OSError, OmegaConfBaseException) as error:
        raise type_of(error)(f"{search.path}: {one_line(error)}") from error
    for key in keys:
        _check_key(base, key, where)
    for point in search.space.corners():
        words = search.space.words(point)
        try:
            complete(copy.deepcopy(base), words)
        except (ValueError, OSError, OmegaConfBaseException) as error:
            raise UserError(f"{where}: {one_line(error)}") from error
    absent = [one for one in search.splits if OmegaConf.select(base, f"dataloader.{one}") is None]
    if absent:
        raise UserError(f"{search.path}: splits: {search.config} has no dataloader.{absent[0]}.")
    if search.prune is not None and not base.train.eval_period:
        raise UserError(
            f"{search.path}: to stop bad trials takes evaluations on the way, and {search.config} has "
            "train.eval_period=0; set it in overrides, or write prune: false."
        )


def _check_key(base: DictConfig, key: str, where: str) -> None:
    try:
        check_overrides(base, [f"{key}=0"])
    except UserError as error:
        text = one_line(error).partition(": ")[2]
        raise UserError(f"{where}: {text.partition(' Write +')[0]}") from error


def type_of(error: Exception) -> type[UserError]:
    """The class that keeps a missing file a missing file."""
    return MissingFileError if isinstance(error, FileNotFoundError) else UserError
