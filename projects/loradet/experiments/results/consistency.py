"""Whether the runs of a study may stand in one table."""

import functools
from collections.abc import Sequence
from typing import Any

import yaml

from loradet.config.flattening import flatten
from loradet.errors import UserError
from loradet.experiments.results.config_text import parse_config
from loradet.experiments.results.folders import Result
from loradet.run_folder import RunFolder
from loradet.training.folder.record import decisive_settings

_SHOWN = 5  # differing keys that an error lists


def check_results(results: Sequence[Result]) -> None:
    """Finished runs stand on the same data, and those of one entry differ in nothing but the seed.

    Full and smoke runs are judged apart.

    Raises:
        ValueError: they do not; the entry, the folders and what differs are named.
    """
    trained = [result for result in results if result.state == "finished" and result.entry.kind == "training"]
    for short in (False, True):
        finished = [result for result in trained if is_short(result) == short]
        _check_data(finished)
        by_entry: dict[str, list[Result]] = {}
        for result in finished:
            by_entry.setdefault(result.entry.id, []).append(result)
        for own in by_entry.values():
            _check_seeds(own)


def is_short(result: Result) -> bool:
    """Whether its numbers are those of a smoke run; the full run of some entries is one."""
    return result.mode == "smoke" or result.entry.smoke_only


def _check_data(results: Sequence[Result]) -> None:
    first: dict[str, tuple[Result, tuple]] = {}
    for result in results:
        for split, found in _data_of(result).items():
            other, expected = first.setdefault(split, (result, found))
            if found != expected:
                raise UserError(
                    f"{other.entry.id} ({other.folder.name}) and {result.entry.id} ({result.folder.name}) do not "
                    f"stand on the same {split} data: {_words(other, split)} and {_words(result, split)}. "
                    "Run one of them again on the other's data, or report them apart."
                )


def _data_of(result: Result) -> dict[str, tuple]:
    """Split -> what must be equal; a split that was evaluated on data that the record does not describe has Nones."""
    data = result.record.get("data", {})
    found = {split: (d.get("fingerprint"), bool(d.get("synthetic"))) for split, d in data.items()}
    for split in result.metrics:
        if split != "smoke":
            found.setdefault(split, (None, result.synthetic))
    return {**found, "evaluation": (result.synthetic,)}


def _words(result: Result, split: str) -> str:
    data = result.record.get("data", {}).get(split)
    if data is None:
        kind = "synthetic" if result.synthetic else "not synthetic"
        known = "images that are" if split == "evaluation" else "data that its run.json does not describe,"
        return f"{known} {kind}"
    kind = "synthetic" if data.get("synthetic") else "not synthetic"
    return f"{data.get('source')} (fingerprint {data.get('fingerprint')}, {data.get('num_images')} images, {kind})"


def _check_seeds(results: Sequence[Result]) -> None:
    first, *others = results
    one = None
    for second in others:
        one = one or _Compared(_config(first))
        where = f"{first.entry.id}: its runs {first.folder.name} and {second.folder.name}"
        if differing := _differences(one, _Compared(_config(second))):
            shown = "; ".join(differing[:_SHOWN]) + (" …" if len(differing) > _SHOWN else "")
            raise UserError(
                f"{where} differ in more than the seed: {shown}. Run the seeds again with one config, "
                "or make an entry of its own of the other one."
            )
        counts = [result.record.get("parameters") for result in (first, second)]
        if counts[0] != counts[1]:
            raise UserError(
                f"{where} have the same config, but not the same numbers of parameters ({counts[0]} and {counts[1]}): "
                "they come from different versions of the code. Run the seeds again with one."
            )


def _config(result: Result) -> dict[str, Any]:
    if not RunFolder(result.folder).config.is_file():
        raise UserError(
            f"{result.entry.id}: {RunFolder(result.folder).config} does not exist, so that nothing tells whether the "
            "seeds differ in more than the seed. Put it back, or run that seed again."
        )
    return read_config(result)


def read_config(result: Result) -> dict[str, Any]:
    """The resolved config of a run, as plain values, not to be changed; {} where the folder has none.

    Raises:
        ValueError: the file is no YAML of plain values; entry and file are named.
    """
    path = RunFolder(result.folder).config
    if not path.is_file():
        return {}
    found = path.stat()
    try:
        content = parse_config(path, found.st_size, found.st_mtime_ns)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{result.entry.id}: {path} is no config of a run ({problem}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("train"), dict):
        raise UserError(f"{result.entry.id}: {path} is no config of a run: it has no `train` section; is it cut?")
    return content


def config_differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Keys in which two resolved configs differ, as `key: value and value`, but for the seed and what follows from it.

    Left out are places of files, how a batch is spread, and keys named `seed` or `*_seed` whose values differ by as
    much as `train.seed` does.
    """
    return _differences(_Compared(first), _Compared(second))


class _Compared:
    """A config that is compared with several others."""

    def __init__(self, config: dict[str, Any]):
        self._config = config
        self.counts_classes = _counts_classes(config)

    @functools.cached_property
    def flat(self) -> dict[str, Any]:
        return _flatten(self._config)

    @functools.cached_property
    def flat_without_classes(self) -> dict[str, Any]:
        return _flatten(_without_classes(self._config))


def _differences(first: _Compared, second: _Compared) -> list[str]:
    if first.counts_classes is second.counts_classes:
        one, other = first.flat, second.flat
    else:
        one, other = first.flat_without_classes, second.flat_without_classes
    shift = _difference(one.get("train.seed"), other.get("train.seed"))
    differing = []
    for key in dict.fromkeys([*one, *other]):
        values = one.get(key, "nothing"), other.get(key, "nothing")
        if key == "train.seed" or (values[0] == values[1] and type(values[0]) is type(values[1])):
            continue
        if key.rpartition(".")[2].endswith("seed") and shift is not None and _difference(*values) == shift:
            continue
        differing.append(f"{key}: {values[0]!r} and {values[1]!r}")
    return differing


def _counts_classes(config: Any) -> bool:
    """Whether a config says how classes are counted, as older runs' do, and not what came out."""
    if not isinstance(config, dict):
        return isinstance(config, list) and any(map(_counts_classes, config))
    return isinstance(config.get("num_classes"), dict) or any(map(_counts_classes, config.values()))


def _without_classes(config: Any) -> Any:
    if isinstance(config, list):
        return [_without_classes(inner) for inner in config]
    if not isinstance(config, dict):
        return config
    return {key: _without_classes(inner) for key, inner in config.items() if key not in ("num_classes", "classes")}


def _difference(first: Any, second: Any) -> int | None:
    both = isinstance(first, int) and isinstance(second, int)
    return second - first if both else None


def _flatten(config: dict[str, Any]) -> dict[str, Any]:
    places = {
        str(place).rstrip("/"): f"<{key}>"
        for key, place in (
            ("data.root", (config.get("data") or {}).get("root")),
            ("train.output_dir", config["train"].get("output_dir")),
        )
        if place
    }
    decisive = {**config, "train": decisive_settings(config["train"])}
    return flatten(decisive, leaf=functools.partial(_without_places, places=places))


def _without_places(value: Any, places: dict[str, str]) -> Any:
    """Files within the run's or the data's folder are named from there."""
    if isinstance(value, list):
        return [_without_places(inner, places) for inner in value]
    if isinstance(value, str):
        for place, name in places.items():
            if value.startswith(place) and value[len(place) : len(place) + 1] in ("", "/"):
                return name + value[len(place) :]
    return value
