"""What the pages tell users to type exists and is taken: tools, flags, configs and overrides."""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from helpers.paths import ROOT

from loradet.cli import COMMANDS as SUBCOMMANDS
from loradet.config import load_config

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "datasets" / "README.md"]
OVERRIDE = re.compile(r"\+?[a-z_]+(\.\w+)+=")
_PROGRAM = rf"(?:(?:python|torchrun .*?) )?((?:tools/\w+\.py|loradet (?:{'|'.join(SUBCOMMANDS)})) .*?)"
_SHELL = {"|", ">", ">>", "&&", "&", ";"}


@dataclass(frozen=True)
class Command:
    page: str
    words: tuple[str, ...]  # `tools/….py`, or `loradet` and a subcommand, and what follows

    def __str__(self):
        return f"{self.page}: {' '.join(self.words)}"

    @property
    def config(self):
        """The config file, where it is one of the repository's; `loradet` takes its name too."""
        where = self.words.index("--config-file") + 1 if "--config-file" in self.words else None
        file = self.words[where] if where and where < len(self.words) else ""
        is_name = self.words[0] == "loradet" and re.fullmatch(r"[a-z]\w+", file) is not None
        return str(ROOT / file) if file.startswith("configs/") else file if is_name else None

    @property
    def overrides(self):
        return [word for word in self.words if OVERRIDE.match(word)]


def commands():
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ").replace("-m loradet.cli", "loradet")
        for line in text.splitlines():
            # A comment ends a command; in prose, none begins a line.
            if match := re.match(rf"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:srun )?{_PROGRAM}\s*(?: #.*)?$", line):
                words = shlex.split(match[1])
                stop = next((i for i, word in enumerate(words) if word in _SHELL), len(words))
                yield Command(str(page.relative_to(ROOT)), tuple(words[:stop]))


COMMANDS = list(commands())


def test_there_are_commands():
    assert len(COMMANDS) > 40 and sum(bool(one.overrides) for one in COMMANDS) > 10


@cache
def help_text(tool: str, *subcommands: str) -> str:
    program = ["-m", "loradet.cli"] if tool == "loradet" else [ROOT / tool]
    done = subprocess.run([sys.executable, *program, *subcommands, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def parsers_of(command: Command) -> list[str]:
    """The tool's own help, and that of its subcommands as far as words name them."""
    tool, *words = command.words
    named = [words.pop(0)] if tool == "loradet" and words[0] in SUBCOMMANDS else []
    texts = [help_text(tool, *named)]
    for word in words:
        choices = re.search(r"\{([\w,-]+)\}", texts[-1])
        if choices is not None and word in choices[1].split(","):
            named.append(word)
            texts.append(help_text(tool, *named))
    return texts


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_tool_and_flags_exist(command):
    if command.words[0] == "loradet":
        assert command.words[1] in {*SUBCOMMANDS, "--help", "--version"}
    else:
        assert (ROOT / command.words[0]).is_file()
    flags = {word.partition("=")[0] for word in command.words if word.startswith("--")}
    helps = " ".join(parsers_of(command))
    assert not {flag for flag in flags if not re.search(rf"{flag}(?![\w-])", helps)}


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.config], ids=str)
def test_config_and_overrides_are_taken(command):
    values = [re.sub(r"\$\w+", "0", word) for word in command.overrides]  # a shell's loop variable
    load_config(command.config, values)


def _text_of(page: Path) -> str:
    """Without code blocks, whose lines with # are no headings."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@cache
def anchors_of(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", _text_of(page), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "work_dirs" / "README.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", _text_of(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors_of(file), target


def test_every_page_is_in_the_index():
    linked = set(re.findall(r"\]\(([\w/.]+\.md)", (ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - {"README.md"} <= linked
