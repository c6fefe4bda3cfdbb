"""Train, resume or evaluate what a LazyConfig file describes, on one or many processes.

Examples:
    loradet train --config-file configs/quickstart.py
    loradet train --config-file configs/quickstart.py --num-gpus 4 train.seed=1
    loradet train --config-file configs/quickstart.py --resume
    loradet train --config-file configs/quickstart.py --eval-only \\
        --checkpoint work_dirs/quickstart/model_best.pth --split test --output-json test.json
    torchrun --nproc-per-node 4 -m loradet.cli train --config-file configs/quickstart.py

Ctrl-C (or kill -INT) finishes the step, saves, prints the command to go on with, and exits with status 130; so does
SIGTERM, with status 143. One training at a time writes a folder.
An error in what was given is one line; with LORADET_TRACEBACK=1 in the environment its traceback is shown too.
"""

import argparse
import sys

from loradet.cli.overrides import CONFIG_HELP, add_overrides
from loradet.cli.trust import add_trust
from loradet.errors import errors_in_one_line


def parse_arguments(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The options; what does not go together is refused with exit status 2."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument("--output", metavar="DIR", help="folder of the run: train.output_dir")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate a checkpoint, train nothing")
    add_evaluation(parser, "with --eval-only: ")
    add_launch(parser)
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.eval_only and (arguments.checkpoint or arguments.split or arguments.output_json):
        parser.error("--checkpoint, --split and --output-json go with --eval-only")
    if arguments.output_json and not arguments.split:
        parser.error("--output-json needs --split")
    if arguments.eval_only and arguments.resume:
        parser.error("--eval-only and --resume exclude each other")
    if arguments.output is not None:
        arguments.overrides.append(f"train.output_dir={arguments.output}")
    arguments.command = "train"
    return arguments


def add_evaluation(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Which weights to evaluate, on which split; `when` begins the help of each."""
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help=f"{when}checkpoint or adapter (.safetensors); default: model_best.pth in train.output_dir, or what an "
        "override train.init_checkpoint=FILE names",
    )
    parser.add_argument("--split", metavar="NAME", help=f"{when}split, as val; default: train.eval_splits")
    parser.add_argument("--output-json", metavar="FILE", help=f"{when}where metrics of the --split go")


def add_launch(parser: argparse.ArgumentParser) -> None:
    """Processes and machines, and overrides."""
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine (also on CPU)")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="R", help="this machine's number, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help='rendezvous; "auto" on one machine, else tcp://HOST:PORT (default: auto)',
    )
    add_trust(parser)
    add_overrides(parser)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet train`; leaves by SystemExit with the status of `run`."""
    sys.exit(run(parse_arguments(argv, prog)))


def run(arguments: argparse.Namespace) -> int:
    """Train or evaluate; returns the exit status."""
    with errors_in_one_line():
        from loradet.training.command import run_command
    return run_command(arguments)
