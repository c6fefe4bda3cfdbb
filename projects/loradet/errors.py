"""Errors for users: reported in one line, without a traceback."""

import contextlib
import os
import re
import select
import sys
import traceback
from collections.abc import Iterator


class UserError(ValueError):
    """A mistake in what a user gave; its message is all that is shown."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that a user named is not there."""


# What libraries raise for what they were given, besides our own: a value, a file, a package that is not installed.
_OF_LIBRARIES = (ValueError, OSError, ImportError)


def is_user_error(error: BaseException) -> bool:
    """Whether the message of an error is all that a user needs, so that no traceback is shown."""
    return isinstance(error, (UserError, *_OF_LIBRARIES)) or _is_of_omegaconf(error)


def _is_of_omegaconf(error: BaseException) -> bool:
    # By name: the adapters, which stand on torch and safetensors alone, have their errors from here.
    return any(base.__name__ == "OmegaConfBaseException" for base in type(error).__mro__)


def one_line(error: BaseException) -> str:
    """The message of an error without what libraries put around it."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if _is_of_omegaconf(error):
        missing = text.partition("Missing mandatory value: ")[2].split()
        if missing:
            return f"The config has no value for {missing[0]}; give it as {missing[0]}=VALUE."
        return text.splitlines()[0]
    if "in DataLoader worker process" in text:
        # The worker's traceback, whose last line is the error itself.
        text = re.sub(r"^[\w.]+: ", "", text.strip().splitlines()[-1])
    return " ".join(line.strip() for line in text.splitlines()) or type(error).__name__


def show_traceback(error: BaseException) -> None:
    """Print the traceback of an error, for whoever asks for it by LORADET_TRACEBACK=1 in the environment."""
    if os.environ.get("LORADET_TRACEBACK"):
        traceback.print_exception(error)


@contextlib.contextmanager
def errors_in_one_line(status: int = 1) -> Iterator[None]:
    """End the program where the block ends by a user's mistake: "error: …" on standard error, and an exit status.

    Any other error goes on, with its traceback.
    """
    try:
        yield
    except Exception as error:
        if not is_user_error(error):
            raise
        end_where_nobody_reads(error)
        show_traceback(error)
        message = f"error: {one_line(error)}"
        if status == 1:
            sys.exit(message)  # which prints it
        print(message, file=sys.stderr)
        sys.exit(status)


def end_where_nobody_reads(error: BaseException) -> None:
    """End the program in silence, as a shell's own commands end, where its output is closed (`loradet configs | head`).

    Any other error is left to the caller.
    """
    if isinstance(error, BrokenPipeError) and _output_has_no_reader():
        # What is still in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # 128 and the number of SIGPIPE


def _output_has_no_reader() -> bool:
    try:
        poll = select.poll()
        poll.register(sys.stdout, 0)
    except (AttributeError, OSError, ValueError):  # no poll on Windows, no file behind sys.stdout
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))
