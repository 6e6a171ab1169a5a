"""What each method adds to a training step: MLP 784-200-200-10, batch 200, AdamW, one thread.

Run it: python benchmarks/bench_methods.py [--rounds N]. It prints a table and writes
benchmarks/results/methods.json. The measurement is that of bench_grokalign.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import grokscope as gs
from bench_grokalign import report, training
from grokscope.methods import Method

RESULT = Path(__file__).parent / "results" / "methods.json"


def variants() -> dict[str, tuple[list[Method], str]]:
    plain = "cross_entropy"
    return {
        "plain": ([], plain),
        "StableMax": ([], "stablemax"),
        "GrokAlign": ([gs.GrokAlign()], plain),
        "GrokAlign, every=4": ([gs.GrokAlign(every=4)], plain),
        "Grokfast": ([gs.Grokfast()], plain),
        "Grokfast, ma of 100": ([gs.Grokfast("ma")], plain),
        "OrthoGrad": ([gs.OrthoGrad()], plain),
        "AdversarialTraining, noise": ([gs.AdversarialTraining()], plain),
        "AdversarialTraining, fgsm": ([gs.AdversarialTraining(attack="fgsm")], plain),
        "GradientNoise": ([gs.GradientNoise()], plain),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    report({name: training(*variant) for name, variant in variants().items()}, rounds, RESULT)


if __name__ == "__main__":
    main()
