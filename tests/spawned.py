from lightning.pytorch.strategies import DDPStrategy

from lightning_modules.distributed import leave_process_group


class SpawnedProcesses(DDPStrategy):
    """Processes on the CPU that end in order, which the command does itself."""

    def __init__(self) -> None:
        super().__init__(start_method="spawn", process_group_backend="gloo")

    def teardown(self) -> None:
        super().teardown()
        leave_process_group()
