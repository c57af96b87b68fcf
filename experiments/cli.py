"""The ``mobilemamba`` command: one typed function per subcommand.

    mobilemamba export --checkpoint RUN/checkpoints/best.ckpt --format onnx
    mobilemamba ablate experiments/ablations/stages.yaml --devices cpu:2

A subcommand's options are its function's parameters (:mod:`lightning_modules.function_options`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightning_modules.function_options import run_command

COMMANDS = {
    "ablate": ("experiments.studies.ablate:ablate", "train all arms of a study with all seeds, or continue it"),
    "benchmark": ("benchmarks.command:benchmark", "time networks side by side, in inference or training"),
    "embed": ("mobilemamba.inference.embed:embed", "write the features of a folder's images"),
    "erf": ("lightning_modules.receptive_field.erf:erf", "draw and measure effective receptive fields of networks"),
    "export": ("lightning_modules.export_command:export", "write a checkpoint as a checked file for deployment"),
    "match": ("experiments.matching.match:match", "find widths at which a layout is as fast as a reference network"),
    "prepare": ("datamodules.chunks.prepare:prepare", "write an image folder into chunks, for disk or object storage"),
    "publish": ("lightning_modules.publishing.publish:publish", "write weights for timm and the Hugging Face Hub"),
    "predict": ("mobilemamba.inference.predict:predict", "classify images with any weights or exported file"),
    "report": ("experiments.studies.report.command:report", "compare the arms of a study: tables, intervals, pictures"),
    "store-teacher": ("lightning_modules.store_teacher:store_teacher", "run a teacher once, and store its answers"),
    "verify": ("lightning_modules.verify:verify", "evaluate the published files on ImageNet"),
}
"""Function of each subcommand, imported when it is called, and its description."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand of ``mobilemamba``; see :func:`lightning_modules.function_options.run_command`."""
    return run_command("mobilemamba", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
