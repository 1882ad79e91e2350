"""The shipping room: conversions to smaller numbers, fixed shapes and other formats, each verified."""

from lacoot_deploy.shipping.conversion import CannotConvertError, Conversion, Converted, Job
from lacoot_deploy.shipping.registry import CONVERSIONS, chain_of
from lacoot_deploy.shipping.targets import TARGETS, Target, get_target

__all__ = [
    "CONVERSIONS",
    "TARGETS",
    "CannotConvertError",
    "Conversion",
    "Converted",
    "Job",
    "Target",
    "chain_of",
    "get_target",
]
