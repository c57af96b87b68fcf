import json
from pathlib import Path

import pytest

from benchmarks import int8
from mobilemamba import UserError


@pytest.mark.usefixtures("tiny_networks")
def test_every_choice_of_parts_is_compared_with_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "int8.json"
    int8.int8("quickstart", rounds=1, output=output)
    results = {result["part"]: result for result in json.loads(output.read_text())["results"]}
    assert results.keys() == {"nothing (float32)", *int8.PARTS}
    nodes = {part: result["nodes"] for part, result in results.items()}
    assert nodes["nothing (float32)"] == results["nothing (float32)"]["max_abs_error"] == 0
    assert 0 < nodes["convolutions alone"] < nodes["as exported"] < nodes["and the classifier"] < nodes["and depthwise"]
    assert all(result["max_abs_error"] > 0 for part, result in results.items() if part in int8.PARTS)
    assert all(result["size_bytes"] > 0 and result["timing"]["minimum"] > 0 for result in results.values())
    assert "| as exported " in capsys.readouterr().out


def test_a_checkpoint_needs_images() -> None:
    with pytest.raises(UserError, match="--checkpoint needs --calibration FOLDER"):
        int8.int8(checkpoint=Path("best.ckpt"))
