"""Memory and time of a training step, per image.

On CUDA, memory is the peak of the allocator during forward and backward pass, above what was allocated before. On the
CPU it is what autograd keeps for the backward pass: each storage once, parameters and buffers left out. Precision is
float32 or the device's mixed precision. The step is forward pass, cross-entropy and backward pass, without optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import Candidate
from mobilemamba.export.timing import Timing, interleaved, synchronise
from mobilemamba.tables import table


@dataclass(frozen=True)
class TrainingStep:
    """Cost of a training step of one network.

    Args:
        network: timm's name.
        image_size: Height and width in pixels.
        batch_size: Images per step.
        megabytes_per_image: Memory as in the module's description, in 1e6 bytes.
        timing: Milliseconds per step.
        memory_ratio: To the reference at the same batch size.
        ratio_of_minima: Of step times, to the reference.
        ratio_of_medians: Of step times, to the reference.
    """

    network: str
    image_size: tuple[int, int]
    batch_size: int
    megabytes_per_image: float
    timing: Timing
    memory_ratio: float
    ratio_of_minima: float
    ratio_of_medians: float


def measure(
    candidates: Sequence[Candidate],
    reference: str,
    batch_sizes: Sequence[int],
    rounds: int,
    autocast: bool,
    device: torch.device,
    warmup: int = 1,
) -> list[TrainingStep]:
    """Measure a training step of every candidate at every batch size, the times in turn.

    Args:
        candidates: Networks, the reference among them.
        reference: Name of the network that ratios are to.
        batch_sizes: Images per step.
        rounds: Timed steps.
        autocast: Whether the forward pass runs under autocast.
        device: Of the candidates.
        warmup: Steps before the timed ones.

    Raises:
        UserError: When a network does not take images of this size.
    """
    calls: dict[tuple[str, int], Callable[[], None]] = {}
    megabytes: dict[tuple[str, int], float] = {}
    for candidate in candidates:
        for batch_size in batch_sizes:
            images = candidate.images(batch_size, device)
            candidate.answer(images[:1])  # an image size that does not fit is a clear error
            network = candidate.network.train()
            key, call = (candidate.name, batch_size), step_call(network, images, autocast)
            call()  # gradients exist and kernels are chosen
            peak = peak_bytes(call, device) if device.type == "cuda" else saved_bytes(network, call)
            calls[key], megabytes[key] = call, peak / batch_size / 1e6
    names = {" ".join(map(str, key)): key for key in calls}
    timings = interleaved({name: calls[key] for name, key in names.items()}, rounds, 1, device, warmup)
    shapes = {candidate.name: candidate.image_shape for candidate in candidates}
    steps = []
    for name, (network_name, batch_size) in names.items():
        timing, base = timings[name], timings[f"{reference} {batch_size}"]
        memory = megabytes[network_name, batch_size]
        steps.append(
            TrainingStep(
                network=network_name,
                image_size=shapes[network_name][1:],
                batch_size=batch_size,
                megabytes_per_image=memory,
                timing=timing,
                memory_ratio=memory / megabytes[reference, batch_size],
                ratio_of_minima=timing.minimum / base.minimum,
                ratio_of_medians=timing.median / base.median,
            )
        )
    return steps


def step_call(network: nn.Module, images: Tensor, autocast: bool) -> Callable[[], None]:
    """Return what is timed: forward pass, cross-entropy and backward pass.

    Args:
        network: In training mode.
        images: (B, C, H, W).
        autocast: Whether the forward pass runs under autocast.
    """
    targets = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def step() -> None:
        with torch.autocast(images.device.type, enabled=autocast):
            loss = F.cross_entropy(network(images), targets)
        loss.backward()

    return step


def saved_bytes(network: nn.Module, step: Callable[[], object]) -> int:
    """Return the bytes that autograd keeps for the backward pass of a step, each storage once.

    Args:
        network: Its parameters and buffers are not counted: they are there without training, too.
        step: Runs forward and backward pass.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # The graph keeps every packed tensor until the backward pass, so no address is used twice.
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return the CUDA allocator's peak during a step above what was allocated before it."""
    synchronise(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronise(device)
    return torch.cuda.max_memory_allocated(device) - before


def format_steps(steps: Sequence[TrainingStep], reference: str) -> str:
    """Return training steps as a table."""
    header = ("network", "pixels", "batch", "MB per image", f"MB / {reference}", "ms per step", f"time / {reference}")
    rows = [
        (
            step.network,
            "x".join(map(str, step.image_size)),
            str(step.batch_size),
            f"{step.megabytes_per_image:.1f}",
            f"{step.memory_ratio:.2f}",
            f"{step.timing.minimum:.0f}",
            f"{step.ratio_of_minima:.2f}",
        )
        for step in steps
    ]
    return table(header, rows)
