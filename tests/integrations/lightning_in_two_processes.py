"""Run by the test of two processes: fit, and write what the first process has."""

import sys
from pathlib import Path

import lightning
import torch

from grokscope.integrations.lightning import MethodsCallback, MonitorCallback
from tests.integrations.lightning_networks import PLAIN, Classifier, loader, methods

if __name__ == "__main__":
    module, monitor = Classifier(), MonitorCallback(schedule=1)
    trainer = lightning.Trainer(
        **PLAIN | {"devices": 2},
        strategy="ddp",
        max_epochs=2,
        callbacks=[monitor, MethodsCallback(methods())],
    )
    trainer.fit(module, loader(3))
    if trainer.is_global_zero:
        assert monitor.monitor is not None
        state = {"model": module.state_dict(), "rows": list(monitor.monitor.history)}
        torch.save(state, Path(sys.argv[1]) / "state.pt")
    else:
        assert monitor.monitor is None
