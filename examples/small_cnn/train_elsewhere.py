"""A training that knows nothing of grokscope, and leaves a checkpoint now and then."""

from pathlib import Path

import numpy as np
import torch
from small_cnn import SmallCNN

if __name__ == "__main__":
    here = Path(__file__).parent
    (here / "checkpoints").mkdir(exist_ok=True)
    data = np.load(here / "digits.npz")
    x, y = torch.from_numpy(data["train_x"]), torch.from_numpy(data["train_y"])
    model = SmallCNN(width=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(41):
        if step % 20 == 0:
            torch.save(model.state_dict(), here / "checkpoints" / f"step-{step}.pt")
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
