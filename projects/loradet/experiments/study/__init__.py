"""What a study is, and where studies are found; a `study.py` imports its parts from here."""

from loradet.experiments.study.catalogue import find_studies, load_study
from loradet.experiments.study.definition import Entry, Reported, Scenes, Smoke, Study
from loradet.experiments.study.grid import expand_grid

__all__ = ["Entry", "Reported", "Scenes", "Smoke", "Study", "expand_grid", "find_studies", "load_study"]
