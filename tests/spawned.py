"""Real processes that begin quickly: copies of one that has imported all that lightning_modules/conftest.py names."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Literal

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.strategies import DDPStrategy

from benchmarks.faulty_runs import COMMAND
from lightning_modules import cli
from lightning_modules.distributed import leave_process_group

QUICK: Literal["forkserver", "spawn"] = (
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
"""How new processes are started; as copies, but for Windows."""


class SpawnedProcesses(DDPStrategy):
    """Processes on the CPU that leave their group at the end, as the command does.

    They are copies of a process that has neither this one's seeds nor its environment.
    """

    def __init__(self) -> None:
        super().__init__(start_method=QUICK, process_group_backend="gloo")
        # Tensors go to copies as files with names: a message takes few open files.
        torch.multiprocessing.set_sharing_strategy("file_system")

    def setup_environment(self) -> None:
        assert self.lightning_module is not None
        for tensor in (*self.lightning_module.parameters(), *self.lightning_module.buffers()):
            tensor.data = tensor.data.clone()  # not in shared memory; Lightning does this for "spawn" alone
        super().setup_environment()

    def teardown(self) -> None:
        super().teardown()
        leave_process_group()


def fit(folder: Path, *options: str, processes: int = 1, torchrun: bool = False) -> tuple[int | None, str]:
    """Run ``lightning fit`` in a folder to its end, in processes of its own; return the first's status and output.

    Several processes are told of each other as Lightning does it, or as torchrun does.
    """
    context = multiprocessing.get_context(QUICK)
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
    if torchrun:
        group |= {"TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0"}
        group |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    ranks = ("RANK", "LOCAL_RANK") if torchrun else ("LOCAL_RANK",)
    environments = [group | dict.fromkeys(ranks, str(rank)) for rank in range(processes)]
    started = [context.Process(target=_fit, args=(folder, *pair, options)) for pair in enumerate(environments)]
    for process in started:
        process.start()
    deadline = time.monotonic() + 240  # one that waits for another in vain
    for process in started:
        process.join(timeout=max(0, deadline - time.monotonic()))
        process.kill()
        process.join()
    # torchrun takes the status of a run from any of them; Lightning kills the first if another fails.
    status = started[0].exitcode if torchrun else 0
    assert [process.exitcode for process in started[1:]] == [status] * (processes - 1)
    return started[0].exitcode, (folder / "output_0.txt").read_text()


def _fit(folder: Path, rank: int, environment: dict[str, str], options: tuple[str, ...]) -> None:
    multiprocessing.set_start_method(None, force=True)  # of loader processes, as in the command
    os.environ.update(environment)
    os.chdir(folder)
    with Path(f"output_{rank}.txt").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [COMMAND, "fit", *options]
    cli.main()
