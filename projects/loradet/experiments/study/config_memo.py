"""What was read off configs before, kept between commands: a thousand configs take minutes to load.

A value is only given back where nothing that it was read from has changed: the files that were opened, modules outside
the installed packages, this project's code, the installed packages, the interpreter. Configs that look at their
surroundings (the clock, which files there are, environment variables but by `oc.env`) are always read anew.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import sys
import sysconfig
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import detectron2_embedded
import loradet
from loradet.files import FileError, atomic_open, read_json

logger = logging.getLogger(__name__)

FILE = ".study_configs.json"
_FORMAT = 1
_CONFIGS = (".py", ".yaml", ".yml")
# Words in a config, or in a module of the user's that was imported, after which it may not be the same the next time.
_SURROUNDINGS = re.compile(
    r"\b(environ|getenv|datetime|subprocess|socket|platform|is_available|device_count|import random|"
    r"from random|import time|from time|exists|is_file|is_dir|glob|rglob|listdir|iterdir|scandir|walk)\b"
)
_READS = re.compile(r"\b(open|read_text|read_bytes|load|safe_load|loadtxt)\s*\(")
_WORD = re.compile(r"\w+")
_VARIABLE = re.compile(r"oc\.env:\s*(\w*)")
T = TypeVar("T")
Stamp = tuple[int, int]  # bytes and time of change, in ns


@dataclass(frozen=True)
class _Sources:
    """What values were read from: files with their stamps, and environment variables."""

    files: dict[str, Stamp]
    variables: dict[str, str | None]

    def hold(self) -> bool:
        """Whether nothing of it has changed."""
        same = all(os.environ.get(name) == value for name, value in self.variables.items())
        return same and all(_stamp(file) == stamp for file, stamp in self.files.items())


class ConfigMemo:
    """Values by what they were read from.

    Args:
        folder: whose `.study_configs.json` keeps them, the folder of the runs; None: only for this process's time. Not
            made: where it does not exist, nothing is kept.
    """

    def __init__(self, folder: Path | None = None):
        self._file = None if folder is None else folder / FILE
        # That of the modules as they are imported, not of what a later version puts in their place.
        self._code = None if folder is None else _code()
        self._sources: list[_Sources] = []
        self._values: dict[str, tuple[int, Any]] = {}
        self._checked: dict[int, tuple[float, bool]] = {}
        self._is_changed = False
        self._recent: tuple[Hashable, Any] | None = None
        self._load()

    def __reduce__(self) -> tuple[type, tuple]:
        return ConfigMemo, ()  # what is sent to another process reads for itself

    def get(self, kind: str, config: Path, words: Sequence[str], make: Callable[[], Any]) -> Any:
        """The value of a config file and overrides, made where it is not known.

        Args:
            kind: what the value is.
            config: the file that is read first.
            words: what the value depends on besides.
            make: gives the value, which JSON can hold; may raise, and is asked again then.
        """
        key = json.dumps([kind, str(config.resolve()), str(Path.cwd()), *words])
        known = self._values.get(key)
        if known is not None and self._holds(known[0]):
            return known[1]
        began = time.time_ns()
        with _opened_files(str(config)) as opened:
            value = make()
        sources = _sources(opened, words) if is_plain(value) else None
        # What has just been written may be written again within a tick of the clock.
        if sources is not None and all(stamp[1] < began for stamp in sources.files.values()):
            if sources not in self._sources:
                self._sources.append(sources)
            self._values[key] = self._sources.index(sources), value
            self._is_changed = True
        return value

    def _holds(self, number: int) -> bool:
        """Whether sources are as they were, looked at once a second."""
        now = time.monotonic()
        if number not in self._checked or now - self._checked[number][0] > 1.0:
            self._checked[number] = now, self._sources[number].hold()
        return self._checked[number][1]

    def recent(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made last, where it was made with this key; it is held until another is asked for."""
        if self._recent is None or self._recent[0] != key:
            self._recent = key, make()
        return self._recent[1]

    def save(self) -> None:
        """Keep what has become known; a folder that cannot be written to is not an error."""
        if self._file is None or not self._is_changed or not self._file.parent.is_dir():
            return
        content = {"code": self._code, "sources": [asdict(one) for one in self._sources], "values": self._values}
        try:
            with atomic_open(self._file, sync=False) as file:
                json.dump(content, file)
        except OSError as error:
            logger.debug("What was read of the study's configs is not kept: %s", error)
        self._is_changed = False

    def _load(self) -> None:
        if self._file is None or not self._file.is_file():
            return
        try:
            content = read_json(self._file)
            if content["code"] == self._code:
                for one in content["sources"]:
                    stamps = {file: tuple(stamp) for file, stamp in one["files"].items()}
                    self._sources.append(_Sources(stamps, one["variables"]))
                self._values = {key: (number, value) for key, (number, value) in content["values"].items()}
        except (FileError, LookupError, TypeError, ValueError) as error:
            logger.debug("%s is not used: %s", self._file, error)


def is_plain(value: Any) -> bool:
    """Whether JSON gives a value back as it was."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False


def _stamp(file: str) -> Stamp | None:
    try:
        found = os.stat(file)  # noqa: PTH116 (thousands of times)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


_collectors: list[set[str]] = []
# Per config: what it opened when it was first read, as later readings find modules imported already.
_known: dict[str, set[str]] = {}


@cache
def _install_hook() -> None:
    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and _collectors and isinstance(arguments[0], str):
            for collector in _collectors:
                collector.add(arguments[0])

    sys.addaudithook(hook)


@contextlib.contextmanager
def _opened_files(config: str) -> Iterator[set[str]]:
    """The files that are opened in the block, and those that were when this config was read before."""
    _install_hook()
    opened = _known.setdefault(config, set())
    _collectors.append(opened)
    try:
        yield opened
    finally:
        _collectors.remove(opened)


def _sources(opened: set[str], words: Sequence[str]) -> _Sources | None:
    """What a value depends on, beside what `_code` covers; None where part of it looks at its surroundings."""
    files = {_as_source(str(Path(file).absolute())) for file in opened}
    found = {file for file in files if _is_own(file)}
    names = {word for text in words for word in _WORD.findall(text)}
    variables = {name for text in words for name in _VARIABLE.findall(text)}
    modules = _own_modules()
    stamps: dict[str, Stamp] = {}
    # A module may have been imported before, so that nothing opened it: it is named where it is used.
    left, imported = list(found), set[str]()
    while left:
        file = left.pop()
        stamp = _stamp(file)
        if stamp is None:
            return None
        stamps[file] = stamp
        if file.endswith(_CONFIGS):
            text = _text(file, stamp)
            # A module that was imported earlier does not open its data again, so that these cannot be compared.
            if text.is_beyond or (file in imported and text.reads):
                return None
            names |= text.words
            variables |= text.variables
        named = {file for name in names & modules.keys() for file in modules[name]}
        new = named - found
        found |= new
        imported |= new
        left += new
    order = sorted(stamps)
    return _Sources({file: stamps[file] for file in order}, {name: os.environ.get(name) for name in sorted(variables)})


def _own_modules() -> dict[str, set[str]]:
    """Files of imported modules that `_code` does not cover, by the first part of their names."""
    found: dict[str, set[str]] = {}
    for name, module in list(sys.modules.items()):
        if (file := getattr(module, "__file__", None)) and name != "__main__" and _is_own(file):
            found.setdefault(name.partition(".")[0], set()).add(str(Path(file).absolute()))
    return found


def _is_own(file: str) -> bool:
    return not file.startswith(_covered()) and Path(file).is_file()


def _as_source(file: str) -> str:
    """The module that a compiled one is of."""
    path = Path(file)
    if path.parent.name != "__pycache__":
        return file
    return str(path.parent.parent / f"{path.name.partition('.')[0]}.py")


class _Text(NamedTuple):
    """What a text says: whether it looks at what cannot be compared, or reads files, its variables, its words."""

    is_beyond: bool
    reads: bool
    variables: frozenset[str]
    words: frozenset[str]


@cache
def _text(file: str, _: Stamp) -> _Text:
    text = Path(file).read_text(encoding="utf-8", errors="replace")
    is_beyond = bool(_SURROUNDINGS.search(text))
    return _Text(
        is_beyond, bool(_READS.search(text)), frozenset(_VARIABLE.findall(text)), frozenset(_WORD.findall(text))
    )


@cache
def _covered() -> tuple[str, ...]:
    """Beginnings of paths whose files `_code` tells apart, or which are of the system."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders = {*paths, *(path for path in sys.path if path.endswith("site-packages")), *map(str, _packages())}
    # The interpreter's own, where that of the environment is a link.
    folders |= {str(Path(folder).resolve()) for folder in folders if folder}
    system = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/share/", "/usr/lib/")
    return tuple(f"{folder}{os.sep}" for folder in folders if folder) + system


def _packages() -> tuple[Path, ...]:
    return Path(loradet.__file__).parent, Path(detectron2_embedded.__file__).parent


@cache
def _code() -> str:
    """Of the project's code, the installed packages and the interpreter: a hash that changes when they do."""
    digest = hashlib.sha256(f"{_FORMAT} {sys.version} {os.environ.get('LORADET_DETECTRON2')}".encode())
    for package in _packages():
        for folder, folders, names in os.walk(package):
            folders.sort()
            for name in sorted(names):
                if name.endswith(".py"):
                    file = os.path.join(folder, name)  # noqa: PTH118
                    digest.update(f"{file} {_stamp(file)}\n".encode())
    for place in sys.path:
        if place and Path(place).is_dir():
            names = sorted(name for name in os.listdir(place) if name.endswith((".dist-info", ".egg-info")))  # noqa: PTH208
            digest.update(f"{place} {names}\n".encode())
    return digest.hexdigest()
