"""The empirical neural tangent kernel, exact for any module."""

from grokscope.measures.ntk.empirical import empirical_ntk
from grokscope.measures.ntk.plan import NTKPlan, ParameterPlan, ntk_plan

__all__ = ["NTKPlan", "ParameterPlan", "empirical_ntk", "ntk_plan"]
