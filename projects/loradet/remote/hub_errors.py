"""What the Hugging Face Hub refuses, in one line; huggingface_hub is imported where it is asked."""

import contextlib
from collections.abc import Iterator

from loradet.errors import UserError, one_line
from loradet.remote.errors import MissingObjectError, RemoteError, UnreachableError


def check_may_write(where: str) -> None:
    """Raise RemoteError where nothing could be written: no token, or the Hub is switched off.

    Args:
        where: an address, or a key of a config with its value; the message begins with it.
    """
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise RemoteError(f"{where}: HF_HUB_OFFLINE=1 keeps everything from the Hub.")
    if huggingface_hub.get_token() is None:
        raise RemoteError(
            f"{where} needs a token that may write there: log in by `hf auth login`, or set the environment variable "
            "HF_TOKEN."
        )


@contextlib.contextmanager
def explained(where: str, *, file: str | None = None, revision: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises in the block into an error for users.

    Args:
        where: as of `check_may_write`.
        file: path in the repository that is asked for, if it is one.
        revision: that it is asked for at.

    Raises:
        MissingObjectError: there is no such repository, revision or file, or the token may not see it.
        UnreachableError: the Hub does not answer, or answers that something of it is broken.
        RemoteError: the Hub does not allow it, or refuses what it was given.
    """
    from huggingface_hub import constants, errors

    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise RemoteError(f"{where}: the repository is gated; ask for access on its page, and set HF_TOKEN.") from error
    except errors.RepositoryNotFoundError as error:
        problem = f"{where}: there is no such repository, or your token may not read it. {_WHOSE}"
        raise MissingObjectError(problem) from error
    except errors.RevisionNotFoundError as error:
        raise MissingObjectError(f"{where}: the repository has no revision {revision!r}.") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if constants.HF_HUB_OFFLINE:
            problem = f"{where}: HF_HUB_OFFLINE=1, and the Hub's cache does not have it; fetch it once with a network."
            raise UnreachableError(problem) from error
        problem = f"{where}: the Hub cannot be reached, and its cache does not have it ({_words(error)})."
        raise UnreachableError(problem) from error
    except errors.EntryNotFoundError as error:
        raise MissingObjectError(f"{where}: the repository has no file {file!r}.") from error
    except errors.HfHubHTTPError as error:
        raise _of_answer(error, where) from error
    except errors.HFValidationError as error:
        raise RemoteError(f"{where}: {_words(error)}.") from error
    except Exception as error:
        if not _is_of_network(error):
            raise
        raise UnreachableError(f"{where}: the Hub cannot be reached ({_words(error)}).") from error


_WHOSE = "`hf auth whoami` tells whose token is used."


def _of_answer(error: Exception, where: str) -> RemoteError:
    # A file that could not be fetched has no answer of the Hub in it, in some versions.
    response = getattr(error, "response", None)
    status = 0 if response is None else response.status_code
    if status in (401, 403):
        return RemoteError(f"{where}: the Hub does not allow it (HTTP {status}): {_words(error)}. {_WHOSE}")
    if 400 <= status < 500 and status not in (408, 429):
        return RemoteError(f"{where}: the Hub refuses it (HTTP {status}): {_words(error)}.")
    return UnreachableError(f"{where}: the Hub does not answer well (HTTP {status}): {_words(error)}.")


def _words(error: BaseException) -> str:
    return one_line(error).rstrip(".")


def _is_of_network(error: BaseException) -> bool:
    # Of requests, httpx or its successor: which one huggingface_hub uses changes with its version.
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & {"TransportError", "RequestException"}) or isinstance(error, ConnectionError | TimeoutError)
