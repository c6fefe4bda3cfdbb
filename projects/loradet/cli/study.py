"""Run a study's experiments, see how far they are, and make its tables.

    loradet study list
    loradet study show E0005
    loradet study run E0002 E0003 --full --seeds 0 1 2 --num-gpus 4
    loradet study --study configs/sar_lora_dino/mini run --full --jobs 2
    loradet study --study configs/sar_lora_dino report
    loradet study --study configs/vim_ofat run --smoke --report

A study is configs/<study>/study.py (or .yaml); --study may be left out where the ids tell which one is meant.
"""

import argparse
import sys

from loradet.errors import errors_in_one_line


def parse_arguments(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The subcommand and its options."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(study=None, work_dirs="work_dirs")
    # Before and after the command; only what is given replaces a default.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    for target in (parser, common):
        target.add_argument("--study", metavar="DIR", help="folder of the study, its file, or its name under configs/")
        target.add_argument("--work-dirs", metavar="DIR", help="folder of the runs (work_dirs)")
    commands = parser.add_subparsers(dest="command", required=True)

    commands.add_parser("list", parents=[common], help="the entries of the study, or of all studies")
    show = commands.add_parser("show", parents=[common], help="one entry in full, with its commands")
    show.add_argument("id")
    show.add_argument("--num-gpus", type=int, default=4, metavar="N", help="of the second command (%(default)s)")

    run = commands.add_parser("run", parents=[common], help="carry out runs; goes on where it was")
    run.add_argument("ids", nargs="*", metavar="ID", help="entries; none: all of the study")
    mode = run.add_mutually_exclusive_group()
    mode.add_argument("--full", action="store_const", dest="mode", const="full", help="the whole training (default)")
    mode.add_argument("--smoke", action="store_const", dest="mode", const="smoke", help="few images, one epoch")
    run.add_argument("--seeds", nargs="+", type=int, metavar="N", help="instead of each entry's own")
    run.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes a run (%(default)s)")
    run.add_argument("--max-batch-per-gpu", type=int, metavar="N", help="images a forward pass, for small memories")
    run.add_argument("--jobs", type=int, metavar="K", help="runs at a time (as many as the GPUs allow)")
    run.add_argument("--executor", default="local", choices=("local", "slurm", "slurm-local", "slurm-debug", "ray"))
    run.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="submitit's parameters of a job")
    _add_ray(run)
    run.add_argument("--overwrite", action="store_true", help="start afresh runs of another config or failing a check")
    run.add_argument("--report", action="store_true", help="then write the report of these runs, failed ones too")
    run.add_argument("--output", metavar="DIR", help="of that report (WORK_DIRS/<study>_report)")
    _add_smoke_size(run)
    show_only = run.add_mutually_exclusive_group()
    show_only.add_argument("--dry-run", action="store_true", help="say what would be done")
    show_only.add_argument("--dump-commands", action="store_true", help="print the command lines and do nothing")
    run.set_defaults(mode="full", overwrite=False)

    for name, what in (
        ("status", "how far the runs are"),
        ("collect", "all numbers of finished runs, as JSON"),
        ("ledger", "the whole study as Markdown, filled from its runs"),
        ("report", "tables, plots and one HTML file"),
        ("zoo", "a record of finished runs as Markdown: weights, figures, files and sums"),
    ):
        command = commands.add_parser(name, parents=[common], help=what)
        command.add_argument("ids", nargs="*", metavar="ID", help="entries; none: all of the study")
        command.add_argument("--seeds", nargs="+", type=int, metavar="N", help="instead of each entry's own")
        if name != "zoo":  # which is of full runs
            _add_smoke_size(command)
        if name != "report":
            command.add_argument("--output", metavar="FILE", help="write it there")
        if name == "ledger":
            command.add_argument("--num-gpus", type=int, default=4, metavar="N", help="of its commands (%(default)s)")
        if name == "report":
            command.add_argument("--output", metavar="DIR", help="folder (WORK_DIRS/<study>_report)")
            command.add_argument(
                "--mode", choices=("full", "smoke", "both"), help="(full; smoke where no full run has begun)"
            )
            command.add_argument(
                "--bootstrap", type=int, default=0, metavar="N", help="intervals of AP by N draws of the images (none)"
            )
    return parser.parse_args(argv)


def _add_ray(run: argparse.ArgumentParser) -> None:
    ray = run.add_argument_group("of --executor ray")
    ray.add_argument("--address", metavar="HOST:PORT", help="of the cluster's head node, or auto (one of its own)")
    ray.add_argument(
        "--gpus-per-run", type=float, metavar="N", help="also a part of one (--num-gpus, if there are any)"
    )
    ray.add_argument("--cpus-per-run", type=float, metavar="N", help="(its share of a node)")
    ray.add_argument("--node-wait", type=float, metavar="S", help="seconds for a node that is still to come (0)")
    run.set_defaults(address=None, gpus_per_run=None, cpus_per_run=None, node_wait=None)


def _add_smoke_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--smoke-train-images", type=int, metavar="N", help="training images of smoke runs (200)")
    parser.add_argument("--smoke-val-images", type=int, metavar="N", help="their validation images (50)")
    parser.add_argument("--smoke-epochs", type=float, metavar="E", help="their epochs (1)")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """`loradet study`; returns the exit status, 130 where it was interrupted."""
    arguments = parse_arguments(argv, prog)

    try:
        with errors_in_one_line():
            from loradet.experiments.command import run_command

            return run_command(arguments)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.", file=sys.stderr)
        return 130
