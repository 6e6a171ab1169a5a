"""Write digits.npz: 300 images to train on and 500 to test on, of scikit-learn's digits.

A data file has the arrays train_x, train_y, test_x and test_y, and nothing that is pickled.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

if __name__ == "__main__":
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x = (images[order].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    y = labels[order].astype(np.int64)
    np.savez_compressed(
        Path(__file__).parent / "digits.npz",
        train_x=x[:300],
        train_y=y[:300],
        test_x=x[300:800],
        test_y=y[300:800],
    )
