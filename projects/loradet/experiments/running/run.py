"""One run of a study's entry: its folder, config and command lines."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from loradet.config.library import find_config
from loradet.experiments.running.data import RunData
from loradet.experiments.running.program import program
from loradet.experiments.study.config_memo import ConfigMemo
from loradet.experiments.study.definition import Entry, Study
from loradet.experiments.study.reading import named_error
from loradet.run_folder import RunFolder
from loradet.training.folder import record

CHECKPOINT = RunFolder.BEST  # what is evaluated and painted


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How runs are carried out, which changes none of their results.

    Attributes:
        num_gpus: processes of a training on each machine, one a GPU.
        nodes: machines of a training; on several, torchrun starts the processes.
        max_batch_per_gpu: images in one forward pass; None: as the config says.
        overwrite: start afresh where a folder holds a run of another config.
    """

    num_gpus: int = 1
    nodes: int = 1
    max_batch_per_gpu: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an entry.

    Attributes:
        mode: "full" or "smoke".
        root: folder of the run folders.
        data: of a training: what it needs.
        sources: of pictures: the runs to paint.
        shares_id: another study has an entry of that id.
        memo: what is known of configs.
    """

    study: Study
    entry: Entry
    mode: str
    seed: int
    root: Path
    data: RunData = field(default_factory=RunData)
    sources: tuple["Run", ...] = ()
    shares_id: bool = False
    memo: ConfigMemo = field(default_factory=ConfigMemo, compare=False, repr=False)

    @cached_property
    def name(self) -> str:
        """`<id>_<mode>`, and `_seed<N>` where the entry's full runs have other seeds than this one alone.

        Where another study has the id too, it is `<id>@<study>_<mode>`, but for a run that has its folder already.
        """
        plain, long = self._named(self.entry.id), self._named(f"{self.entry.id}@{_as_file_name(self.study.name)}")
        if (self.root / long).is_dir():
            return long
        return long if self.shares_id and not self._is_in(self.root / plain) else plain

    def _named(self, first: str) -> str:
        default = self.entry.seeds[:1] if self.mode == "smoke" else self.entry.seeds
        return f"{first}_{self.mode}" + ("" if default == (self.seed,) else f"_seed{self.seed}")

    def _is_in(self, folder: Path) -> bool:
        """Whether a folder holds this run: a training of the same config, or pictures of the same runs."""
        if self.sources:
            return any((folder / source.name).is_dir() for source in self.sources)
        past = record.read(folder)
        return bool(past) and past.get("config_sha256") == self._identity(folder)

    @property
    def folder(self) -> Path:
        """Of the run's files."""
        return self.root / self.name

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the metrics files that a finished run has: `<split>_metrics.json`."""
        return ("smoke",) if self.is_short else self.entry.splits

    @property
    def is_short(self) -> bool:
        """Whether it is a smoke run; the full run of some entries is one."""
        return self.mode == "smoke" or self.entry.smoke_only

    @property
    def overrides(self) -> list[str]:
        """All `KEY=VALUE` words of the run's command line."""
        return self._overrides(self.folder)

    def _overrides(self, folder: Path) -> list[str]:
        return [*self._decisive, f"train.output_dir={folder}"]

    @property
    def _decisive(self) -> list[str]:
        """The words that say what the run is."""
        words = [*self.entry.overrides, *self.data.overrides]
        if self.is_short:
            smoke = self.study.smoke
            words += [f"train.max_iter={smoke.epochs:g} epochs", "train.eval_splits=[val]", "train.smoke=True"]
            words += smoke.overrides
        else:
            words.append(f"train.eval_splits=[{','.join(self.entry.splits)}]")
        return [*words, f"train.seed={self.seed}"]

    @cached_property
    def config(self) -> DictConfig:
        """The run's config. Raises ValueError that names the entry."""
        return self._config(self.folder)

    @property
    def identity(self) -> str:
        """`record.config_hash` of the config, which is loaded where that is not known. Raises as `config`."""
        if (loaded := self.__dict__.get("config")) is not None:
            return record.config_hash(loaded)
        return self._identity(self.folder)

    def _identity(self, folder: Path) -> str:
        try:
            file = find_config(self.entry.config)
        except FileNotFoundError as error:
            raise named_error(self.entry, error) from error
        words = self._decisive

        def make() -> str:
            # Runs of one entry differ in the seed alone, which comes last.
            config = self.memo.recent((str(file), *words[:-1]), lambda: self._config(folder))
            config.train.seed = self.seed
            return record.config_hash(config)

        return self.memo.get("identity", file, words, make)

    def _config(self, folder: Path) -> DictConfig:
        from loradet.config import load_config

        try:
            return load_config(self.entry.config, self._overrides(folder))
        except (ValueError, OSError, OmegaConfBaseException) as error:
            raise named_error(self.entry, error) from error

    def commands(
        self,
        launch: Launch | None = None,
        *,
        evaluate_only: Sequence[str] = (),
        sources: Sequence["Run"] | None = None,
    ) -> list[list[str]]:
        """Command lines (without the interpreter), in their order; what has been begun is gone on with.

        Args:
            launch: whose `overwrite` means to start afresh here.
            evaluate_only: splits that a finished training is evaluated on.
            sources: of pictures: the runs to paint; None: all.
        """
        launch = launch or Launch()
        if self.entry.kind == "pictures":
            return [self._paint(source) for source in (self.sources if sources is None else sources)]
        train = [*program("train", "lazyconfig_train_net"), "--config-file", self.entry.config]
        if launch.nodes == 1:
            train += ["--num-gpus", str(launch.num_gpus)]
        words = list(self.overrides)
        if launch.max_batch_per_gpu is not None:
            words.append(f"train.max_batch_per_gpu={launch.max_batch_per_gpu}")
        if evaluate_only:
            return [[*train, "--eval-only", *self._evaluation(split), *words] for split in evaluate_only]
        return [[*train, *words, "train.overwrite=True"] if launch.overwrite else [*train, "--resume", *words]]

    def _evaluation(self, split: str) -> list[str]:
        name = "val" if split == "smoke" else split
        return ["--split", name, "--output-json", str(RunFolder(self.folder).split_metrics(split))]

    def _paint(self, source: "Run") -> list[str]:
        split = "val" if self.mode == "smoke" else self.entry.splits[0]
        return [
            *program("visualize", "visualize"),
            *("--config-file", str(RunFolder(source.folder).config)),
            *("--checkpoint", str(source.folder / CHECKPOINT), "--split", split, "--export"),
            *("--subset", str(self.study.smoke.val_images if self.mode == "smoke" else self.entry.images)),
            *("--output", str(self.folder / source.name)),
        ]


def _as_file_name(study: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", study)
