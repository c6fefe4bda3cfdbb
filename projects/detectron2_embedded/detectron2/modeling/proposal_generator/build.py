"""The registry of proposal generators."""

from detectron2._subset import missing_names
from detectron2.utils.registry import Registry

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")


__getattr__ = missing_names(__name__, ["build_proposal_generator"])
