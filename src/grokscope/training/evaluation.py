"""How a network does on all training and test data."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from grokscope.data import Dataset
from grokscope.measures.batches import map_leaves, rows
from grokscope.measures.labels import share_correct
from grokscope.measures.modes import evaluating
from grokscope.measures.view import outputs_of
from grokscope.training.objective import Objective, loss_and_correct
from grokscope.training.scores import are_classes

_ALIGNMENT = 64


def aligned(x: Tensor) -> Tensor:
    """The same numbers where PyTorch would have put them: from a multiple of 64 bytes on.

    Matrix products round differently with the alignment of their operands, and memory that another
    library allocated lies elsewhere in each process: a resumed run would differ in the last bit.
    """
    x = x.contiguous()
    return x if x.data_ptr() % _ALIGNMENT == 0 else x.clone()


class Evaluation:
    """Data with targets in the form that the loss takes, and the scores of a network on them.

    Args:
        model: the network.
        data: on the device and in the dtype of the model.
        objective: the loss.

    Attributes:
        has_accuracy: whether the targets are classes, so that outputs are right or wrong.

    Raises:
        TypeError: if what the model returns holds no tensor of outputs.
        ValueError: if the model does not take the inputs, or its outputs do not fit the labels or
            the loss.
    """

    def __init__(self, model: nn.Module, data: Dataset, objective: Objective) -> None:
        self.model = model
        self.data = data = replace(
            data,
            train_x=map_leaves(aligned, data.train_x),
            train_y=aligned(data.train_y),
            test_x=map_leaves(aligned, data.test_x),
            test_y=aligned(data.test_y),
        )
        self.objective = objective
        with evaluating(model), torch.no_grad():
            # one example says the shape of the outputs, which decides the form of the targets
            outputs = outputs_of(model, rows(data.train_x, slice(0, 1)))
        self.train_targets = objective.targets(data.train_y, outputs)
        self.test_targets = objective.targets(data.test_y, outputs)
        self.has_accuracy = all(
            are_classes(outputs.expand(len(y), *outputs.shape[1:]), y)
            for y in (data.train_y, data.test_y)
        )

    def scores(self) -> dict[str, float]:
        """Loss on training and test data, and accuracy on both and on parts, in eval mode."""
        with evaluating(self.model):
            return self._scores()

    def _scores(self) -> dict[str, float]:
        data = self.data
        scores: dict[str, float] = {}
        for name, x, y, targets in (
            ("train", data.train_x, data.train_y, self.train_targets),
            ("test", data.test_x, data.test_y, self.test_targets),
        ):
            loss, correct = loss_and_correct(
                self.model, self.objective, x, targets, y, with_correct=self.has_accuracy
            )
            scores[f"{name}_loss"] = loss
            if correct is None:
                continue
            scores[f"{name}_accuracy"] = share_correct(correct, y)
            for part, mask in data.test_parts.items() if name == "test" else ():
                scores[f"{part}_accuracy"] = share_correct(correct[mask], y[mask])
        return scores
