"""What a study of factors varies, and how: one factor at a time, or all combinations."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loradet.errors import UserError
from loradet.experiments.study.definition import Entry, Study
from loradet.experiments.study.reading import read_study

Level = str | float


@dataclass(frozen=True, kw_only=True)
class Design:
    """The entries of a study that have factors.

    Attributes:
        factors: those with more than one level: name -> levels, numbers rising, texts in the order of the entries.
        entries: in the study's order.
        baseline: what the others are compared with.
        is_factorial: any two factors have all their pairs of levels equally often, as in a full factorial and its
            regular fractions; then a level is judged by all entries that have it. Else it is judged by those that
            differ from the baseline in that factor alone.
    """

    factors: Mapping[str, tuple[Level, ...]]
    entries: tuple[Entry, ...]
    baseline: Entry
    is_factorial: bool

    def at(self, factor: str, level: Level) -> tuple[Entry, ...]:
        """The entries that a level is judged by."""
        here = [entry for entry in self.entries if entry.factors[factor] == level]
        return tuple(here if self.is_factorial else (e for e in here if self.differing(e) <= {factor}))

    def differing(self, entry: Entry) -> set[str]:
        """Factors in which an entry is not at the baseline's level."""
        return {name for name in self.factors if entry.factors[name] != self.baseline.factors[name]}

    def entry_with(self, levels: Mapping[str, Level]) -> Entry | None:
        """The entry with these levels of the factors; None where there is none."""
        return next((e for e in self.entries if all(e.factors[name] == levels[name] for name in self.factors)), None)


def design(study: Study) -> Design | None:
    """The design of a study; None where no entry has factors, or none of them varies.

    The baseline is the entry with factors that most others name first among their `baselines`, or else the first.
    Levels that the study has by keys of its configs are read there.

    Raises:
        ValueError: an entry with factors lacks one that another has, or a config does not say its level.
    """
    if study.factors:
        study = read_study(study, [entry for entry in study.entries if study.factors.keys() <= entry.factors.keys()])
    entries = [entry for entry in study.entries if entry.factors]
    if not entries:
        return None
    names = list(dict.fromkeys(name for entry in entries for name in entry.factors))
    for entry in entries:
        if absent := [name for name in names if name not in entry.factors]:
            raise UserError(f"Entry {entry.id} has no level of the factor {absent[0]}, which others of its study have.")
    levels = {name: _levels(entry.factors[name] for entry in entries) for name in names}
    varied = {name: found for name, found in levels.items() if len(found) > 1}
    if not varied:
        return None
    named = Counter(entry.baselines[0] for entry in entries if entry.baselines)
    baseline = max(entries, key=lambda entry: named[entry.id])
    return Design(
        factors=varied, entries=tuple(entries), baseline=baseline, is_factorial=_is_factorial(entries, varied)
    )


def _levels(found: Iterable[Level]) -> tuple[Level, ...]:
    values = list(dict.fromkeys(found))
    return tuple(values if any(isinstance(value, str) for value in values) else sorted(values))


def _is_factorial(entries: Sequence[Entry], factors: Mapping[str, tuple[Level, ...]]) -> bool:
    if len(factors) < 2:
        return False
    for first, second in itertools.combinations(factors, 2):
        counts = Counter((entry.factors[first], entry.factors[second]) for entry in entries)
        if len({counts[pair] for pair in itertools.product(factors[first], factors[second])}) > 1:
            return False
    return True


def level_text(level: Level) -> str:
    """As `0.001`, `AdamW`."""
    return level if isinstance(level, str) else f"{level:g}"


def levels_text(levels: Mapping[str, Level]) -> str:
    """As `lr=0.001, optimizer=SGD`."""
    return ", ".join(f"{name}={level_text(level)}" for name, level in levels.items())
