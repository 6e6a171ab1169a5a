"""Run by the test of two processes: fit, and write what the first process has."""

import os
import sys
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, Subset

from grokscope.integrations.lightning import MethodsCallback, MonitorCallback
from tests.integrations.lightning_networks import DATA, PLAIN, Classifier, X, Y, methods

if __name__ == "__main__":
    module, monitor = Classifier(), MonitorCallback((X, Y), schedule=1)
    trainer = lightning.Trainer(
        **PLAIN | {"devices": 2},
        strategy="ddp",
        use_distributed_sampler=False,
        max_epochs=2,
        callbacks=[monitor, MethodsCallback(methods())],
    )
    # every second example: two batches of three are the six of one process
    own = Subset(DATA, range(int(os.environ.get("LOCAL_RANK", 0)), len(DATA), 2))
    trainer.fit(module, DataLoader(own, batch_size=3))
    if trainer.is_global_zero:
        assert monitor.monitor is not None
        state = {"model": module.state_dict(), "rows": list(monitor.monitor.history)}
        torch.save(state, Path(sys.argv[1]) / "state.pt")
    else:
        assert monitor.monitor is None
