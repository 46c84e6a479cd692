"""The example of the `prdc` package by our metrics: N(0, I), 10,000 rows a side in 1,000 dimensions, k = 5.

    python tests/benchmarks/prdc_example.py [--seeds 7] [--out prdc_example.json]

Naeem et al. print one draw of it. Exit code 1 where one of its figures is further than three deviations from the mean
over our seeds, each of which takes half a minute: no part of the tests, which compare whole matrices by scipy.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from pngs import report

from pipeline.evaluation.metrics import prdc

PRINTED = {"precision": 0.4772, "recall": 0.4705, "density": 1.0555, "coverage": 0.9735}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    each = [prdc(*np.random.default_rng(seed).normal(size=(2, 10_000, 1000)), k=5) for seed in range(given.seeds)]
    found = {key: [getattr(one, key) for one in each] for key in PRINTED}
    apart = {key: (PRINTED[key] - np.mean(ours)) / np.std(ours, ddof=1) for key, ours in found.items()}
    lines = [
        f"{key}: {np.mean(ours):.4f}, deviation {np.std(ours, ddof=1):.4f} over {given.seeds} seeds;"
        f" printed {PRINTED[key]}, {apart[key]:+.1f} deviations away"
        for key, ours in found.items()
    ]
    report(lines, {"printed": PRINTED, "ours": found}, given.out)
    return int(max(map(abs, apart.values())) > 3)


if __name__ == "__main__":
    sys.exit(main())
