"""The empirical NTK against torch.func and, where it is installed, neural-tangents.

``python benchmarks/bench_ntk.py [--rounds 3] [--jax-python PYTHON] [WORKLOAD ...]`` prints a table
and writes ``results/ntk.json`` beside this file, where entries of workloads that are not named
stay as they are. Every entry runs in a process of its own on one
thread; the entries of a workload take turns, and ratios are of medians. Seconds are those of the
process's CPU, memory is the peak beyond what the process held before and beyond the result.
torch.func needs minutes for some workloads and runs once on a smaller batch there, against ours
on the same batch. See ntk_neural_tangents.py for how to install neural-tangents.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GIB = 2**30


@dataclass(frozen=True)
class Workload:
    """What is measured: the batch, the kernel and how the peers get there.

    Attributes:
        n_func: torch.func's batch where that is smaller.
        tangents: neural-tangents' implementation; its fastest that fits in 8 GB.
    """

    title: str
    n: int
    reduce: str = "full"
    n_func: int | None = None
    tangents: str = "STRUCTURED_DERIVATIVES"


WORKLOADS = {
    "mlp-10": Workload("MLP 784-200-200-10, n=256", 256),
    "mlp-47": Workload("MLP 784-128-512-128-47, n=256", 256, n_func=24),
    "cnn": Workload("CNN, six 3x3 convolutions, n=64", 64),
    "cnn-256": Workload("the same CNN, n=256", 256),
    "transformer": Workload("transformer, 113 logits, n=64", 64, n_func=32),
    "transformer-sum": Workload(
        "the same, summed logits, n=256", 256, "sum", tangents="JACOBIAN_CONTRACTION"
    ),
    "mlp-sum": Workload("MLP 784-200-200-10, summed outputs, n=10,000", 10_000, "sum"),
    "resnet-16": Workload("ResNet-18 of width 16, n=64", 64),
    "resnet-64": Workload("ResNet-18 of width 64, n=64", 64),
    "gpt2": Workload("GPT-2 of 2 layers, width 32, 256 tokens, trace, n=8", 8, "trace"),
}
ALONE = {"cnn-256", "resnet-16"}  # measured without the peers
ONCE = {"mlp-sum", "resnet-64"}  # and once only, for what does not fit elsewhere


def problem(name: str, n: int) -> tuple[Any, Any]:
    """The model and the batch of a workload."""
    import torch

    import ntk_models
    import resnet

    torch.manual_seed(0)
    if name.startswith("resnet"):
        width = int(name.removeprefix("resnet-"))
        return resnet.ResNet18(width).eval(), torch.randn(n, 3, 32, 32)
    if name in ("mlp-10", "mlp-sum"):
        return ntk_models.mlp(784, 200, 200, 10), torch.randn(n, 784)
    if name == "mlp-47":
        return ntk_models.mlp(784, 128, 512, 128, 47), torch.randn(n, 784)
    if name.startswith("cnn"):
        return ntk_models.cnn(), torch.randn(n, 3, 32, 32)
    if name == "gpt2":
        return ntk_models.small_gpt2(), torch.randint(256, (n, 16))
    tokens = torch.cat([torch.randint(113, (n, 2)), torch.full((n, 1), 113)], dim=1)
    return ntk_models.OneLayerTransformer(), tokens


def ours(reduce: Any, check: bool = True) -> Callable[[Any, Any], Any]:
    """``empirical_ntk``."""
    import grokscope as gs

    return lambda model, x: gs.empirical_ntk(model, x, reduce=reduce, check=check)


def generic(reduce: str) -> Callable[[Any, Any], Any]:
    """``empirical_ntk`` as it is for a model of which no rule covers a parameter."""
    from grokscope.measures.ntk import directions, empirical
    from grokscope.measures.ntk.plan import Term

    def terms(found: Any, _: Any) -> tuple[dict[str, Any], list[Term]]:
        return {}, [Term((name,), (p,), "generic") for name, p in found.parameters.items()]

    empirical.paths_and_terms = terms  # type: ignore[assignment]
    directions.readout_of = lambda found: None
    return ours(reduce)


def torch_func(reduce: str) -> Callable[[Any, Any], Any]:
    """One Jacobian by vmap of jacrev, contracted parameter by parameter."""
    import torch
    from torch.func import functional_call, jacrev, vmap

    equations = {"sum": "ap,bp->ab", "trace": "aip,bip->ab", "full": "aip,bjp->abij"}

    def kernel(model: Any, x: Any) -> Any:
        theta = {name: p.detach() for name, p in model.named_parameters()}

        def outputs(theta: Any, example: Any) -> Any:
            out = functional_call(model, theta, (example.unsqueeze(0),))[0]
            return out.sum() if reduce == "sum" else out

        jacobian = vmap(jacrev(outputs), (None, 0))(theta, x)
        total: Any = 0
        for rows in jacobian.values():
            flat = rows.flatten(1 if reduce == "sum" else 2)
            total = total + torch.einsum(equations[reduce], flat, flat)
        return total

    return kernel


def work(name: str, method: str, n: int, repeats: int) -> None:
    """Measure one entry in this process and print one line of JSON."""
    import torch

    torch.set_num_threads(1)
    reduce = WORKLOADS[name].reduce
    kernel = {
        "ours": lambda: ours(reduce),
        "ours, unchecked": lambda: ours(reduce, check=False),
        "ours, trace": lambda: ours("trace"),
        "generic path": lambda: generic(reduce),
        "torch.func": lambda: torch_func(reduce),
    }[method]()
    model, x = problem(name, n)
    kernel(model, x[:2])  # imports and first-use set-up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, peak = [], 0
    for i in range(repeats):
        start = time.process_time()
        result = kernel(model, x)
        seconds.append(time.process_time() - start)
        if i == 0:
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            peak = (after - before) * 1024 - result.numel() * result.element_size()
        del result
    print(json.dumps({"seconds": seconds, "beyond_result": peak}))


def measured(command: list[str]) -> dict[str, Any] | None:
    """What a worker printed; None where it failed."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    paths = str(HERE.parent / "src")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XLA_FLAGS": flags, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"  {' '.join(command[1:])} failed: {reason}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def entries(name: str, jax_python: str | None) -> list[tuple[str, int, list[str]]]:
    """(method, n, command) of every entry of a workload."""
    workload = WORKLOADS[name]
    own = [sys.executable, str(Path(__file__).resolve()), "--worker", name]
    if name in ONCE:
        return [("ours", workload.n, [*own, "ours"])]
    methods = ["ours", "ours, unchecked"] + (["ours, trace"] if workload.reduce == "full" else [])
    found = [(m, workload.n, [*own, m]) for m in methods]
    if name in ALONE:
        return found
    if workload.reduce == "trace":
        return [*found, *((m, workload.n, [*own, m]) for m in ("generic path", "torch.func"))]
    if workload.n_func is None:
        found.append(("torch.func", workload.n, [*own, "torch.func"]))
    else:
        found += [(m, workload.n_func, [*own, m]) for m in ("ours", "torch.func")]
    if jax_python is not None:
        peer = [jax_python, str(HERE / "ntk_neural_tangents.py"), name]
        found.append(("neural-tangents", workload.n, peer))
    return found


def measure(name: str, rounds: int, jax_python: str | None) -> list[dict[str, Any]]:
    """Every entry of a workload, in turns, with the median of all its runs."""
    rows: list[dict[str, Any]] = []
    for _ in range(rounds):
        for i, (method, n, command) in enumerate(entries(name, jax_python)):
            if len(rows) <= i:
                rows.append({"workload": name, "method": method, "n": n, "seconds": []})
            slow = method in ("generic path", "torch.func", "neural-tangents")
            if slow and rows[i]["seconds"] and sum(rows[i]["seconds"]) > 60:
                continue
            arguments = [str(n), "1" if slow or name in ONCE else "2"]
            if method == "neural-tangents":
                arguments.append(WORKLOADS[name].tangents)
            result = measured([*command, *arguments])
            if result is not None:
                rows[i]["seconds"] += result["seconds"]
                rows[i]["beyond_result"] = result["beyond_result"]
    for row in rows:
        row["median"] = statistics.median(row["seconds"]) if row["seconds"] else None
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """One line for every entry, with its ratio to ours on the same batch."""
    lines = ["| workload | method | n | CPU s | times ours | GiB beyond result |"]
    lines += ["|---|---|---|---|---|---|"]
    base = {
        (r["workload"], r["n"]): r["median"] for r in rows if r["method"] == "ours" and r["median"]
    }
    for r in rows:
        if r["median"] is None:
            continue
        title = WORKLOADS[r["workload"]].title
        ratio = r["median"] / base[r["workload"], r["n"]]
        memory = max(0.0, r["beyond_result"] / GIB)
        lines.append(
            f"| {title} | {r['method']} | {r['n']} | {r['median']:.3f} | {ratio:.2f} | "
            f"{memory:.2f} |"
        )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    import torch

    from grokscope.runs.environment import environment

    cpu = environment("cpu", [])["processor"]
    return {"cpu": cpu, "threads": 1, "torch": torch.__version__, "python": sys.version.split()[0]}


def main() -> None:
    if "--worker" in sys.argv:
        name, method, n, repeats = sys.argv[sys.argv.index("--worker") + 1 :]
        work(name, method, int(n), int(repeats))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jax-python", default=os.environ.get("GROKSCOPE_JAX_PYTHON"))
    options = parser.parse_args()
    if unknown := set(options.workloads) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    results = HERE / "results" / "ntk.json"
    rows = json.loads(results.read_text())["entries"] if results.exists() else []
    for name in options.workloads or WORKLOADS:
        rows = [row for row in rows if row["workload"] != name]
        rows += measure(name, options.rounds, options.jax_python)
        rows.sort(key=lambda row: list(WORKLOADS).index(row["workload"]))
        results.write_text(json.dumps({"machine": machine(), "entries": rows}, indent=1) + "\n")
        print(f"measured {name}", file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    main()
