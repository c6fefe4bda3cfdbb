"""The command `loradet`: a module of this package a subcommand. `tools/*.py` call the same functions."""

import importlib
import sys

from loradet.errors import end_where_nobody_reads, show_traceback

__all__ = ["COMMANDS", "main"]

# Subcommand: module, function, what it does.
COMMANDS = {
    "train": ("train", "main", "train, or go on with, what a config describes"),
    "evaluate": ("evaluate", "main", "metrics of a checkpoint or an adapter on a split"),
    "predict": ("predict", "main", "detect on images and folders: COCO JSON and pictures"),
    "data": ("data", "main", "make, check, split, convert and describe data sets"),
    "study": ("study", "main", "run a study's experiments, make its tables and its report"),
    "compare": ("compare", "main", "finished runs side by side"),
    "adapters": ("adapters", "main", "look into adapter files, cut them out, merge them"),
    "weights": ("weights", "main", "take weights out of pickles, backbones out of checkpoints"),
    "export": ("export", "main", "a trained detector as one file that needs no config"),
    "visualize": ("visualize", "main", "paint detections, compare models, heat maps, error analysis"),
    "calibrate": ("calibrate", "main", "do scores say how often a detector is right, and how sure is its AP"),
    "benchmark": ("benchmark", "main", "measure training, memory, inference, loader and evaluation"),
    "stats": ("stats", "main", "parameters and FLOPs of a config"),
    "configs": ("configs", "main", "list the configs that come with the project"),
    "copy": ("configs", "copy", "a config to edit"),
    "env": ("env", "main", "which Detectron2 and which versions are in use"),
}


def main(argv: list[str] | None = None) -> int | None:
    """Run a subcommand; returns its exit status."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        from loradet import __version__

        print(f"loradet {__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(f"{_help()}\n\nerror: {words[0]!r} is none of these commands{_nearest(words[0])}", file=sys.stderr)
        return 2
    module, function, _ = COMMANDS[words[0]]
    command = getattr(importlib.import_module(f"loradet.cli.{module}"), function)
    try:
        status = command(list(words[1:]), f"loradet {words[0]}")
        sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        end_where_nobody_reads(error)
        raise
    except KeyboardInterrupt as stop:  # of a command that has nothing to save
        show_traceback(stop)
        print("Interrupted.", file=sys.stderr)
        return 130


def _help() -> str:
    lines = [f"    {name:10} {what}" for name, (_, _, what) in COMMANDS.items()]
    head = (
        "Adapt frozen foundation backbones to object detection.\n\nusage: loradet COMMAND …; COMMAND --help says more\n"
    )
    return "\n".join([head, *lines])


def _nearest(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, n=1)
    return f"; nearest: {near[0]}" if near else ""
