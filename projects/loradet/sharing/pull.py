"""An adapter from a repository of the Hub into a file or folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from loradet.adapters.files.adapter_file import AdapterError, read_adapter
from loradet.config.licences import BaseLicence, read_licences
from loradet.errors import MissingFileError, UserError
from loradet.files import atomic_open
from loradet.remote import UnreachableError, local_copy
from loradet.run_folder import RunFolder
from loradet.sharing.address import HubAddress, parse_address
from loradet.sharing.card import CARD, PICTURE

_BESIDE = (RunFolder.CONFIG, CARD, PICTURE)


@dataclass(frozen=True)
class Pulled:
    """What `pull_adapter` wrote.

    Attributes:
        adapter: the file.
        files: all that was written or was there already, the adapter among them.
        config: that it was trained with; None where the repository has none, or the adapter alone was asked for.
        licences: of the base, as the adapter file has them.
    """

    adapter: Path
    files: list[Path]
    config: Path | None
    licences: list[BaseLicence]


def pull_adapter(address: str, output: str | os.PathLike | None = None, *, overwrite: bool = False) -> Pulled:
    """Fetch an adapter, and the config and card beside it; nothing else of the repository.

    It comes through the Hub's cache and is read as an adapter before anything is written. All files are of one commit,
    and each is written whole or not at all, the adapter last.

    Args:
        address: `hf://owner/name[/path][@revision]`; the path is a folder, or the adapter file.
        output: a folder, or a file that ends in `.safetensors` for the adapter alone; default: a folder here, named as
            that of the address or as the repository.
        overwrite: replace files of other content.

    Returns:
        What was written.

    Raises:
        UserError: no such repository, revision or file, no right, no network; it is no adapter; files of other content
            are there.
    """
    source = parse_address(address)
    target = Path(output or (source.folder or source.repo_id).rpartition("/")[2])
    fetched = local_copy(source.url())
    info = _checked(fetched, source)
    alone = target.suffix == ".safetensors"
    if target.is_dir() and alone:
        raise UserError(f"{target} is a folder; expected a file, or a folder without that ending.")
    if target.is_file() and not alone:
        raise UserError(f"{target} is a file; expected a folder, or a file that ends in .safetensors.")
    contents = {} if alone else _beside(source, fetched)
    files = {target / name: content for name, content in contents.items()}
    adapter = target if alone else target / source.file
    files[adapter] = fetched.read_bytes()
    differing = [file for file, content in files.items() if file.exists() and _content(file) != content]
    if differing and not overwrite:
        raise UserError(f"{differing[0]} is there with other content; --overwrite replaces it, --output names another.")
    for file, content in files.items():
        if not file.exists() or file in differing:
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(file, "wb") as opened:
                opened.write(content)
    config = target / RunFolder.CONFIG if RunFolder.CONFIG in contents else None
    return Pulled(adapter, list(files), config, read_licences(info["metadata"]))


def _checked(file: Path, source: HubAddress) -> dict:
    try:
        return read_adapter(file)[0]
    except AdapterError as error:
        raise AdapterError(str(error).replace(str(file), source.url())) from error


def _beside(source: HubAddress, fetched: Path) -> dict[str, bytes]:
    """Config, card and picture of the commit that the adapter came from, as far as they are there."""
    parts = fetched.parts
    # …/snapshots/<commit>/<path>: as the Hub's cache has it.
    commit = parts[parts.index("snapshots") + 1] if "snapshots" in parts else source.revision
    pinned = HubAddress(source.repo_id, source.folder, source.file, commit)
    found = {}
    for name in _BESIDE:
        try:
            found[name] = local_copy(pinned.url(name)).read_bytes()
        except MissingFileError:
            continue
        except UnreachableError:
            if not _is_offline():
                raise
    return found


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None
