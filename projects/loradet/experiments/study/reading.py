"""What a study's entries are, read off their configs: model, weights, method, LoRA, and the levels of factors.

Nothing of it has to be typed into a study. What is typed all the same is compared with the config.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loradet.config.description import RANDOM, describe, joined, target_name
from loradet.config.flattening import flatten
from loradet.config.library import find_config
from loradet.errors import MissingFileError, UserError, one_line
from loradet.experiments.study.config_memo import ConfigMemo, is_plain
from loradet.experiments.study.definition import Entry, Study

FIELDS = ("model", "weights", "method", "targets", "rank", "alpha")
# Settings of `train` that are a number of iterations, or a text of epochs.
_DURATIONS = ("train.max_iter", "train.eval_period", "train.checkpointer.period")
_EPOCHS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*epochs?\s*")


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What a config says, without the study's labels.

    Attributes:
        data: the section `data`, not resolved; None where it cannot stand alone.
    """

    fields: Mapping[str, Any]
    levels: Mapping[str, str | float]
    data: Mapping[str, Any] | None


@dataclass
class ConfigReader:
    """Reads the configs of a study's entries, each once; what is known of them is not read again."""

    study: Study
    memo: ConfigMemo = field(default_factory=ConfigMemo)
    _said: dict[str, _Said] = field(default_factory=dict)

    def config(self, entry: Entry) -> DictConfig:
        """An entry's config with its overrides, not to be changed. Raises ValueError that names the entry."""
        return self.memo.recent((self.study.name, entry.id), lambda: _load(entry))

    def data(self, entry: Entry) -> DictConfig:
        """Of an entry's config with its overrides the section `data`, or more. Raises ValueError as `entry`."""
        said = self._read(entry)
        return self.config(entry) if said.data is None else OmegaConf.create({"data": dict(said.data)})

    def _read(self, entry: Entry) -> _Said:
        if entry.id not in self._said:
            # The levels depend on the factors' keys too.
            words = [*entry.overrides, *(f"{name}: {key}" for name, key in self.study.factors.items())]
            make = lambda: asdict(_read(self.study, entry, self.config(entry)))  # noqa: E731
            value = self.memo.get("said", _file(entry), words, make)
            self._said[entry.id] = _Said(**value)
        return self._said[entry.id]

    def entry(self, entry: Entry) -> Entry:
        """The entry with what its config says, by the study's labels.

        Raises:
            UserError: the entry says otherwise, or a factor's key is not in the config.
        """
        if entry.kind != "training":
            return entry
        said = self._read(entry)
        _check_typed(self.study, entry, said)
        fields = {key: _labelled(self.study, value) for key, value in said.fields.items()}
        levels = {name: _labelled(self.study, level) for name, level in said.levels.items()}
        own = {name: level for name, level in entry.factors.items() if name not in levels}
        return replace(entry, **fields, factors={**levels, **own})

    def check_labels(self) -> None:
        """Raises UserError for a label of what no config says that has been read."""
        values = [value for said in self._said.values() for value in (*said.fields.values(), *said.levels.values())]
        known = {value for value in values if isinstance(value, str) and value}
        if unknown := [name for name in self.study.labels if name not in known]:
            raise UserError(
                f"Study {self.study.name}: labels name {unknown[0]!r}, which no config of its entries says; "
                f"they say: {', '.join(map(repr, sorted(known)))}."
            )


def read_study(study: Study, known: Iterable[Entry] = ()) -> Study:
    """A study whose entries have what their configs say.

    Args:
        known: entries that have it already.

    Raises:
        UserError: as `ConfigReader.entry`.
    """
    reader = ConfigReader(study)
    have = {entry.id: entry for entry in known}
    return replace(study, entries=tuple(have.get(entry.id) or reader.entry(entry) for entry in study.entries))


def check_study(study: Study, memo: ConfigMemo | None = None) -> None:
    """Compare what a study types with its configs; those of entries that type nothing of it are not read.

    Args:
        memo: what is known of configs.

    Raises:
        UserError: an entry says otherwise than its config; both values are named.
    """
    reader = ConfigReader(study, memo or ConfigMemo())
    for entry in study.entries:
        if entry.kind == "training" and _typed(study, entry):
            reader.entry(entry)


def named_error(entry: Entry, error: Exception) -> UserError:
    """An error of the same kind (a missing file, or else a wrong value) that names the entry."""
    kind = MissingFileError if isinstance(error, FileNotFoundError) else UserError
    return kind(f"Entry {entry.id}: {one_line(error)}")


def _file(entry: Entry) -> Path:
    try:
        return find_config(entry.config)
    except MissingFileError as error:
        raise named_error(entry, error) from error


def _load(entry: Entry) -> DictConfig:
    """An entry's config with its overrides. Raises ValueError that names the entry."""
    from loradet.config import load_config

    try:
        return load_config(entry.config, list(entry.overrides))
    except (ValueError, OSError, OmegaConfBaseException) as error:
        raise named_error(entry, error) from error


def _data(config: DictConfig) -> dict[str, Any] | None:
    """The plain values of `data`, not resolved; None where one that a study needs leads out of it."""
    section = config.get("data")
    if section is None:
        return {}
    plain = {key: value for key, value in OmegaConf.to_container(section, resolve=False).items() if is_plain(value)}
    alone = OmegaConf.create({"data": plain}).data
    needed = [key for key in section if key in ("data_yaml", "name", "root") or str(key).endswith("_json")]
    return plain if all(_value_or_error(section, key) == _value_or_error(alone, key) for key in needed) else None


def _value_or_error(section: DictConfig, key: str) -> Any:
    try:
        value = section[key]
    except (OmegaConfBaseException, KeyError) as error:
        return type(error)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _read(study: Study, entry: Entry, config: DictConfig) -> _Said:
    where = f"{_where(study, entry)}: {entry.config}"
    if config.get("model") is None:
        raise UserError(f"{where} has no model.")
    try:
        found = describe(config.model)
    except UserError as error:
        raise UserError(f"{where}: {one_line(error)}") from error
    start = OmegaConf.select(config, "train.init_checkpoint")
    fields = {
        "model": found.model,
        "weights": start if found.weights == RANDOM and start else found.weights,
        "method": found.method,
        "targets": joined(found.targets),
        "rank": found.rank,
        "alpha": found.alpha,
    }
    levels = {name: _level(f"{where}: factor {name}", config, key, fields) for name, key in study.factors.items()}
    return _Said(fields=fields, levels=levels, data=_data(config))


def _where(study: Study, entry: Entry) -> str:
    return f"Study {study.name}, entry {entry.id}"


def _level(where: str, config: DictConfig, key: str, fields: Mapping[str, Any]) -> str | float:
    if key in fields:
        if fields[key] in ("", None):
            raise UserError(f"{where}: there is no {key}.")
        return fields[key]
    try:
        value = OmegaConf.select(config, key, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {key}: {one_line(error)}.") from error
    if value is None:
        known = flatten(OmegaConf.to_container(config, resolve=False, throw_on_missing=False))
        near = difflib.get_close_matches(key, known, n=3)
        missing = "is null" if key in known else f"is no key; nearest: {', '.join(near) or 'none'}"
        raise UserError(f"{where}: {key} {missing}.")
    level = _plain_level(key, value)
    if level is None:
        raise UserError(f"{where}: {key} is a part with keys; name one of them: {', '.join(map(str, value))}.")
    return level


def _plain_level(key: str, value: Any) -> str | float | None:
    """A value as a level: a number or a text; None for a part of a config that is no call."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        # Beside levels in epochs it is to be seen as what it is.
        return f"{value:g} iterations" if key in _DURATIONS else value
    if isinstance(value, str) and (match := _EPOCHS.fullmatch(value)):
        epochs = float(match[1])
        return int(epochs) if epochs.is_integer() else epochs
    if isinstance(value, DictConfig):
        return _plain_level("_target_", value._target_) if "_target_" in value else None
    if isinstance(value, ListConfig):
        plain = OmegaConf.to_container(value)
        return joined(plain) if all(isinstance(one, str) for one in plain) else str(plain)
    if callable(value) or key.rpartition(".")[2] == "_target_":
        return target_name(value).rpartition(".")[2]
    return str(value)


def _labelled(study: Study, value: Any) -> Any:
    return study.labels.get(value, value) if isinstance(value, str) else value


def _typed(study: Study, entry: Entry) -> dict[str, Any]:
    """What an entry gives although its config says it: by field, and by `factor <name>`."""
    fields = {key: getattr(entry, key) for key in FIELDS if getattr(entry, key) not in ("", None)}
    return fields | {f"factor {name}": entry.factors[name] for name in study.factors if name in entry.factors}


def _check_typed(study: Study, entry: Entry, said: _Said) -> None:
    """Raise where an entry says otherwise than its config."""
    read = {**said.fields, **{f"factor {name}": level for name, level in said.levels.items()}}
    for name, value in _typed(study, entry).items():
        if value not in (read[name], _labelled(study, read[name])):
            raise _disagreement(study, entry, name, value, read[name])


def _disagreement(study: Study, entry: Entry, name: str, typed: Any, read: Any) -> UserError:
    file = f"{entry.config} with its overrides" if entry.overrides else entry.config
    ways = "leave it out, or change one of the two"
    if isinstance(typed, str) and isinstance(read, str) and read:
        ways = f"leave it out, or let the study have labels={{{read!r}: {typed!r}}} if both mean the same"
    says = "says nothing of it" if read in ("", None) else f"says {read!r}"
    return UserError(f"{_where(study, entry)}: {name} is {typed!r}, but {file} {says}; {ways}.")
