"""``python -m benchmarks NAME``: the measurements behind the figures in the documents, one function each."""

from __future__ import annotations

import sys

from lightning_modules.function_options import run_command

COMMANDS = {
    "ceiling": ("benchmarks.ceiling:ceiling", "how close a network comes to the limits of the machine"),
    "curves": ("benchmarks.curves:curves", "a picture of runs, read from their TensorBoard logs"),
    "dense-cost": ("benchmarks.dense_cost:dense_cost", "parameters and FLOPs of the paper's detectors and segmenters"),
    "faults": ("benchmarks.faults:faults", "which faults a run survives"),
    "finetuning": (
        "benchmarks.finetuning:finetuning",
        "fine-tuning, a linear probe and training from scratch, compared",
    ),
    "formats": ("benchmarks.formats:formats", "every export format for a few networks"),
    "int8": ("benchmarks.int8:int8", "which parts of a network to quantise"),
    "kernels": ("benchmarks.kernels:kernels", "how much time the kernels for CPUs save"),
    "loading": ("benchmarks.loading:loading", "how many training images a core loads in a second"),
    "networks": ("benchmarks.command:benchmark", "networks compared, as by mobilemamba benchmark"),
    "readme": ("benchmarks.readme:readme", "every figure of the README's sections on speed and formats"),
    "resolution": ("benchmarks.resolution:resolution", "backbones at the image sizes of detection and segmentation"),
    "scan": ("benchmarks.scan:scan", "time of the selective scan in each of its forms"),
    "stored-step": ("benchmarks.stored_step:stored_step", "time of a training step with a stored teacher"),
    "stored-teacher": (
        "benchmarks.stored_teacher:stored_teacher",
        "accuracy of students of a stored teacher, by views and classes",
    ),
    "tensorboard": ("benchmarks.tensorboard:tensorboard", "time that the callbacks for TensorBoard take"),
}
"""Function of each measurement, and what it does."""

if __name__ == "__main__":
    sys.exit(run_command("python -m benchmarks", COMMANDS, None))
