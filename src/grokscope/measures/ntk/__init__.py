"""The empirical neural tangent kernel, exact for any module."""

from grokscope.measures.ntk.empirical import Reduction, empirical_ntk, ntk_plan
from grokscope.measures.ntk.plan import NTKPlan, ParameterPlan

__all__ = ["NTKPlan", "ParameterPlan", "Reduction", "empirical_ntk", "ntk_plan"]
