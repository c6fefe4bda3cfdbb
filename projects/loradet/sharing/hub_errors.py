"""What the Hub refuses, in one line."""

import contextlib
from collections.abc import Iterator

import huggingface_hub
from huggingface_hub import errors

from loradet.errors import MissingFileError, UserError


class HubError(UserError):
    """The Hub cannot be reached, or does not allow it; the message names the repository and what to do."""


def check_may_write(where: str) -> None:
    """Raise HubError where nothing could be written: no token, or the Hub is switched off."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise HubError(f"{where}: HF_HUB_OFFLINE=1 keeps everything from the Hub.")
    if huggingface_hub.get_token() is None:
        raise HubError(
            f"{where} needs a token that may write there: log in by `hf auth login`, or set the environment variable "
            "HF_TOKEN."
        )


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into a HubError about an address."""
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise HubError(f"{where}: the repository is gated; ask for access on its page.") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f"{where}: there is no such repository, or your token may not read it ({_who()}).") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{where}: the repository has no such revision.") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        raise HubError(f"{where}: the Hub cannot be reached ({reason(error)}).") from error
    except errors.EntryNotFoundError as error:
        raise MissingFileError(f"{where}: the repository has no such file.") from error
    except errors.HfHubHTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        if status in (401, 403):
            raise HubError(f"{where}: the Hub does not allow it (HTTP {status}): {reason(error)}. {_who()}.") from error
        what = "refuses it" if 400 <= status < 500 and status != 429 else "does not answer well"
        raise HubError(f"{where}: the Hub {what} (HTTP {status}): {reason(error)}.") from error
    except errors.HFValidationError as error:
        raise HubError(f"{where}: {reason(error)}") from error
    except Exception as error:
        if not _is_of_network(error):
            raise
        raise HubError(f"{where}: the Hub cannot be reached ({reason(error)}).") from error


def reason(error: BaseException) -> str:
    """The words of an error as one line, without the dot at their end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (" ".join(lines) or type(error).__name__).rstrip(".")


def _who() -> str:
    return "`hf auth whoami` tells whose token is used"


def _is_of_network(error: BaseException) -> bool:
    # Of requests, httpx or its successor: which one huggingface_hub uses changes with its version.
    return any(base.__name__ in ("TransportError", "RequestException") for base in type(error).__mro__)
