"""Images that cannot be read: named once, counted over all processes, left out up to a limit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mobilemamba.errors import UserError
from tests.datamodules.conftest import photographs, truncate


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_and_counted_once_over_processes_and_epochs(
    image_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    root = image_folder()
    truncate(root / "train" / "bee" / "1.jpg")
    truncate(root / "val" / "ant" / "0.jpg")
    data = photographs(root, num_workers=workers, max_corrupt=1, batch_size=1)
    for epoch in range(4):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert sum(len(targets) for _, targets in loader) == 12
    evaluated = photographs(root, "validate", num_workers=workers)
    assert sum(len(targets) for _, targets in evaluated.val_dataloader()) == 11
    assert (data.corrupt_count, evaluated.corrupt_count) == (1, 1)
    evaluated.teardown("validate")
    assert "1 image(s) could not be read so far" in caplog.text
    if workers == 0:
        assert caplog.text.count("bee/1.jpg cannot be read") == 1
        assert "results are of the other images alone" in caplog.text


def test_an_unreadable_image_is_replaced_by_the_next(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    (root / "train" / "cow" / "3.jpg").write_text("no image at all")  # the last one: the first takes its place
    loader = photographs(root).train_dataloader()
    replaced = {draw.image: draw for draw in loader.sampler}[11]
    image, target = loader.dataset[replaced]
    assert target == 0
    assert torch.equal(image, loader.dataset[replaced._replace(image=0)][0])


def test_unreadable_images_stop_by_option_or_limit(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    truncate(root / "val" / "ant" / "0.jpg")
    with pytest.raises(UserError, match=r"ant/0\.jpg.*data\.on_corrupt"):
        list(photographs(root, on_corrupt="raise", num_workers=1).val_dataloader())
    truncate(root / "val" / "ant" / "1.jpg")
    with pytest.raises(UserError, match=r"number 2, and 1 may be left out.*data\.max_corrupt"):
        list(photographs(root, max_corrupt=1).val_dataloader())


def test_a_batch_without_a_readable_image_is_refused(image_folder: Callable[..., Path]) -> None:
    root = image_folder()
    truncate(root / "val" / "ant" / "0.jpg")
    with pytest.raises(UserError, match="No image of a whole batch can be read"):
        list(photographs(root, batch_size=1).val_dataloader())
