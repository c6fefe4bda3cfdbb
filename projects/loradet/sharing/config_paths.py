"""A run's config and command without the paths of the machine that it ran on."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath, PureWindowsPath

import yaml

from loradet.errors import one_line
from loradet.files import FileError
from loradet.remote import shown
from loradet.remote.urls import WEB, scheme_of

DATA = "PATH"  # stands for the folder of the data
# Below `train`: what would report a run of somebody else's as one's own.
_SERVICES = ("hub", "mirror", "trackio", "wandb")


def portable_config(file: Path) -> tuple[str, list[str]]:
    """The text of a run's `config.yaml` to share.

    Paths below `data.root` (or the folder of `data.data_yaml`) begin with PATH, other absolute ones are names of files;
    URLs have no query and no password, and tracking services no names. The rest is as it was, of whatever kind.

    Returns:
        The text, and the paths that it does not hold any more.

    Raises:
        FileError: the file is no YAML.
    """
    try:
        top = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FileError(f"{file} is broken: {one_line(error)}") from error
    if not isinstance(top, yaml.MappingNode):
        raise FileError(f"{file} is no config of a run.")
    roots = data_roots(_text(top, "data", "root"), _text(top, "data", "data_yaml"))
    changed: dict[str, str] = {}
    for scalar in _scalars(top, set()):
        if (shared := portable_path(scalar.value, roots)) != scalar.value:
            changed[scalar.value] = shared
            scalar.value = shared
    for service in _SERVICES:
        for scalar in _scalars(_node(top, "train", service), set()):
            scalar.tag, scalar.value, scalar.style = "tag:yaml.org,2002:null", "null", None
    return yaml.serialize(top, Dumper=yaml.SafeDumper, allow_unicode=True, width=120), sorted(changed)


def portable_command(words: Sequence[str], roots: Iterable[str]) -> str | None:
    """The command line of a training to share; None where another program has called the library."""
    if not words:
        return None
    program, rest = PurePath(words[0]), list(words[1:])
    if program.name == "lazyconfig_train_net.py":
        pass
    elif (program.stem == "loradet" or program.parts[-3:] == ("loradet", "cli", "__main__.py")) and rest[:1] == [
        "train"
    ]:
        rest = rest[1:]
    else:
        return None
    return shlex.join(["loradet", "train", *(_portable_word(word, list(roots)) for word in rest)])


def data_roots(root: str | None, data_yaml: str | None) -> list[str]:
    """The folders that PATH stands for."""
    found = [root, str(PurePath(data_yaml).parent) if data_yaml else None]
    return [text.rstrip("/") for text in found if text and _is_absolute(text)]


def portable_path(text: str, roots: Iterable[str]) -> str:
    """An absolute path, or a URL, as it is told to others; any other text as it is."""
    if scheme_of(text) in WEB:
        return shown(text)
    if not _is_absolute(text) or "\n" in text:
        return text
    for root in roots:
        if text == root or text.startswith(f"{root}/"):
            return DATA + text[len(root) :]
    parts = PurePath(text).parts
    # A config of the project keeps its place in it.
    if "configs" in parts and parts[-1].endswith(".py"):
        return "/".join(parts[parts.index("configs") :])
    if PureWindowsPath(text).drive:
        return PureWindowsPath(text).name
    return PurePath(text).name or text


def _portable_word(word: str, roots: list[str]) -> str:
    key, sign, value = word.partition("=")
    if sign and "/" not in key:
        if key.lstrip("+") == "data.root":
            return f"{key}={DATA}"
        return f"{key}={portable_path(value, roots)}"
    return portable_path(word, roots)


def _is_absolute(text: str) -> bool:
    return text.startswith(("/", "~")) or (bool(PureWindowsPath(text).drive) and PureWindowsPath(text).is_absolute())


def _scalars(node: yaml.Node | None, seen: set[int]) -> Iterable[yaml.ScalarNode]:
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:str":
            yield node
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _scalars(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _scalars(value, seen)


def _node(node: yaml.Node | None, *keys: str) -> yaml.Node | None:
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        node = next((value for name, value in pairs if name.value == key), None)
    return node


def _text(node: yaml.Node, *keys: str) -> str | None:
    found = _node(node, *keys)
    is_text = isinstance(found, yaml.ScalarNode) and found.tag == "tag:yaml.org,2002:str"
    return found.value if is_text else None
