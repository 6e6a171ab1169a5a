"""Training in the span that the first layer never leaves: exact, in far fewer dimensions.

Let W (h, d) be the weight of the first layer and X (n, d) the training data. The gradient of any
loss with respect to W is a combination of rows of X, and so is what weight decay leaves of W one of
rows of W. The gradient of a Jacobian penalty, ||V W||^2 with V the Jacobian behind the layer, is a
combination of rows of W. So under gradient descent with or without momentum, whatever the batches,
W stays in the span of its initial rows and the data, of dimension r <= h + n. In an orthonormal
basis Q (r, d) of that span

    W = W' Q,    W x = W' (Q x)

hold throughout for every x, also a test point or a noisy one, of which only the projection Q x
meets weights that are not 0. Training W' on Q X takes the same steps as training W on X, for r / d
of the cost. It does not hold where an optimizer treats coordinates one by one (Adam) or something
random is added to inputs or gradients. This is what makes the XOR experiment of GrokAlign (Walker
et al. 2025, Figure 4; d = 40,000, r = 2,448) a matter of minutes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.data.dataset import Dataset
from grokscope.measures.modes import evaluating
from grokscope.shown import shown


@shown("layer", "data", "basis", "model")
@dataclass(frozen=True, eq=False, repr=False)
class SpanReduction:
    """A network and its data in coordinates of the span.

    Attributes:
        model: the network, its first layer with r inputs; parameters are its own.
        data: the data set with inputs (n, r).
        basis: (r, d) orthonormal rows.
        layer: name of the first layer.
    """

    model: nn.Module
    data: Dataset
    basis: Float[Tensor, "r d"]
    layer: str

    def project(self, x: Float[Tensor, " n *d"]) -> Float[Tensor, "n r"]:
        """The coordinates Q x of inputs, or of noise to add to them."""
        return x.flatten(1).to(self.basis) @ self.basis.T

    def lift(self, model: nn.Module) -> nn.Module:
        """A copy of ``model``, such as ``self.model`` once trained, for inputs of d features."""
        weight = _linear(model, self.layer).weight.detach()
        return _with_first_weight(model, self.layer, weight @ self.basis)


def reduce_to_span(model: nn.Module, data: Dataset, layer: str | None = None) -> SpanReduction:
    """The network and the data in an orthonormal basis of the first layer's rows and the data.

    Norms, alignments and all else that a rotation leaves alone are the same in both for training
    points. A test point loses what lies outside the span: the outputs are the same, its length,
    and with it the cosine with its centroid, is not.

    Args:
        model: an ``nn.Sequential`` that begins with a linear layer (``nn.Flatten`` may precede
            it), or any model with ``layer`` given. It is not changed.
        data: whose training examples the model is to be trained on; inputs are flattened.
        layer: name of the linear layer that the inputs go to, and nothing else does.

    Returns:
        Copies in the reduced space, in the model's dtype. The basis is found in float64 by a QR
        decomposition, O(d r^2). Where r is not less than d it is the identity.

    Raises:
        TypeError: if inputs have several tensors.
        ValueError: if the first layer is not known, or not of the data's number of features; or the
            reduced model does not compute what the model does, as when inputs go elsewhere too.

    Example:
        >>> import grokscope as gs
        >>> from grokscope.data import reduce_to_span
        >>> data = gs.load_data("xor", train_size=20, dimension=1000)
        >>> reduced = reduce_to_span(gs.MLP(1000, [30], None, bias=False, seed=0), data)
        >>> reduced.data
        Dataset('xor': 20 train, 400 test, inputs (50,) float32, scalar targets, cpu)
    """
    data.input_shape("reduce_to_span")
    layer = _first_layer(model) if layer is None else layer
    linear = _linear(model, layer)
    if linear.in_features != data.num_features:
        raise ValueError(
            f"layer {layer!r} must be a linear layer with {data.num_features} inputs, the features "
            f"of {data.name}: got {linear}"
        )
    weight, train_x = linear.weight.detach(), data.train_x.flatten(1)
    rows = torch.cat([weight, train_x.to(weight)]).double()
    if rows.shape[0] < rows.shape[1]:
        # rows' = Q R: columns of R are the rows' coordinates, so that W x = (W Q)(Q' x) to rounding
        q, coordinates = torch.linalg.qr(rows.T)
        basis, rows = q.T, coordinates.T
    else:
        basis = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    inner = _with_first_weight(model, layer, rows[: len(weight)].to(weight))
    reduction = SpanReduction(inner, data, basis.to(weight), layer)
    reduced = replace(
        data,
        train_x=rows[len(weight) :].to(weight),
        test_x=reduction.project(data.test_x),
        image_shape=None,
        value_range=None,
    )
    _check_outputs(model, inner, data, reduced)
    return replace(reduction, data=reduced)


def _linear(model: nn.Module, layer: str) -> nn.Linear:
    found = model.get_submodule(layer)
    if not isinstance(found, nn.Linear):
        raise ValueError(f"layer {layer!r} must be a linear layer: got {type(found).__name__}")
    return found


def _first_layer(model: nn.Module) -> str:
    """Name of the linear layer that a chain begins with."""
    prefix, inner = "", model
    while isinstance(inner, nn.Sequential):
        children = [
            (name, child)
            for name, child in inner.named_children()
            if not isinstance(child, nn.Flatten | nn.Identity)
        ]
        if not children:
            break
        name, inner = children[0]
        prefix = f"{prefix}.{name}".lstrip(".")
    if not (prefix and isinstance(inner, nn.Linear)):
        raise ValueError(
            "model must be an nn.Sequential that begins with a linear layer: got "
            f"{type(model).__name__}; name the layer that takes the inputs by layer="
        )
    return prefix


def _with_first_weight(model: nn.Module, layer: str, weight: Tensor) -> nn.Module:
    """A copy of the model whose first layer has another weight, and so another number of inputs."""
    old = _linear(model, layer)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(
        weight.shape[1],
        weight.shape[0],
        bias=old.bias is not None,
        device="meta",
        dtype=weight.dtype,
    )
    new.weight = nn.Parameter(weight.contiguous(), requires_grad=old.weight.requires_grad)
    if old.bias is not None:
        new.bias = nn.Parameter(old.bias.detach().clone(), requires_grad=old.bias.requires_grad)
    # The memo stands for the old layer, so that its large weight is not copied.
    return copy.deepcopy(model, {id(old): new})


@torch.no_grad()
def _check_outputs(model: nn.Module, inner: nn.Module, data: Dataset, reduced: Dataset) -> None:
    try:
        pairs = []
        with evaluating(model, inner):
            for network, x in ((model, data.train_x), (inner, reduced.train_x)):
                like = next(network.parameters())
                pairs.append(network(x[:8].to(like)).double())
    except RuntimeError as error:
        raise ValueError(f"model does not run on the reduced inputs: {error}") from error
    inner.train(model.training)
    # half the digits: far above the rounding of another basis, far below another function
    tolerance = torch.finfo(next(model.parameters()).dtype).eps ** 0.5
    scale = pairs[0].abs().max()
    if bool((pairs[0] - pairs[1]).abs().max() > tolerance * (scale + tolerance)):
        raise ValueError(
            "model does not compute the same from reduced inputs: they must go through the first "
            "linear layer and nowhere else"
        )
