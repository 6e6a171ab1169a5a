"""See inside training: the geometry of a network while it learns.

The names below are the public interface; ``docs/`` has one page for each group.
"""

from grokscope._version import __version__
from grokscope.data import Dataset
from grokscope.data import load as load_data
from grokscope.findings import Onset, Target, onset
from grokscope.measures.activations import layer_activations, stream_layer_activations
from grokscope.measures.capacity import ManifoldGeometry, manifold_geometry
from grokscope.measures.centers import CenterStructure, center_structure
from grokscope.measures.centroid import centroid_alignment, centroid_inner_product, centroids, radii
from grokscope.measures.embedding import embedding_2d
from grokscope.measures.fourier import fourier_gini, fourier_spectrum
from grokscope.measures.geometry import JacobianGeometry, jacobian_geometry
from grokscope.measures.glue import GlueGeometry, glue_geometry
from grokscope.measures.jacobian import (
    affine_map,
    input_jacobian,
    jacobian_alignment,
    jacobian_norm,
    jacobian_pc1,
)
from grokscope.measures.kernels import (
    kernel_alignment,
    kernel_distance,
    kernel_distance_matrix,
    ntk_velocity,
)
from grokscope.measures.layers import layer_centroids, layer_radii
from grokscope.measures.manifolds import class_manifolds
from grokscope.measures.nnls import NonnegativeSolution, nonnegative_least_squares
from grokscope.measures.norms import weight_norms
from grokscope.measures.ntk import NTKPlan, ParameterPlan, empirical_ntk, ntk_plan
from grokscope.measures.probe import LinearProbe, ProbeResult, linear_probe, sgd_probe
from grokscope.measures.progress import (
    ProgressMeasures,
    key_frequencies,
    progress_measures,
)
from grokscope.measures.regions import (
    DecisionBoundary,
    LinearRegions,
    MergedRegions,
    Slice,
    linear_regions,
)
from grokscope.measures.robust_accuracy import robust_accuracy
from grokscope.measures.robustness import noise_accuracy, robust_radius
from grokscope.measures.simulated_capacity import SimulatedCapacity, simulated_capacity
from grokscope.measures.sparsity import gini
from grokscope.measures.view import View
from grokscope.methods.adversarial import AdversarialTraining, adversarial_inputs, noisy_inputs
from grokscope.methods.clipping import GradientClipping
from grokscope.methods.gradient_noise import GradientNoise, noise_deviation
from grokscope.methods.grokalign import GrokAlign
from grokscope.methods.grokfast import Grokfast, slow_gradient_ema, slow_gradient_ma
from grokscope.methods.orthograd import OrthoGrad, orthogonal_gradient
from grokscope.methods.penalty import jacobian_penalty
from grokscope.methods.stablemax import stable_logits, stablemax_cross_entropy
from grokscope.models import CNN, MLP, Transformer
from grokscope.runs import History, Run, RunDirectory
from grokscope.training import (
    FitResult,
    LayerGeometry,
    Monitor,
    NoiseAccuracy,
    NTKDistance,
    Phase,
    RobustAccuracy,
    Schedule,
    StopWhenSettled,
    fit,
    fit_seeds,
    keep_freed_memory,
    measure,
)

__all__ = [
    "CNN",
    "MLP",
    "AdversarialTraining",
    "CenterStructure",
    "Dataset",
    "DecisionBoundary",
    "FitResult",
    "GlueGeometry",
    "GradientClipping",
    "GradientNoise",
    "GrokAlign",
    "Grokfast",
    "History",
    "JacobianGeometry",
    "LayerGeometry",
    "LinearProbe",
    "LinearRegions",
    "ManifoldGeometry",
    "MergedRegions",
    "Monitor",
    "NTKDistance",
    "NTKPlan",
    "NoiseAccuracy",
    "NonnegativeSolution",
    "Onset",
    "OrthoGrad",
    "ParameterPlan",
    "Phase",
    "ProbeResult",
    "ProgressMeasures",
    "RobustAccuracy",
    "Run",
    "RunDirectory",
    "Schedule",
    "SimulatedCapacity",
    "Slice",
    "StopWhenSettled",
    "Target",
    "Transformer",
    "View",
    "__version__",
    "adversarial_inputs",
    "affine_map",
    "center_structure",
    "centroid_alignment",
    "centroid_inner_product",
    "centroids",
    "class_manifolds",
    "embedding_2d",
    "empirical_ntk",
    "fit",
    "fit_seeds",
    "fourier_gini",
    "fourier_spectrum",
    "gini",
    "glue_geometry",
    "input_jacobian",
    "jacobian_alignment",
    "jacobian_geometry",
    "jacobian_norm",
    "jacobian_pc1",
    "jacobian_penalty",
    "keep_freed_memory",
    "kernel_alignment",
    "kernel_distance",
    "kernel_distance_matrix",
    "key_frequencies",
    "layer_activations",
    "layer_centroids",
    "layer_radii",
    "linear_probe",
    "linear_regions",
    "load_data",
    "manifold_geometry",
    "measure",
    "noise_accuracy",
    "noise_deviation",
    "noisy_inputs",
    "nonnegative_least_squares",
    "ntk_plan",
    "ntk_velocity",
    "onset",
    "orthogonal_gradient",
    "progress_measures",
    "radii",
    "robust_accuracy",
    "robust_radius",
    "sgd_probe",
    "simulated_capacity",
    "slow_gradient_ema",
    "slow_gradient_ma",
    "stable_logits",
    "stablemax_cross_entropy",
    "stream_layer_activations",
    "weight_norms",
]
