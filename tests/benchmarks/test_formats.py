from pathlib import Path

import pytest

from benchmarks import formats
from datamodules import DigitsDataModule
from mobilemamba.errors import UserError


@pytest.mark.usefixtures("tiny_networks")
@pytest.mark.parametrize(
    ("error", "outcome"), [(UserError("differs"), "refused"), (KeyError("operator"), "failed")], ids=str
)
def test_a_format_that_fails_is_listed_with_the_reason(
    error: Exception, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(formats, "export_network", fail)
    document = tmp_path / "table.md"
    document.write_text("<!-- formats:begin -->\n<!-- formats:end -->\n")
    (support,) = formats.formats(["quickstart"], ["onnx"], None, 1, 1, tmp_path / "formats.json", document)
    assert (support.outcome, support.timing) == (outcome, None)
    assert str(error.args[0]) in capsys.readouterr().out
    assert f" {outcome} |" in document.read_text()


def test_quickstart_is_the_network_of_its_config() -> None:
    network, size = formats.trained_looking("quickstart")
    data = DigitsDataModule()
    expected = ((32, 48, 64), data.num_classes, (data.image_size,) * 2)
    assert (network.config.widths, network.num_classes, size) == expected


def test_only_a_mobilemamba_is_tried() -> None:
    with pytest.raises(UserError, match="'shvit_s1' must be a MobileMamba"):
        formats.trained_looking("shvit_s1")
