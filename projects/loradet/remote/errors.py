"""What goes wrong between here and there, in one line."""

import os
from collections.abc import Iterator

from loradet.errors import MissingFileError, UserError

_EXTRA = "pip install 'loradet[remote]'"
# Of botocore, aiohttp and their like, by name: no library is imported to name its errors.
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "CredentialRetrievalError")
_UNREACHABLE = (
    *("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "ProxyError"),
    *("ClientConnectorError", "ClientConnectionError", "ServerDisconnectedError", "ClientPayloadError", "SSLError"),
    *("HTTPClientError", "ResponseStreamingError", "ConnectError", "ConnectTimeout", "ReadTimeout", "FSTimeoutError"),
)
_NO_RIGHTS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AccessDenied",
    "ExpiredToken",
    "InvalidToken",
    "Forbidden",
)


class RemoteError(UserError):
    """A URL cannot be read or written; the message names it and says what to do."""


class UnreachableError(RemoteError):
    """The server does not answer; it may later."""


class MissingObjectError(RemoteError, MissingFileError):
    """There is nothing at a URL."""


def explain(error: BaseException, url: str, what: str = "read") -> RemoteError:
    """The error of a library as one line about a URL.

    Args:
        error: what was raised.
        url: as it may be shown.
        what: was tried: "read", "written" or "deleted".
    """
    if isinstance(error, RemoteError):
        return error
    scheme = url.partition("://")[0]
    chain = list(_chain(error))
    names = {base.__name__ for one in chain for base in type(one).__mro__}
    reason = " ".join(str(chain[-1]).split()) or type(chain[-1]).__name__
    if isinstance(error, ImportError):
        remedy = _EXTRA if scheme == "s3" else str(error).partition("\n")[0]  # of fsspec, which names the package
        return RemoteError(f"{url}: {scheme}:// needs a package that is not installed: {remedy}")
    if names & {*_NO_CREDENTIALS}:
        return RemoteError(f"{url} cannot be {what}: no credentials ({reason}). {_advice(scheme)}".rstrip())
    if names & {*_UNREACHABLE} or any(isinstance(one, ConnectionError | TimeoutError) for one in chain):
        return UnreachableError(f"{url} cannot be {what}: the server does not answer ({reason}). {_where(scheme)}")
    if isinstance(error, FileNotFoundError):
        is_bucket = "NoSuchBucket" in reason or "bucket does not exist" in reason
        return MissingObjectError(f"{url}: there is no such {'bucket' if is_bucket else 'object'}.")
    if isinstance(error, PermissionError) or any(word in str(error) for word in _NO_RIGHTS):
        return RemoteError(f"{url} cannot be {what}: not allowed ({reason}). {_advice(scheme)}".rstrip())
    return RemoteError(f"{url} cannot be {what}: {type(error).__name__}: {reason}.")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _advice(scheme: str) -> str:
    if scheme != "s3":
        return ""
    return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, say who asks; the bucket says what they may."


def _where(scheme: str) -> str:
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return f"AWS_ENDPOINT_URL={endpoint} names it." if endpoint else "AWS_ENDPOINT_URL names another than Amazon's."
    return "Is there a network?"
