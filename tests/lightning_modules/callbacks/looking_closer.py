"""All callbacks that only write pictures, texts and histograms."""

from __future__ import annotations

from lightning.pytorch import Callback

from lightning_modules.callbacks import (
    ClassResults,
    ComplexityTable,
    ConfigText,
    ReceptiveField,
    SampleImages,
    ScalarLayout,
    ScanDecays,
)


def looking_closer(every_n_validations: int = 1) -> list[Callback]:
    """Return one of each, at small sizes."""
    return [
        ScalarLayout(),
        ConfigText(),
        ComplexityTable(),
        SampleImages(count=4),
        ClassResults(every_n_validations),
        ScanDecays(every_n_validations, images=2),
        ReceptiveField(images=2),
    ]
