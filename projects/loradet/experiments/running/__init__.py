"""Carries out the runs of a study: folders, command lines, state, processes and SLURM jobs."""

__all__: list[str] = []
