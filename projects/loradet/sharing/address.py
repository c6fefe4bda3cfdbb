"""Where an adapter is on the Hugging Face Hub: `hf://owner/name[/path][@revision]`."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from loradet.errors import UserError
from loradet.run_folder import RunFolder

SCHEME = "hf://"
# As the Hub has them; no name begins with a dot, so that no path leads out of its folder.
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_OTHER_WEIGHTS = (".pth", ".pt", ".pkl", ".bin", ".ckpt", ".onnx", ".npz", ".zip")
_PART = re.compile(r"[^\s./\\@:?*\"<>|][^\s/\\@:?*\"<>|]*")


@dataclass(frozen=True)
class HubAddress:
    """An adapter file in a repository, and what belongs to it in the same folder.

    Attributes:
        repo_id: "owner/name".
        folder: in the repository; "" is its root.
        file: name of the adapter file.
        revision: branch, tag or commit; None is the newest of the main branch.
    """

    repo_id: str
    folder: str = ""
    file: str = RunFolder.ADAPTER
    revision: str | None = None

    def path(self, name: str) -> str:
        """Of a file beside the adapter, in the repository."""
        return f"{self.folder}/{name}" if self.folder else name

    @property
    def adapter(self) -> str:
        """Path of the adapter file in the repository."""
        return self.path(self.file)

    def url(self, name: str | None = None) -> str:
        """`hf://…` of a file beside the adapter; of the adapter itself without a name."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repo_id}/{self.path(name or self.file)}{revision}"

    def __str__(self) -> str:
        place = self.adapter if self.file != RunFolder.ADAPTER else self.folder
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repo_id}{'/' if place else ''}{place}{revision}"


def parse_address(text: str) -> HubAddress:
    """Read `hf://owner/name[/path][@revision]`.

    The path is a folder in the repository, or, where it ends in `.safetensors`, the adapter file. The revision may also
    stand behind the name, as huggingface_hub writes it.

    Raises:
        UserError: it is none.
    """
    if not text.startswith(SCHEME):
        raise UserError(f"{text}: expected {SCHEME}OWNER/NAME or {SCHEME}OWNER/NAME/PATH.")
    owner, _, rest = text.removeprefix(SCHEME).partition("/")
    name, _, path = rest.partition("/")
    name, _, revision = name.partition("@")
    if not revision:
        path, _, revision = path.partition("@")
    parts = path.strip("/").split("/") if path.strip("/") else []
    names = [owner, name]
    if owner in ("datasets", "spaces", "models") and parts:
        raise UserError(f"{text}: adapters are in repositories of models: {SCHEME}OWNER/NAME.")
    if wrong := next((one for one in names if not _NAME.fullmatch(one)), None):
        raise UserError(f"{text}: {wrong!r} is no name on the Hub; expected {SCHEME}OWNER/NAME[/PATH].")
    if wrong := next((part for part in parts if not _PART.fullmatch(part)), None):
        raise UserError(f"{text}: {wrong!r} cannot be a part of a path in a repository.")
    file = RunFolder.ADAPTER
    ending = PurePosixPath(parts[-1]).suffix.lower() if parts else ""
    if ending in _OTHER_WEIGHTS:
        raise UserError(f"{text}: adapters are .safetensors files, and nothing else is pushed or pulled.")
    if ending == ".safetensors":
        file = parts.pop()
    return HubAddress(f"{owner}/{name}", "/".join(parts), file, revision or None)
