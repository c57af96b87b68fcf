"""Pictures, tables and histograms in the run's log: written when they should, with what was measured."""

from __future__ import annotations

import copy
import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassRecall

from datamodules.mixing import MixingConfig
from lightning_modules.callbacks import EMA, ClassResults, ReceptiveField, SampleImages, ScanDecays
from lightning_modules.callbacks import class_results as class_results_module
from lightning_modules.callbacks import sample_images as sample_images_module
from lightning_modules.callbacks import scan_decay as scan_decay_module
from lightning_modules.classification import ImageClassification
from lightning_modules.receptive_field.gradient import contribution_map
from mobilemamba import MobileMambaConfig
from mobilemamba.complexity import complexity
from tests.lightning_modules.callbacks.looking_closer import looking_closer
from tests.lightning_modules.small_runs import events, logged_trainer, picture_steps, text
from tests.lightning_modules.tiny_data import TINY, TinyData

BLOCKS = [f"stages.{stage}.blocks.0" for stage in range(3)]
CONFIG = "seed: 0\nmodel:\n  widths: [1]\n"


class Mixed(TinyData):
    """Training images and labels that are mixed on the device."""

    mixing = MixingConfig(label_smoothing=0.3)

    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, targets = batch
        if self.trainer is None or not self.trainer.training:
            return images, targets
        labels = F.one_hot(targets, 4).float()
        return 0.75 * images + 0.25 * images.flip(0), 0.75 * labels + 0.25 * labels.flip(0)


class Networks(Callback):
    """Copies of the networks before and after training; lets raw and averaged weights disagree."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        self.fresh = copy.deepcopy(pl_module.student).eval()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 0:
            self.first_batch = batch

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        if trainer.current_epoch + 1 == trainer.max_epochs and not trainer.sanity_checking:  # nothing is averaged later
            pl_module.student.get_classifier().bias.data[2] = 10

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        self.raw = copy.deepcopy(pl_module.student).eval()
        averaged = pl_module.ema_student
        self.validated = self.raw if averaged is None else copy.deepcopy(averaged).eval()


@dataclass
class Run:
    """A run of two steps per epoch, and the arguments and results of what it called."""

    averaging: bool
    steps: int
    writings: list[int]
    trainer: Trainer
    networks: Networks
    field: ReceptiveField
    calls: dict[str, list[tuple[tuple[Any, ...], Any]]]
    log: EventAccumulator


def record(patch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[tuple[tuple[Any, ...], Any]]:
    calls: list[tuple[tuple[Any, ...], Any]] = []
    original = getattr(module, name)

    def call(*args: Any, **options: Any) -> Any:
        calls.append((args, original(*args, **options)))
        return calls[-1][1]

    patch.setattr(module, name, call)
    return calls


# Results are written after the first and every second validation, and after the last one where that is another.
@pytest.fixture(scope="module", params=[(True, 3, [2, 4, 6]), (False, 4, [2, 4, 8])], ids=["averaged", "raw"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    averaging, epochs, writings = request.param
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "run" / "version_0").mkdir(parents=True)
    (folder / "run" / "version_0" / "config.yaml").write_text(CONFIG)
    networks, looking = Networks(), looking_closer(every_n_validations=2)
    callbacks = [*([EMA(decay=0.5)] if averaging else []), networks, *looking]
    trainer = logged_trainer(folder, callbacks=callbacks, max_epochs=epochs)
    called = {"multiclass_confusion_matrix": class_results_module, "draw_confusion": class_results_module}
    called |= {"draw_samples": sample_images_module, "scan_decays": scan_decay_module}
    with pytest.MonkeyPatch.context() as patch:
        calls = {name: record(patch, module, name) for name, module in called.items()}
        torch.manual_seed(0)
        trainer.fit(ImageClassification(TINY), datamodule=Mixed(samples=22))
    field = next(callback for callback in looking if isinstance(callback, ReceptiveField))
    return Run(averaging, 2 * epochs, writings, trainer, networks, field, calls, events(folder))


def test_each_is_written_when_it_should(run: Run) -> None:
    assert picture_steps(run.log) == {
        "val/receptive_field": [0, run.steps],
        "train/samples": [0],
        "val/confusion": run.writings,
        "val/class_accuracy": run.writings,
        "val_scan/decay_length": run.writings,
    }
    kinds = ("val_scan_step_size", "val_scan_decay_length_log10")
    assert set(run.log.Tags()["histograms"]) == {f"{kind}/{block}" for block in BLOCKS for kind in kinds}
    for block in BLOCKS:
        assert [event.step for event in run.log.Scalars(f"val_scan/decay_length_median/{block}")] == run.writings
    assert [event.step for event in run.log.Tensors("val/worst_classes/text_summary")] == run.writings
    assert {name: len(calls) for name, calls in run.calls.items()} == {
        "multiclass_confusion_matrix": 4,  # what is drawn is counted, and the last table
        "draw_confusion": 3,
        "draw_samples": 1,
        "scan_decays": 3,
    }


def test_the_matrix_holds_every_image_once_as_the_weights_that_count_see_it(run: Run) -> None:
    images, targets = TinyData(samples=22).dataset(1).tensors
    with torch.no_grad():
        predictions, raw = run.networks.validated(images).argmax(1), run.networks.raw(images).argmax(1)
    assert torch.equal(raw, predictions) == (not run.averaging)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for target, prediction in zip(targets, predictions, strict=True):
        expected[target, prediction] += 1
    (matrix, names), _ = run.calls["draw_confusion"][-1]
    assert torch.equal(matrix, expected)
    with (Path(str(run.trainer.log_dir)) / "class_results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["name"], int(row["images"])) for row in table] == [
        (names[i], int(expected[i].sum())) for i in range(4)
    ]
    recall = MulticlassRecall(4, average=None)(predictions, targets).tolist()
    assert [float(row["recall"]) for row in table] == pytest.approx(recall, abs=1e-4)
    assert names == ("class 0", "class 1", "class 2", "class 3")
    metric = run.trainer.callback_metrics[f"val/top1_{'ema' if run.averaging else 'raw'}"]
    torch.testing.assert_close(matrix.diagonal().sum() / matrix.sum(), metric)


def test_the_first_batch_is_drawn_as_the_network_sees_it(run: Run) -> None:
    (images, targets, metadata, title, smoothing), _ = run.calls["draw_samples"][0]
    assert smoothing == 0.3
    assert torch.equal(images, run.networks.first_batch[0][:4])
    assert targets.sum(1).tolist() == [1, 1, 1, 1]
    assert set(targets.flatten().tolist()) <= {0, 0.25, 0.75, 1}
    assert metadata == TinyData().metadata()
    assert "4 of the 8 images" in title


def test_histograms_and_medians_are_those_of_the_validation_images(run: Run) -> None:
    (_, images), decays = run.calls["scan_decays"][-1]
    assert torch.equal(images, TinyData(samples=22).dataset(1).tensors[0][[0, 11]])
    for block, decay in decays.items():
        for tag, values in (
            (f"val_scan_step_size/{block}", decay.step_sizes),
            (f"val_scan_decay_length_log10/{block}", decay.decay_lengths.log10()),
        ):
            histogram = run.log.Histograms(tag)[-1].histogram_value
            assert histogram.num == sum(histogram.bucket) == values.numel()
            assert (histogram.min, histogram.max) == pytest.approx((values.min().item(), values.max().item()))
            assert histogram.sum / histogram.num == pytest.approx(values.mean().item(), rel=1e-4)
            middle = histogram.bucket_limit[31]
            counted = zip(histogram.bucket, histogram.bucket_limit, strict=True)
            below = sum(count for count, limit in counted if limit <= middle)
            assert below == pytest.approx((values < middle).sum().item(), abs=2)
        median = run.log.Scalars(f"val_scan/decay_length_median/{block}")[-1]
        assert median.value == pytest.approx(decay.decay_lengths.median().item())


def test_receptive_fields_are_those_before_and_after(run: Run) -> None:
    images = TinyData(samples=22).dataset(1).tensors[0][[0, 11]]
    assert list(run.field.maps) == ["before training", f"after {run.steps} steps"]
    for drawn, network in zip(run.field.maps.values(), (run.networks.fresh, run.networks.validated), strict=True):
        torch.testing.assert_close(drawn, contribution_map(network, images).float())


def test_the_config_is_shown_as_it_was_saved(run: Run) -> None:
    assert text(run.log, "run/config") == f"```yaml\n{CONFIG}```"


def test_the_table_has_every_part_and_their_sum(run: Run) -> None:
    heading, _, table = text(run.log, "network/complexity").partition("\n\n")
    assert "64 x 64 pixels" in heading
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    counted = {name: tuple(int(cell.replace(",", "")) for cell in (row[0], row[2])) for name, *row in rows}
    parts = [name for name in counted if not name.startswith(("...", "**"))]
    assert parts == ["stem", BLOCKS[0], "stages.1.downsample", BLOCKS[1], "stages.2.downsample", BLOCKS[2], "head"]
    whole = complexity(run.networks.fresh, (64, 64))
    assert counted["**whole network**"] == (whole.parameters, whole.total_macs)
    assert [sum(counted[name][column] for name in parts) for column in (0, 1)] == [whole.parameters, whole.total_macs]
    assert counted["head"] == (sum(p.numel() for p in run.networks.fresh.head.parameters()), 32 * 4)
    scan = next(row for row in rows if row[0] == "... its scan branch")
    assert scan[5] == f"{9 * 16 * 2 * 32:,}"  # 4 x 4 pixels, two directions, twice the 16 global channels


def test_curves_are_grouped_by_expressions_that_match_them_alone(run: Run) -> None:
    layout = Layout()
    layout.ParseFromString(run.log.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    scalars = run.log.Tags()["scalars"]
    curves = {
        chart.title: sorted(scalar for tag in chart.multiline.tag for scalar in scalars if re.match(tag, scalar))
        for category in layout.category
        for chart in category.chart
    }
    kinds = ["ema", "raw"] if run.averaging else ["raw"]
    assert curves == {
        "top-1, raw and EMA weights": [f"val/top1_{kind}" for kind in kinds],
        "top-1, training and validation": ["train/top1", "val/top1_raw"],
        "training: total and parts": ["train/loss", "train/loss_task"],
        "validation, raw and EMA weights": [f"val/loss_{kind}" for kind in kinds],
        "learning rate": ["train/lr"],
        "gradient norm before clipping": ["train/grad_norm"],
        "norm of weights per part": [],  # of PartNorms, which does not run here
        "norm of gradients per part": [],
        "images per second": [],  # of Throughput, which does not run here
        "share of the time waiting for data": [],
        "median decay length per block, pixels": [f"val_scan/decay_length_median/{block}" for block in BLOCKS],
    }


def test_too_many_classes_are_left_out_with_a_warning(
    logged: Callable[..., Trainer], tiny: MobileMambaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_results_module, "MOST_CLASSES", 3)
    trainer = logged(callbacks=[ClassResults(1)], limit_train_batches=1)
    with pytest.warns(UserWarning, match=r"Results of 4 classes are not drawn: at most 3 .*enable\.class_results"):
        trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert picture_steps(events(tmp_path)) == {}


def test_a_field_that_cannot_be_measured_does_not_end_the_run(
    logged: Callable[..., Trainer], tiny: MobileMambaConfig
) -> None:
    module = ImageClassification(tiny)
    nn.init.zeros_(module.student.stem[0].conv.weight)  # nothing of an image passes
    trainer = logged(callbacks=[ReceptiveField(images=2)], limit_train_batches=1)
    with pytest.warns(UserWarning, match="is not drawn: The gradient .* is zero everywhere") as caught:
        trainer.fit(module, datamodule=TinyData())
    fields = [m for m in (str(warning.message) for warning in caught) if m.startswith("The receptive field")]
    assert [message.split()[3] for message in fields] == ["before", "after"]
    assert trainer.global_step == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassResults(0), r"class_results\.every_n_validations = 0 must be 1 or more"),
        (lambda: ScanDecays(-1), r"scan_decay\.every_n_validations = -1 must be 1 or more"),
        (lambda: ScanDecays(images=0), r"scan_decay\.images = 0 must be 1 or more"),
        (lambda: SampleImages(0), r"sample_images\.count = 0 must be 1 or more"),
        (lambda: ReceptiveField(0), r"receptive_field\.images = 0 must be 1 or more"),
    ],
)
def test_impossible_options_name_their_field(make: Callable[[], Callback], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
