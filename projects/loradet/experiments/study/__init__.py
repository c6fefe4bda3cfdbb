"""What a study is, and where studies are found; a `study.py` imports its parts from here."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.experiments.study.catalogue import find_studies, load_study
    from loradet.experiments.study.definition import Entry, Reported, Scenes, Smoke, Study
    from loradet.experiments.study.grid import expand_grid
    from loradet.experiments.study.reading import read_study
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["Entry", "Reported", "Scenes", "Smoke", "Study", "expand_grid", "find_studies", "load_study", "read_study"]
