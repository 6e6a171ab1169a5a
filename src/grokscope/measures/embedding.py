"""A two-dimensional picture of representations, by UMAP.

McInnes, Healy and Melville, *UMAP: Uniform Manifold Approximation and Projection for Dimension
Reduction*, 2018. For looking at: distances and densities in the picture are not measurements.
"""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.inputs import check_count, check_features, check_number
from grokscope.measures.magnitudes import wide
from grokscope.measures.precision import without_autocast


@checked_arguments
@without_autocast
def embedding_2d(
    features: Tensor,
    num_neighbors: int = 15,
    min_distance: float = 0.1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n 2"]:
    """Each row of features as a point in the plane, near rows near each other.

    Args:
        features: (n, ...), flattened to (n, N).
        num_neighbors: size of the neighborhoods that are kept together.
        min_distance: how closely points may be packed.
        generator: seeds the layout; None for a fixed seed.

    Raises:
        ModuleNotFoundError: if umap-learn is not installed.
        ValueError: for NaN, no rows, or fewer rows than neighbors.
    """
    check_features(features, "features")
    check_count("num_neighbors", num_neighbors, least=2)
    check_number("min_distance", min_distance, least=0)
    if not 2 <= num_neighbors < len(features):
        raise ValueError(
            f"num_neighbors must lie between 2 and the {len(features) - 1} other rows of "
            f"features: got {num_neighbors}"
        )
    try:
        with warnings.catch_warnings():
            # umap warns that its variant for TensorFlow is not there
            warnings.simplefilter("ignore", ImportWarning)
            import umap
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "embedding_2d needs umap-learn: pip install 'grokscope[embed]'"
        ) from error
    seed = 0
    if generator is not None:
        draw = torch.randint(2**31 - 1, (), generator=generator, device=generator.device)
        seed = int(draw)
    layout = umap.UMAP(
        n_neighbors=num_neighbors, min_dist=min_distance, random_state=seed, n_jobs=1
    ).fit_transform(wide(features.detach()).flatten(1).cpu().numpy())
    return torch.from_numpy(layout).to(features.device)
