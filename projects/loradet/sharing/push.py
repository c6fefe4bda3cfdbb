"""An adapter and its card to a repository of the Hub, in one commit."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from loradet import __version__
from loradet.adapters.files.adapter_file import read_adapter
from loradet.adapters.files.run_export import export_run
from loradet.config.licences import BaseLicence
from loradet.errors import MissingFileError, UserError
from loradet.remote.hub_errors import check_may_write, explained
from loradet.run_folder import RunFolder
from loradet.sharing.address import HubAddress, parse_address
from loradet.sharing.calibration_picture import calibration_picture
from loradet.sharing.card import CARD, PICTURE, model_card
from loradet.sharing.config_paths import portable_config
from loradet.sharing.facts import facts_of_file, facts_of_run


@dataclass(frozen=True)
class Pushed:
    """What `push_adapter` did.

    Attributes:
        page: of the repository.
        files: that were sent, by their paths in the repository; empty where all of it was there.
        hidden_paths: of this machine, which `config.yaml` does not hold any more.
        licences: of the base.
    """

    page: str
    files: list[str]
    hidden_paths: list[str]
    licences: list[BaseLicence]


@dataclass(frozen=True)
class _Parcel:
    """What is to be sent, by name."""

    contents: dict[str, bytes]
    hidden_paths: list[str]
    licences: list[BaseLicence]


def push_adapter(source: str | os.PathLike, address: str, *, overwrite: bool = False, public: bool = False) -> Pushed:
    """Send an adapter, a model card, and of a run its config and calibration picture; nothing else.

    All is checked before the Hub is asked, and one commit holds all of it. What is there already with the same content
    is not sent again.

    Args:
        source: folder of a finished run, or an adapter file.
        address: `hf://owner/name[/path]`; the repository is made where there is none.
        overwrite: replace files of other content there, another adapter's for one.
        public: make the repository a public one where it is made.

    Raises:
        FileNotFoundError: there is no such run or file.
        AdapterError: it is no adapter, or the run is not finished.
        UserError: the address is none; the repository holds other files of these names; no token, no right, no network.
    """
    target = parse_address(address)
    if target.revision is not None:
        raise UserError(f"{address}: a push goes to the newest of the main branch; leave @{target.revision} out.")
    parcel = _parcel(Path(source), target)
    check_may_write(address)
    api = HfApi()
    huggingface_hub.utils.disable_progress_bars()
    with explained(address):
        api.create_repo(target.repo_id, private=not public, exist_ok=True)
        there = _present(api, target, [*parcel.contents, RunFolder.CONFIG, PICTURE])
        sent = {name: content for name, content in parcel.contents.items() if there.get(name) != content}
        others = [name for name in sent if name in there]
        if others and not overwrite:
            raise UserError(_other(address, target, others))
        if sent:
            operations = [CommitOperationAdd(target.path(name), content) for name, content in sent.items()]
            # Config and picture of an adapter that is replaced are not this one's.
            stale = there.keys() - parcel.contents.keys() if target.file in others else ()
            operations += [CommitOperationDelete(target.path(name)) for name in sorted(stale)]
            message = f"{target.adapter} by loradet {__version__}"
            api.create_commit(target.repo_id, operations, commit_message=message)
    page = f"{api.endpoint}/{target.repo_id}"
    return Pushed(page, [target.path(name) for name in sent], parcel.hidden_paths, parcel.licences)


def _parcel(source: Path, target: HubAddress) -> _Parcel:
    if source.is_dir():
        return _of_run(source, target)
    if not source.exists():
        raise MissingFileError(f"{source} does not exist; expected the folder of a finished run, or an adapter file.")
    read_adapter(source)
    facts = facts_of_file(source)
    card = model_card(facts, target, has_config=False)
    return _Parcel({target.file: source.read_bytes(), CARD: card.encode()}, [], facts.licences)


def _of_run(folder: Path, target: HubAddress) -> _Parcel:
    run = RunFolder(folder)
    with tempfile.TemporaryDirectory() as temporary:
        adapter = export_run(folder, Path(temporary, RunFolder.ADAPTER))
        facts = facts_of_run(folder, adapter)
        contents = {target.file: adapter.read_bytes()}
    hidden: list[str] = []
    if run.config.is_file():
        text, hidden = portable_config(run.config)
        contents[RunFolder.CONFIG] = text.encode()
    picture = calibration_picture(run, [split.name for split in facts.splits])
    if picture is not None:
        contents[PICTURE] = picture.png
    card = model_card(facts, target, has_config=RunFolder.CONFIG in contents, picture=picture)
    contents[CARD] = card.encode()
    return _Parcel(contents, hidden, facts.licences)


def _present(api: HfApi, target: HubAddress, names: list[str]) -> dict[str, bytes]:
    """What the repository has of files of these names beside the adapter."""
    there = set(api.list_repo_files(target.repo_id))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(names):
            if target.path(name) in there:
                file = api.hf_hub_download(target.repo_id, target.path(name), local_dir=folder)
                found[name] = Path(file).read_bytes()
    return found


def _other(address: str, target: HubAddress, names: list[str]) -> str:
    if target.file in names:
        return (
            f"{address} holds another adapter: its {target.adapter} is not this one. Choose another name or path, or "
            "replace it by --overwrite."
        )
    listed = ", ".join(target.path(name) for name in names)
    return f"{address} holds {listed} of other content. Choose another name or path, or replace it by --overwrite."
