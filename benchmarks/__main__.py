"""``python -m benchmarks NAME``: the measurements behind the documents' figures, one typed function each."""

from __future__ import annotations

import sys

from lightning_modules.function_options import run_command

COMMANDS = {
    "ceiling": ("benchmarks.ceiling:ceiling", "how near a network comes to what the machine can do"),
    "curves": ("benchmarks.curves:curves", "a picture of runs, read from their TensorBoard logs"),
    "dense-cost": ("benchmarks.dense_cost:dense_cost", "parameters and FLOPs of the paper's detectors and segmenters"),
    "faults": ("benchmarks.faults:faults", "what a run survives: faults at random places"),
    "finetuning": ("benchmarks.finetuning:finetuning", "fine-tuning against scratch and a linear probe"),
    "formats": ("benchmarks.formats:formats", "every export format for a few networks"),
    "int8": ("benchmarks.int8:int8", "which parts of a network to quantise"),
    "kernels": ("benchmarks.kernels:kernels", "what the kernels for CPUs give"),
    "loading": ("benchmarks.loading:loading", "how many training images a core loads in a second"),
    "networks": ("benchmarks.command:benchmark", "networks beside each other, as mobilemamba benchmark does"),
    "readme": ("benchmarks.readme:readme", "every figure of the README's sections on speed and formats"),
    "resolution": ("benchmarks.resolution:resolution", "backbones at the image sizes of detection and segmentation"),
    "scan": ("benchmarks.scan:scan", "time of the selective scan in each of its forms"),
    "stored-step": ("benchmarks.stored_step:stored_step", "what a step costs with a stored teacher"),
    "stored-teacher": ("benchmarks.stored_teacher:stored_teacher", "students of a stored teacher, against V and K"),
    "tensorboard": ("benchmarks.tensorboard:tensorboard", "what the callbacks for TensorBoard cost a run"),
}
"""Function of each measurement, and what it does."""

if __name__ == "__main__":
    sys.exit(run_command("python -m benchmarks", COMMANDS, None))
