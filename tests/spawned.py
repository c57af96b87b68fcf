from lightning.pytorch.strategies import DDPStrategy
from torch import distributed


class SpawnedProcesses(DDPStrategy):
    """Processes on the CPU that end in order: gloo threads that outlive the interpreter abort it now and then."""

    def __init__(self) -> None:
        super().__init__(start_method="spawn", process_group_backend="gloo")

    def teardown(self) -> None:
        super().teardown()
        if distributed.is_initialized():
            distributed.destroy_process_group()
