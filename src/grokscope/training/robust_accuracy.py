"""How test accuracy stands up to attacks while a network is trained."""

from __future__ import annotations

import torch

from grokscope.arguments import checked_arguments
from grokscope.measures.robust_accuracy import check_attack, robust_accuracy
from grokscope.measures.view import outputs_of
from grokscope.training.archive import Archive
from grokscope.training.measure_with_memory import MeasureWithMemory, Probe


class RobustAccuracy(MeasureWithMemory):
    """Accuracy on the monitor's test points under attack, the column ``robust_accuracy``.

    The random starts are the same at every step; see ``grokscope.robust_accuracy``.

    Args:
        attack: "pgd", which costs 20 forward and backward passes to the input of the points that
            it has not yet broken; "apgd" or "autoattack" cost up to a hundred times as much.
        norm: "Linf" or "L2", for AutoAttack also "L1".
        eps: radius of the ball, in the units of the inputs.
        bounds: lowest and highest value of an input; None for inputs without a range.
        steps: of "pgd", 20 if None, or of "apgd", 100 if None.
        seed: of the random starts.
        threshold: where one output is divided.

    Example:
        >>> import torch, grokscope as gs
        >>> data = gs.load_data("digits", train_size=300, test_size=100)
        >>> test = data.test_x, data.test_y
        >>> measures = [gs.RobustAccuracy(eps=0.1)]
        >>> model = gs.MLP(64, [8], 10, seed=0)
        >>> monitor = gs.Monitor(model, (data.train_x, data.train_y), measures, test=test)
        >>> row = monitor.step(0)
        >>> row["robust_accuracy"] <= row["test_accuracy"]
        True
    """

    name = "robust_accuracy"

    @checked_arguments
    def __init__(
        self,
        attack: str = "pgd",
        norm: str = "Linf",
        eps: float = 4 / 255,
        *,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        steps: int | None = None,
        seed: int = 0,
        threshold: float = 0.0,
    ) -> None:
        check_attack(attack, norm, eps, bounds, steps)
        self.attack = attack
        self.norm = norm
        self.eps = eps
        self.bounds = bounds
        self.steps = steps
        self.seed = seed
        self.threshold = threshold

    def measure(self, probe: Probe, step: int, archive: Archive) -> dict[str, float]:
        """The accuracy under attack; NaN where training has diverged."""
        if probe.test is None:
            raise ValueError("robust_accuracy needs test points: give the monitor test=(x, y)")
        x, y = probe.test
        with torch.no_grad():
            if not bool(outputs_of(probe.model, x).isfinite().all()):
                return {self.name: float("nan")}
        accuracy = robust_accuracy(
            probe.model,
            x,
            y,
            self.attack,
            self.norm,
            self.eps,
            bounds=self.bounds,
            steps=self.steps,
            seed=self.seed,
            threshold=self.threshold,
            chunk_size=probe.chunk_size,
        )
        return {self.name: accuracy}
