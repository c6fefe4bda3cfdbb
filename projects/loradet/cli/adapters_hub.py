"""Subcommands `push` and `pull` of `loradet adapters`: to the Hugging Face Hub and back."""

import argparse
import shlex
from typing import Any

ADDRESS = "hf://OWNER/NAME[/PATH]"


def add_push(commands: Any) -> None:
    """`push` and its options."""
    push = commands.add_parser("push", help="send an adapter, with a model card, to the Hugging Face Hub")
    push.add_argument("source", metavar="RUN_or_FILE", help="folder of a finished run, or an adapter file")
    push.add_argument("address", metavar=ADDRESS, help="repository, and a folder or a .safetensors file in it")
    push.add_argument("--overwrite", action="store_true", help="replace another adapter that is there")
    push.add_argument("--public", action="store_true", help="a repository that is made is public; default: private")


def add_pull(commands: Any) -> None:
    """`pull` and its options."""
    pull = commands.add_parser("pull", help="fetch an adapter, its config and card from the Hugging Face Hub")
    pull.add_argument(
        "address", metavar=f"{ADDRESS}[@REVISION]", help="repository, and a folder or a .safetensors file in it"
    )
    pull.add_argument(
        "--output",
        metavar="FILE_or_DIR",
        help="folder, or a file (.safetensors) for the adapter alone; default: a folder named as the repository",
    )
    pull.add_argument("--overwrite", action="store_true", help="replace files of other content")


def push(arguments: argparse.Namespace) -> None:
    """Send an adapter and its card."""
    from loradet.sharing import push_adapter

    done = push_adapter(arguments.source, arguments.address, overwrite=arguments.overwrite, public=arguments.public)
    if not done.files:
        print(f"Nothing to send: all of it is in {done.page}")
        return
    print(f"Sent to {done.page}: {', '.join(done.files)}")
    if done.hidden_paths:
        print(f"The config there does not hold {len(done.hidden_paths)} paths of this machine; PATH is the data.")
    _print_licences(done.licences)
    print(f"To get it back: {shlex.join(['loradet', 'adapters', 'pull', arguments.address])}")


def pull(arguments: argparse.Namespace) -> None:
    """Fetch an adapter and what is beside it."""
    from loradet.sharing import pull_adapter

    done = pull_adapter(arguments.address, arguments.output, overwrite=arguments.overwrite)
    print(f"Written: {', '.join(map(str, done.files))}")
    _print_licences(done.licences)
    if done.config is not None:
        words = ["predict", "--config-file", str(done.config), "--checkpoint", str(done.adapter), "--output", "found"]
        print(f"To use it: {shlex.join(['loradet', *words])} IMAGES")


def _print_licences(licences: list) -> None:
    for one in licences:
        if not one.is_open and one.licence not in (None, "unknown"):
            print(f"{one.base} is under {one.name}{f': {one.link}' if one.link else ''}; so is what is trained on it.")
