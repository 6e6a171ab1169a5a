"""How test accuracy stands up to noise on the inputs while a network is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import leaf_at, wrt_key
from grokscope.measures.robustness import Dims, check_dims, gaussian_noise, perturbed_accuracy
from grokscope.measures.view import wrt_of
from grokscope.training.archive import Archive
from grokscope.training.measure_with_memory import MeasureWithMemory, Probe


class NoiseAccuracy(MeasureWithMemory):
    """Accuracy on the monitor's test points under Gaussian noise of several standard deviations.

    Columns are ``noise_accuracy/0.2`` and so on. One draw serves all steps and deviations, so that
    a change is one of the network; see ``grokscope.noise_accuracy``.

    Args:
        std: standard deviations.
        dims: which features of a flattened input the noise hits; None for all.
        seed: of the noise.
        threshold: where one output is divided.
        noise: the noise itself, of the shape of the test points and of deviation 1, in place of a
            draw; as of inputs whose coordinates ``reduce_to_span`` has changed.

    Example:
        >>> import torch, grokscope as gs
        >>> data = gs.load_data("digits", train_size=300, test_size=100)
        >>> test = data.test_x, data.test_y
        >>> measures = [gs.NoiseAccuracy([0.1, 0.5])]
        >>> model = gs.MLP(64, [8], 10, seed=0)
        >>> monitor = gs.Monitor(model, (data.train_x, data.train_y), measures, test=test)
        >>> [name for name in monitor.step(0) if name.startswith("noise")]
        ['noise_accuracy/0.1', 'noise_accuracy/0.5']
    """

    name = "noise_accuracy"

    @checked_arguments
    def __init__(
        self,
        std: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
        dims: Dims | None = None,
        seed: int = 0,
        *,
        threshold: float = 0.0,
        noise: Tensor | None = None,
    ) -> None:
        if not std or any(not 0 <= s < float("inf") for s in std):
            raise ValueError(f"std must hold deviations of 0 or more: got {list(std)}")
        check_dims(dims)
        self.std = tuple(float(s) for s in std)
        self.dims = dims
        self.seed = seed
        self.threshold = threshold
        self._noise = noise

    def measure(self, probe: Probe, step: int, archive: Archive) -> dict[str, float]:
        """The accuracy at every deviation."""
        if probe.test is None:
            raise ValueError("noise_accuracy needs test points: give the monitor test=(x, y)")
        x, y = probe.test
        leaf = leaf_at(x, wrt_key(x, wrt_of(probe.model)))
        if self._noise is None:
            self._noise = gaussian_noise(leaf, self.dims, torch.Generator().manual_seed(self.seed))
        if self._noise.shape != leaf.shape:
            raise ValueError(
                f"noise must have the shape of the test points, {tuple(leaf.shape)}: got "
                f"{tuple(self._noise.shape)}"
            )
        found = perturbed_accuracy(
            probe.model,
            x,
            y,
            self._noise.to(leaf.device),
            self.std,
            self.threshold,
            probe.chunk_size,
        )
        return {f"noise_accuracy/{s:g}": value for s, value in zip(self.std, found, strict=True)}
