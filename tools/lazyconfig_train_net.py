#!/usr/bin/env python
"""Train, resume or evaluate what a LazyConfig file describes, on one or many processes.

Examples:
    tools/lazyconfig_train_net.py --config-file configs/quickstart.py
    tools/lazyconfig_train_net.py --config-file configs/quickstart.py --num-gpus 4 train.seed=1
    tools/lazyconfig_train_net.py --config-file configs/quickstart.py --resume
    tools/lazyconfig_train_net.py --config-file configs/quickstart.py --eval-only \\
        --checkpoint work_dirs/quickstart/model_best.pth --split test --output-json test.json
    torchrun --nproc-per-node 4 tools/lazyconfig_train_net.py --config-file configs/quickstart.py

Ctrl-C (or kill -INT) finishes the step, saves, prints the command to go on with, and exits with status 130; so does
SIGTERM, with status 143. One training at a time writes a folder.
An error in what was given is one line; with LORADET_TRACEBACK=1 in the environment its traceback is shown too.
"""

import argparse
import sys


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="LazyConfig file (.py, or a saved .yaml)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate a checkpoint, train nothing")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="with --eval-only: checkpoint or adapter (.safetensors); default: model_best.pth in "
        "train.output_dir, or what an override train.init_checkpoint=FILE names",
    )
    parser.add_argument("--split", metavar="NAME", help="with --eval-only: split, as val; default: train.eval_splits")
    parser.add_argument("--output-json", metavar="FILE", help="with --eval-only and --split: where metrics go")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let a .yaml config call what it likes, as a program does",
    )
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine (also on CPU)")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="R", help="this machine's number, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help='rendezvous; "auto" on one machine, else tcp://HOST:PORT (default: auto)',
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config keys to change; +KEY=VALUE adds one")
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.eval_only and (arguments.checkpoint or arguments.split or arguments.output_json):
        parser.error("--checkpoint, --split and --output-json go with --eval-only")
    if arguments.output_json and not arguments.split:
        parser.error("--output-json needs --split")
    if arguments.eval_only and arguments.resume:
        parser.error("--eval-only and --resume exclude each other")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    try:
        import loradet  # noqa: F401  (before anything of detectron2)
        from loradet.training.command import run_command
    except (ImportError, ValueError) as error:  # no Detectron2 that can be used
        sys.exit(f"error: {error}")

    sys.exit(run_command(arguments))


if __name__ == "__main__":
    main()
