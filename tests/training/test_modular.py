"""Training on modular arithmetic: what is recorded of it."""

from __future__ import annotations

import torch

import grokscope as gs


def test_pairs_unseen_in_either_order_are_scored_by_themselves() -> None:
    data = gs.load_data("modular", modulus=7, encoding="tokens", equals=True, train_fraction=0.5)
    model = gs.Transformer(7, d_model=16, d_mlp=32, seed=0)
    history = gs.fit(model, data, lr=1e-2, max_steps=30).history
    seen = {(a, b) for a, b, _ in data.train_x.tolist()}
    new = torch.tensor([(b, a) not in seen for a, b, _ in data.test_x.tolist()])
    correct = model(data.test_x).argmax(1) == data.test_y
    assert history["unseen_accuracy"][-1] == float(correct[new].double().mean())
    assert history["test_accuracy"][-1] == float(correct.double().mean())
    assert 0 < history["test_accuracy"][-1] != history["unseen_accuracy"][-1]
