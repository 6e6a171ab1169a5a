"""``grokscope sweep``: seeds x settings, on one machine or many."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from grokscope.cli.console import ERR, OUT, Json, fail, print_json
from grokscope.cli.run import DataDir, Device, Experiment, Preset, Settings, judged_data
from grokscope.cli.sweep_table import SweepTable

if TYPE_CHECKING:
    from grokscope.experiments.sweep import Engine, Job, Plan, RunState

ENGINES = ("processes", "ray", "slurm")


def sweep(
    experiment: Experiment,
    seeds: Annotated[
        int | None, typer.Option(help="Run seeds 0 to N-1 [default: the spec's].", metavar="N")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="Values to combine, as in training.lr=1e-3,3e-3.", metavar="PATH=VALUE,VALUE"
        ),
    ] = None,
    preset: Preset = "quick",
    settings: Settings = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at the same time [default: by cores].", metavar="N")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="processes, ray or slurm.", metavar="NAME")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster, as in ray://head:10001.", metavar="ADDRESS"),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(help="An option of SLURM, as in partition=gpu.", metavar="KEY=VALUE"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The sweep's folder [default: sweeps/EXPERIMENT].", metavar="DIR"),
    ] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run an experiment with many seeds and settings. What is finished is not run again."""
    from grokscope.experiments.sweep import plan_sweep, work_through

    chosen = _engine_name(engine, address, slurm)
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be a positive number: got {workers}")
    plan = plan_sweep(experiment, preset, settings or (), grid or (), seeds)
    folder = out or Path("sweeps") / plan.name
    console = ERR if as_json else OUT
    with ExitStack() as stack:
        worker, threads = _engine(chosen, workers, address, slurm or [], plan, folder, device)
        stack.callback(worker.stop)
        plan.write(folder, [Path(sys.argv[0]).name, *sys.argv[1:]])
        jobs = plan.jobs(folder, device, data_dir, threads)
        console.print(Text(plan.settings[0].experiment.title, "bold"))
        console.print(
            f"{len(plan.settings)} setting(s) x "
            f"{len(plan.seeds)} seed(s), preset {plan.settings[0].experiment.preset}, into {folder}"
        )
        table = stack.enter_context(SweepTable(console, folder, plan))
        states = work_through(jobs, worker, table)
    _conclude(folder, states, console, as_json)


def _engine_name(engine: str | None, address: str | None, slurm: list[str] | None) -> str:
    from grokscope.spelling import unknown_name

    name = engine or ("ray" if address else "slurm" if slurm else "processes")
    if name not in ENGINES:
        raise ValueError(unknown_name("engine", name, ENGINES))
    if address and name != "ray":
        raise ValueError(f"--address is for the engine ray: got --engine {name}")
    if slurm and name != "slurm":
        raise ValueError(f"--slurm is for the engine slurm: got --engine {name}")
    return name


def _engine(
    name: str,
    workers: int | None,
    address: str | None,
    slurm: list[str],
    plan: Plan,
    folder: Path,
    device: str,
) -> tuple[Engine, int]:
    """The engine, and the CPU threads that each of its jobs has."""
    from grokscope.experiments.sweep import ProcessEngine, num_cores, visible_gpus

    own = plan.settings[0].experiment.threads
    if name == "ray":
        from grokscope.integrations.ray_engine import RayEngine

        return RayEngine(workers, address, own or 1, gpus=int(device == "cuda")), own or 1
    if name == "slurm":
        from grokscope.integrations.slurm_engine import SlurmEngine

        options = _slurm_options(slurm)
        return SlurmEngine(folder.resolve() / ".slurm", workers, own or 1, options), own or 1
    gpus = visible_gpus(device)
    places = len(gpus) or max(1, num_cores() // (own or 1))
    count = workers or min(places, len(plan.settings) * len(plan.seeds))
    return ProcessEngine(count, gpus), own or max(1, num_cores() // count)


def _slurm_options(texts: list[str]) -> dict[str, Any]:
    """Options for submitit: what it knows on every cluster by its own name, the rest as SLURM's."""
    from grokscope.runs.yaml_text import parse_yaml

    shared = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "nodes", "tasks_per_node")
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"--slurm takes key=value, as in partition=gpu: got {text!r}")
        key = key.replace("-", "_")
        options[key if key in shared else f"slurm_{key}"] = parse_yaml(value)
    return options


def _conclude(
    folder: Path, states: Mapping[Job, RunState], console: Console, as_json: bool
) -> None:
    from grokscope.report import print_sweep, write_report
    from grokscope.runs import SweepFolder

    failed = {job: state for job, state in states.items() if state.state == "failed"}
    page = write_report([folder])
    if as_json:
        print_json(_sweep_data(folder, page, states))
    else:
        console.print()
        print_sweep(SweepFolder(folder).runs(), console)
    console.print(f"\nReport: {page}", soft_wrap=True)
    if failed:
        names = ", ".join(str(job.run.relative_to(folder.resolve())) for job in failed)
        told = f"{len(failed)} of {len(states)} runs failed: {names}; the same command goes on"
        raise typer.Exit(fail(f"{told} with them", 1))


def _sweep_data(folder: Path, page: Path, states: Mapping[Job, RunState]) -> dict[str, Any]:
    """What a sweep found, for a program: its settings as ``run`` tells of one run."""
    from grokscope.report import comparison_data
    from grokscope.runs import SweepFolder

    failed = any(state.state == "failed" for state in states.values())
    return {
        "sweep": str(folder),
        "report": str(page),
        "state": "failed" if failed else "finished",
        "runs": [
            {
                "run": str(folder / job.run.relative_to(folder.resolve())),
                "state": state.state.replace("done before", "finished"),
                "message": state.message,
            }
            for job, state in states.items()
        ],
        "settings": [judged_data(of.lenient()) for of in SweepFolder(folder).runs()],
        "conditions": comparison_data([folder]),
    }
