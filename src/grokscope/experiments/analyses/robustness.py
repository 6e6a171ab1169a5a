"""How the trained networks stand up to a strong attack: GrokAlign, Figure 5, at the last step.

Over training a cheap attack is measured (``monitor.measures: robust_accuracy``), which may break
less. This is the value to compare with published ones.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.measures.robust_accuracy import robust_accuracy


def robustness(
    trained: AnalysisInput,
    *,
    attack: str = "apgd",
    norm: str = "Linf",
    eps: float = 4 / 255,
    num_points: int = 256,
    seed: int = 0,
) -> dict[str, Any]:
    """Test accuracy of the last network of every condition, without and under attack.

    Args:
        trained: an experiment whose training is over.
        attack: "pgd", "apgd" or "autoattack" (extra ``[attack]``).
        norm: "Linf", "L2" or for AutoAttack "L1".
        eps: radius of the ball for inputs from 0 to 1, scaled with them where ``data.normalize``
            is given.
        num_points: how many test points are attacked, the first.
        seed: of the attack.

    Returns:
        ``finding``: a sentence. ``arms``: by condition, lists over seeds of ``clean`` and
        ``robust``, the accuracies on those points. ``table``: by title of condition, their medians.
    """
    run, arms, table = trained.run, {}, {}
    for arm in run.arms:
        data = trained.data[arm]
        x, y = data.test_x[:num_points], data.test_y[:num_points]
        low, high = data.value_range or (0.0, 1.0)
        found: dict[str, list[float]] = {"clean": [], "robust": []}
        for own in run.seeds(arm):
            model = trained.model(arm, own)
            for name, radius in (("clean", 0.0), ("robust", eps * (high - low))):
                accuracy = robust_accuracy(
                    model, x, y, attack, norm, radius, bounds=data.value_range, seed=seed
                )
                found[name].append(accuracy)
        arms[arm] = found
        title = run.spec["arms"][arm]["title"] or arm
        table[title] = {name: median(values) for name, values in found.items()}
    ends = ", ".join(
        f"{values['robust']:.3f} of {values['clean']:.3f} ({title})"
        for title, values in table.items()
    )
    finding = f"Test accuracy that remains under {attack}, {norm} {eps * 255:g}/255: {ends}"
    return {"finding": finding, "arms": arms, "table": table}
