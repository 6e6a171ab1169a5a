"""The exact linear regions of a piecewise-affine network on a slice of input space."""

from grokscope.measures.regions.decision import DecisionBoundary
from grokscope.measures.regions.joining import MergedRegions
from grokscope.measures.regions.partition import linear_regions
from grokscope.measures.regions.result import AffineMaps, LinearRegions
from grokscope.measures.regions.slice import Slice

__all__ = [
    "AffineMaps",
    "DecisionBoundary",
    "LinearRegions",
    "MergedRegions",
    "Slice",
    "linear_regions",
]
