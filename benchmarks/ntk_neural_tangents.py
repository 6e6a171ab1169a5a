"""The benchmark's networks in JAX, for neural-tangents; run by bench_ntk.py where it installs.

``pip install 'jax==0.4.25' 'jaxlib==0.4.25' 'numpy<2' 'scipy<1.13' neural-tangents`` into an
environment of its own, then ``bench_ntk.py --jax-python THAT/bin/python``. This file imports
nothing of the project, so that the environment needs nothing else.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

Network = tuple[Callable[[Any, Any], Any], Any]


def _dense(np: Any, key: Any, *shape: int) -> Any:
    jax = importlib.import_module("jax")
    return jax.random.normal(key, shape) / np.sqrt(np.prod(np.array(shape[:-1])))


def _mlp(jax: Any, *widths: int) -> Network:
    np = jax.numpy
    keys = jax.random.split(jax.random.PRNGKey(0), len(widths) - 1)
    weights = [
        (_dense(np, key, a, b), np.zeros(b))
        for key, a, b in zip(keys, widths[:-1], widths[1:], strict=True)
    ]

    def apply(theta: Any, x: Any) -> Any:
        for w, b in theta[:-1]:
            x = jax.nn.relu(x @ w + b)
        return x @ theta[-1][0] + theta[-1][1]

    return apply, weights


def _cnn(jax: Any) -> Network:
    np, channels = jax.numpy, (3, 32, 32, 64, 64, 128, 128)
    keys = jax.random.split(jax.random.PRNGKey(0), 8)
    theta = [
        (_dense(np, keys[i], 3, 3, channels[i], channels[i + 1]), np.zeros(channels[i + 1]))
        for i in range(6)
    ]
    theta += [(_dense(np, keys[6], 2048, 128), np.zeros(128))]
    theta += [(_dense(np, keys[7], 128, 10), np.zeros(10))]

    def apply(theta: Any, x: Any) -> Any:
        for i, (w, b) in enumerate(theta[:6]):
            axes = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=axes)
            x = jax.nn.relu(y + b)
            if i % 2:
                n, h, v, c = x.shape
                x = x.reshape(n, h // 2, 2, v // 2, 2, c).mean((2, 4))
        x = x.reshape(len(x), -1)
        x = jax.nn.relu(x @ theta[6][0] + theta[6][1])
        return x @ theta[7][0] + theta[7][1]

    return apply, theta


def _transformer(jax: Any) -> Network:
    np, d, heads = jax.numpy, 128, 4
    shapes = {"embed": (114, d), "place": (3, d), "q": (d, d), "k": (d, d), "v": (d, d)}
    shapes |= {"o": (d, d), "wide": (d, 4 * d), "narrow": (4 * d, d), "unembed": (d, 113)}
    keys = jax.random.split(jax.random.PRNGKey(0), len(shapes))
    theta = {n: _dense(np, key, *s) for key, (n, s) in zip(keys, shapes.items(), strict=True)}
    theta |= {"wide_bias": np.zeros(4 * d), "narrow_bias": np.zeros(d)}

    def apply(theta: Any, tokens: Any) -> Any:
        h = theta["embed"][tokens] + theta["place"]
        n, s, _ = h.shape
        q, k, v = (
            (h @ theta[name]).reshape(n, s, heads, -1).transpose(0, 2, 1, 3) for name in "qkv"
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(d / heads)
        weights = jax.nn.softmax(np.where(np.tri(s, dtype=bool), scores, -np.inf), axis=3)
        h = h + (weights @ v).transpose(0, 2, 1, 3).reshape(n, s, d) @ theta["o"]
        wide = jax.nn.relu(h @ theta["wide"] + theta["wide_bias"])
        return ((h + wide @ theta["narrow"] + theta["narrow_bias"]) @ theta["unembed"])[:, -1]

    return apply, theta


def _workload(jax: Any, name: str, n: int) -> tuple[Network, Any]:
    np, key = jax.numpy, jax.random.PRNGKey(1)
    if name == "mlp-10":
        return _mlp(jax, 784, 200, 200, 10), jax.random.normal(key, (n, 784))
    if name == "mlp-47":
        return _mlp(jax, 784, 128, 512, 128, 47), jax.random.normal(key, (n, 784))
    if name == "cnn":
        return _cnn(jax), jax.random.normal(key, (n, 32, 32, 3))
    tokens = jax.random.randint(key, (n, 2), 0, 113)
    return _transformer(jax), np.concatenate([tokens, np.full((n, 1), 113)], axis=1)


def main() -> None:
    """Arguments: workload, n, repeats, implementation; prints one line of JSON."""
    name, n, repeats, how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    jax, nt = importlib.import_module("jax"), importlib.import_module("neural_tangents")
    (apply, theta), x = _workload(jax, name, n)
    if name == "transformer-sum":
        logits = apply
        apply = lambda theta, x: logits(theta, x).sum(1, keepdims=True)  # noqa: E731
    implementation = getattr(nt.NtkImplementation, how)
    of = nt.empirical_ntk_fn(apply, trace_axes=(), vmap_axes=0, implementation=implementation)
    kernel = jax.jit(of, static_argnums=(1,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kernel(x, None, theta).block_until_ready()  # compiles
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = kernel(x, None, theta).block_until_ready()
        seconds.append(time.process_time() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - result.nbytes
    print(json.dumps({"seconds": seconds, "beyond_result": peak}))


if __name__ == "__main__":
    main()
