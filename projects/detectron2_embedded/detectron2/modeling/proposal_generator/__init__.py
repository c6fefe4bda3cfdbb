"""Boxes that may hold an object, for the second stage to look at."""

from detectron2._subset import missing_names
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN, RPN_HEAD_REGISTRY, StandardRPNHead

__all__ = ["PROPOSAL_GENERATOR_REGISTRY", "RPN", "RPN_HEAD_REGISTRY", "StandardRPNHead"]

__getattr__ = missing_names(__name__, ["build_proposal_generator", "build_rpn_head", "rrpn"])
