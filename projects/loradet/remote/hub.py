"""Files of the Hugging Face Hub: `hf://owner/name/path`, at a revision `hf://owner/name/path@revision`.

They are in the Hub's own cache, which other programs share (`HF_HOME`); HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count.
"""

from pathlib import Path

from loradet.remote.errors import RemoteError
from loradet.remote.hub_errors import explained

_KINDS = {"datasets": "dataset", "spaces": "space", "models": "model"}


def hub_file(url: str) -> Path:
    """The local path of a file in a repository of the Hub; fetched where the Hub has a newer one.

    Args:
        url: `hf://[datasets/]OWNER/NAME/PATH[@REVISION]`, or as huggingface_hub has it, with the revision behind NAME.

    Raises:
        RemoteError: no such file, repository or revision, no right to read it, or the Hub is out of reach and nothing
            is in its cache.
    """
    import huggingface_hub

    kind, repo_id, path, revision = parse_hub_url(url)
    with explained(url, file=path, revision=revision):
        return Path(huggingface_hub.hf_hub_download(repo_id, path, repo_type=kind, revision=revision))


def parse_hub_url(url: str) -> tuple[str, str, str, str | None]:
    """Kind of repository, its id, the path in it, and the revision (None: the newest).

    Raises:
        RemoteError: it is no such URL.
    """
    words = [word for word in url.partition("://")[2].split("/") if word]
    kind = _KINDS[words.pop(0)] if words and words[0] in _KINDS else "model"
    if len(words) < 3:
        raise RemoteError(f"{url}: expected hf://OWNER/NAME/PATH, and @REVISION behind it where it is not the newest.")
    owner, name, *path = words
    name, _, revision = name.partition("@")
    if not revision:
        # A revision may hold slashes (refs/pr/1), and comes last.
        joined, _, revision = "/".join(path).partition("@")
        path = joined.split("/")
    return kind, f"{owner}/{name}", "/".join(path), revision or None
