"""Memory and time of a training step, per image.

On CUDA, memory is the peak of the allocator during forward and backward pass, above what was allocated before. On the
CPU it is what autograd keeps for the backward pass: each storage once, parameters and buffers left out. Precision is
float32 or the device's mixed precision. The step is forward pass, cross-entropy and backward pass, without optimiser.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import Candidate
from benchmarks.publish import table_of
from mobilemamba.export.timing import Timing, interleaved, synchronise


@dataclass(frozen=True)
class TrainingStep:
    """Cost of a training step of one network; ratios are to the reference at the same batch size.

    Args:
        network: timm's name.
        image_size: Height and width in pixels.
        batch_size: Images per step.
        megabytes_per_image: Memory as in the module's description, in 1e6 bytes.
        timing: Milliseconds per step.
        memory_ratio: Of memory.
        ratio_of_minima: Of times.
        ratio_of_medians: Of times.
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
        candidates: Networks on the device, the reference among them.
        reference: Name of the network that ratios are to.
        batch_sizes: Images per step.
        rounds: Timed steps.
        autocast: Whether the forward pass runs under autocast.
        device: Where to run.
        warmup: Steps before the timed ones.

    Raises:
        UserError: When a network does not take images of this size.
    """
    calls: dict[str, Callable[[], None]] = {}
    measured: dict[str, tuple[Candidate, int, float]] = {}
    for candidate, batch_size in itertools.product(candidates, batch_sizes):
        images = candidate.images(batch_size, device)
        candidate.answer(images[:1])  # an image size that does not fit is a clear error
        network = candidate.network.train()
        call = step_call(network, images, autocast)
        call()  # gradients exist and kernels are chosen
        peak = peak_bytes(call, device) if device.type == "cuda" else saved_bytes(network, call)
        name = f"{candidate.name} {batch_size}"
        calls[name], measured[name] = call, (candidate, batch_size, peak / batch_size / 1e6)
    timings = interleaved(calls, rounds, 1, device, warmup)
    steps = []
    for name, (candidate, batch_size, megabytes) in measured.items():
        timing, base = timings[name], timings[f"{reference} {batch_size}"]
        steps.append(
            TrainingStep(
                network=candidate.name,
                image_size=candidate.image_shape[1:],
                batch_size=batch_size,
                megabytes_per_image=megabytes,
                timing=timing,
                memory_ratio=megabytes / measured[f"{reference} {batch_size}"][2],
                ratio_of_minima=timing.minimum / base.minimum,
                ratio_of_medians=timing.median / base.median,
            )
        )
    return steps


def step_call(network: nn.Module, images: Tensor, autocast: bool) -> Callable[[], None]:
    """Return what is timed: forward pass of a network in training mode, cross-entropy and backward pass."""
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
    return table_of(
        steps,
        {
            "network": lambda step: step.network,
            "pixels": lambda step: "x".join(map(str, step.image_size)),
            "batch": lambda step: str(step.batch_size),
            "MB per image": lambda step: f"{step.megabytes_per_image:.1f}",
            f"MB / {reference}": lambda step: f"{step.memory_ratio:.2f}",
            "ms per step": lambda step: f"{step.timing.minimum:.0f}",
            f"time / {reference}": lambda step: f"{step.ratio_of_minima:.2f}",
        },
    )
