r"""Linear probes: how much of the labels a linear layer can read from frozen representations.

``linear_probe`` solves the convex problem, multinomial logistic regression

    minimize  1/n sum_i cross_entropy(W h_i + b, y_i) + l2/2 |W|^2,

to its optimum by L-BFGS on the full batch, so that the result depends on the representations alone.
``sgd_probe`` is the protocol of Zheng, Daruwalla, Benjamin and Klindt (*Delays in generalization
match delayed changes in representational geometry*, UniReps 2024): a linear layer trained for ten
epochs of stochastic gradient descent, ten times over. Cost: O(n N k) a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.inputs import check_count, check_features, check_number, class_labels
from grokscope.measures.precision import without_autocast
from grokscope.shown import shown


@shown()
@dataclass(frozen=True, repr=False)
class LinearProbe:
    """A fitted linear layer, in float64; call it on features (n, ...) for logits (n, k).

    Attributes:
        weight: (k, N).
        bias: (k,), not penalized.
        train_accuracy: fraction of the training labels it predicts.
        loss: the objective at the end, penalty included.
        gradient: largest entry of the objective's gradient at the end.
    """

    weight: Float[Tensor, "k N"]
    bias: Float[Tensor, " k"]
    train_accuracy: float
    loss: float
    gradient: float

    def __call__(self, features: Tensor) -> Tensor:
        """The logits."""
        return features.flatten(1).to(self.weight) @ self.weight.mT + self.bias


@shown("accuracy", "probe")
class ProbeResult(NamedTuple):
    """Test accuracy, and the probe that has it."""

    accuracy: float
    probe: LinearProbe


@torch.no_grad()
@checked_arguments
@without_autocast
def linear_probe(
    train_features: Tensor,
    train_y: Tensor,
    test_features: Tensor,
    test_y: Tensor,
    l2: float = 1e-3,
    max_steps: int = 1000,
) -> ProbeResult:
    """Test accuracy of the best L2-regularized linear layer on frozen features.

    Args:
        train_features: (n, ...), flattened to (n, N).
        train_y: (n,) integer labels from 0; a label of the test set that it lacks counts as missed.
        test_features: (n', ...), of the same N.
        test_y: (n',).
        l2: strength of the penalty on the weights; scikit-learn's ``C`` is 1 / (n l2). It is
            relative to the features' scale. 0 has no optimum where the classes are separable.
        max_steps: of L-BFGS; ``probe.gradient`` tells how far it came.

    Raises:
        ValueError: for NaN, shapes that do not fit, labels that are not integers from 0, negative
            l2.

    Example:
        >>> import grokscope as gs, torch
        >>> x, y = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
        >>> gs.linear_probe(x, y, x, y).accuracy
        1.0
    """
    x, x_test = _check_split(train_features, train_y, test_features, test_y)
    train_y, test_y = class_labels(train_y), class_labels(test_y)
    check_number("l2", l2, least=0)
    check_count("max_steps", max_steps)
    target = torch.nn.functional.one_hot(train_y).to(x)
    num_classes = target.shape[1]
    weight, bias = x.new_zeros(num_classes, x.shape[1]), x.new_zeros(num_classes)
    # strictly convex in the weights where l2 > 0: quasi-Newton's minimum is the only one
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_steps,
        max_eval=2 * max_steps,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> float:
        logits = x @ weight.mT + bias
        # the gradient by hand: no graph, and in float64 exact to the tolerance asked for
        error = (logits.softmax(1) - target) / len(x)
        weight.grad, bias.grad = error.mT @ x + l2 * weight, error.sum(0)
        fit = (logits.logsumexp(1) - (logits * target).sum(1)).mean()
        return float(fit + 0.5 * l2 * weight.square().sum())

    optimizer.step(objective)
    loss = objective()
    gradient = max(float(p.grad.abs().max()) for p in (weight, bias) if p.grad is not None)
    train_accuracy = _accuracy(x @ weight.mT + bias, train_y)
    probe = LinearProbe(weight, bias, train_accuracy, loss, gradient)
    return ProbeResult(_accuracy(probe(x_test), test_y), probe)


@torch.no_grad()
@checked_arguments
@without_autocast
def sgd_probe(
    train_features: Tensor,
    train_y: Tensor,
    test_features: Tensor,
    test_y: Tensor,
    num_repeats: int = 10,
    num_examples: int = 1280,
    num_epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 0.01,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " num_repeats"]:
    """Test accuracies of linear layers trained by SGD on random subsets, one for each repeat.

    The defaults are the paper's protocol; its features are those of the second-to-last layer, and
    its figure shows the mean. All repeats train side by side.

    Args:
        train_features: (n, ...), flattened to (n, N).
        train_y: (n,) integer labels from 0.
        test_features: (n', ...), of the same N.
        test_y: (n',).
        num_repeats: fresh layers, each with its own examples and order.
        num_examples: training examples of a repeat, drawn without replacement; all where fewer.
        num_epochs: passes over them.
        batch_size: examples of a step; the last step of an epoch may have fewer.
        learning_rate: of plain SGD on the mean cross-entropy.
        generator: of subsets, initial layers and orders; None for a fixed stream of its own.

    Raises:
        ValueError: as for ``linear_probe``, or a count below one.

    Example:
        >>> import grokscope as gs, torch
        >>> x, y = torch.tensor([[-9.0], [-8.0], [8.0], [9.0]]), torch.tensor([0, 0, 1, 1])
        >>> gs.sgd_probe(x, y, x, y, num_repeats=2, num_epochs=50)
        tensor([1., 1.], dtype=torch.float64)
    """
    x, x_test = _check_split(train_features, train_y, test_features, test_y)
    train_y, test_y = class_labels(train_y), class_labels(test_y)
    counts = {"num_repeats": num_repeats, "num_examples": num_examples, "num_epochs": num_epochs}
    for name, value in (counts | {"batch_size": batch_size}).items():
        check_count(name, value)
    check_number("learning_rate", learning_rate, least=0)
    generator = generator or torch.Generator().manual_seed(0)
    device = generator.device

    def orders(length: int) -> Tensor:
        # a permutation for each repeat from one draw: the order of independent uniform numbers
        keys = torch.rand((num_repeats, length), generator=generator, device=device)
        return keys.argsort(dim=1).to(x.device)

    target = torch.nn.functional.one_hot(train_y).to(x)
    subset = orders(len(x))[:, :num_examples]
    limit = x.shape[1] ** -0.5  # as torch.nn.Linear starts
    shape = (num_repeats, target.shape[1], x.shape[1] + 1)
    start = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
    layer = (limit * (2 * start - 1)).to(x.device)
    weight, bias = layer[:, :, :-1], layer[:, :, -1:]
    for _ in range(num_epochs):
        epoch = subset.gather(1, orders(subset.shape[1]))
        for batch in epoch.split(batch_size, dim=1):
            inputs = x[batch]
            error = (inputs @ weight.mT + bias.mT).softmax(2) - target[batch]
            error *= learning_rate / batch.shape[1]
            weight -= error.mT @ inputs
            bias -= error.sum(1).unsqueeze(2)
    predicted = (x_test @ weight.mT + bias.mT).argmax(2)
    return (predicted == test_y.to(x.device)).double().mean(1)


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(1) == y.to(logits.device)).double().mean())


def _check_split(
    train_features: Tensor, train_y: Tensor, test_features: Tensor, test_y: Tensor
) -> tuple[Float[Tensor, "n N"], Float[Tensor, "n_test N"]]:
    """The features as detached float64 matrices; raise unless everything fits."""
    for split, features, y in (("train", train_features, train_y), ("test", test_features, test_y)):
        check_features(features, f"{split}_features")
        y = class_labels(y)
        if y.is_floating_point() or y.shape != features.shape[:1] or int(y.min()) < 0:
            raise ValueError(
                f"{split}_y must be integers from 0 of shape ({len(features)},), one for each row "
                f"of {split}_features: got {y.dtype} of shape "
                f"{tuple(y.shape)}"
            )
    x, x_test = (f.detach().flatten(1).double() for f in (train_features, test_features))
    if x.shape[1] != x_test.shape[1]:
        raise ValueError(
            f"test_features has {x_test.shape[1]} features and train_features {x.shape[1]}"
        )
    return x, x_test
