"""The best trial as a config file."""

import json
import textwrap

from loradet.experiments.running.run import Run

FILE = "best.py"


def best_config(run: Run, title: str, output_dir: str) -> str:
    """Text of a config that trains what a run has trained, into a folder of its own.

    Args:
        run: the best trial.
        title: what it says at its head, one paragraph.
        output_dir: what it names as `train.output_dir`.
    """
    words = [word for word in run.overrides if not word.startswith("train.output_dir=")]
    lines = textwrap.wrap(title, 110)
    head = ['"""' + "\n".join(lines) + ('\n"""' if len(lines) > 1 else '"""')]
    overrides = ["_config = load_config(", f"    {_quoted(run.entry.config)},", "    ["]
    overrides += [f"        {_quoted(word)}," for word in words]
    overrides += ["    ],", ")"]
    names = [f"{name} = _config.{name}" for name in sorted(run.config)]
    body = ["", "from loradet.config import load_config", "", *overrides, *names]
    return "\n".join([*head, *body, f"train.output_dir = {_quoted(output_dir)}"]) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
