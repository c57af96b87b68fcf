"""The config and the network's table as text, and the charts that curves are grouped in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import Trainer
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from lightning_modules.callbacks import EMA, ComplexityTable, ConfigText, ScalarLayout, ScanDecays
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from mobilemamba.complexity import complexity
from tests.lightning_modules.logged_events import events, text
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


def test_the_config_is_shown_as_it_was_saved(logged: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "version_0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\nmodel:\n  widths: [1]\n")
    logged(callbacks=[ConfigText()], max_steps=1).fit(ImageClassification(tiny), datamodule=TinyData())
    assert text(events(tmp_path), "run/config") == "```yaml\nseed: 0\nmodel:\n  widths: [1]\n```"


def test_curves_are_grouped_by_expressions_that_match_them_alone(
    logged: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    callbacks = [EMA(decay=0.5), ScalarLayout(), ScanDecays(1, images=1)]
    trainer = logged(callbacks=callbacks)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    log = events(tmp_path)
    layout = Layout()
    layout.ParseFromString(log.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    curves = {
        chart.title: sorted(
            scalar for tag in chart.multiline.tag for scalar in log.Tags()["scalars"] if re.match(tag, scalar)
        )
        for category in layout.category
        for chart in category.chart
    }
    assert curves == {
        "top-1, raw and EMA weights": ["val/top1_ema", "val/top1_raw"],
        "top-5, raw and EMA weights": ["val/top5_ema", "val/top5_raw"],
        "training: total and parts": ["train/loss", "train/loss_task"],
        "validation, raw and EMA weights": ["val/loss_ema", "val/loss_raw"],
        "learning rate": ["optim/lr"],
        "gradient norm before clipping": ["train/grad_norm"],
        "images per second": [],  # of Throughput, which does not run here
        "share of the time waiting for data": [],
        "median decay length per block, pixels": [
            f"scan/decay_length_median/stages.{stage}.blocks.0" for stage in range(3)
        ],
    }


def test_the_table_has_every_part_and_their_sum(logged: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path) -> None:
    module = ImageClassification(tiny)
    logged(callbacks=[ComplexityTable()], max_steps=1).fit(module, datamodule=TinyData())
    heading, _, table = text(events(tmp_path), "network/complexity").partition("\n\n")
    assert "64 x 64 pixels" in heading
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    counted = {name: tuple(int(cell.replace(",", "")) for cell in (row[0], row[2])) for name, *row in rows}
    parts = [name for name in counted if not name.startswith(("...", "**"))]
    assert parts == [
        "stem",
        "stages.0.blocks.0",
        "stages.1.downsample",
        "stages.1.blocks.0",
        "stages.2.downsample",
        "stages.2.blocks.0",
        "head",
    ]
    whole = complexity(module.student, (64, 64))
    assert counted["**whole network**"] == (whole.parameters, whole.total_macs)
    assert [sum(counted[name][column] for name in parts) for column in (0, 1)] == [whole.parameters, whole.total_macs]
    assert counted["head"] == (sum(p.numel() for p in module.student.head.parameters()), 32 * 4)
    scan = next(row for row in rows if row[0] == "... its scan branch")
    assert scan[5] == f"{9 * 16 * 2 * 32:,}"  # 4 x 4 pixels, two directions, twice the 16 global channels
