import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import formats, readme
from benchmarks.accuracy import PUBLISHED_RATES
from mobilemamba.errors import UserError
from mobilemamba.export import formats as export_formats
from mobilemamba.export.formats import FORMATS, aoti

TABLES = {
    "README.md": ("latency", "training", "support"),
    "benchmarks/README.md": ("formats",),
    "docs/performance.md": ("throughput",),
}


def rows(path: str, name: str) -> list[list[str]]:
    """Return the cells of the table between two markers, its header and rule left out."""
    text = Path(path).read_text().split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def results(name: str) -> list[dict[str, Any]]:
    content = json.loads(Path(f"benchmarks/results/{name}.json").read_text())
    assert content["environment"]["device"]
    found: list[dict[str, Any]] = content["results"]
    return found


def no_compiler() -> None:
    raise UserError("There is no C++ compiler.")


@pytest.mark.usefixtures("tiny_networks")
@pytest.mark.parametrize("pixels", [224])
def test_every_figure_is_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Exporting takes most of the time.
    monkeypatch.setattr(readme, "NETWORKS", (readme.OURS, readme.REFERENCE))
    monkeypatch.setattr(readme, "BATCHED", (*PUBLISHED_RATES, readme.REFERENCE))
    monkeypatch.setattr(readme, "BATCH_SIZES", (1, 2))
    monkeypatch.setattr(formats, "formats", partial(formats.formats, networks=[readme.OURS]))
    monkeypatch.setattr(export_formats, "find_spec", lambda name: name if name.startswith("onnx") else None)
    monkeypatch.setattr(aoti, "check_compiler", no_compiler)
    for path, names in TABLES.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(
            "".join(f"before\n<!-- {one}:begin -->\nold\n<!-- {one}:end -->\nafter\n" for one in names)
        )
    readme.readme(threads=1, rounds=1, repeats=1, batch_rounds=1, training_rounds=1)

    latencies = {(one["network"], one["form"]): one for one in results("latency")}
    assert {form for _, form in latencies} == {"eager", "fused", "onnx"}  # OpenVINO is not there
    figures = [["224", "78.0", "80.7"], ["224", "77.4", "-"]]
    *networks, ratio = rows("README.md", "latency")
    for cells, figure in zip(networks, figures, strict=True):
        assert cells[1:4] == figure
        minima = [latencies[cells[0], form]["timing"]["minimum"] for form in ("eager", "fused", "onnx")]
        assert cells[6:] == [f"{minimum:.1f}" for minimum in minima]
    ours = [latencies[readme.OURS, form]["ratio_of_minima"] for form in ("eager", "fused", "onnx")]
    assert [ratio[0], *ratio[6:]] == ["mobilemamba_s6 / shvit_s3", *(f"{value:.2f}" for value in ours)]

    rates = {(one["network"], one["batch_size"]): 1e3 / one["timing"]["minimum"] for one in results("throughput")}
    for cells in rows("docs/performance.md", "throughput"):
        assert cells[6:8] == [f"{size * rates[cells[0], size]:.1f}" for size in (1, 2)]
        assert cells[8] == str(PUBLISHED_RATES.get(cells[0], "-"))
    assert Path("docs/images/throughput.png").read_bytes().startswith(b"\x89PNG")

    steps = {step["network"]: step for step in results("training_step")}
    step = steps[readme.OURS]
    assert rows("README.md", "training")[0][1] == f"{step['megabytes_per_image']:.1f}"
    assert rows("README.md", "training")[-1][1:] == [f"{step['memory_ratio']:.2f}", f"{step['ratio_of_minima']:.2f}"]

    supports = {one["format"]: one for one in results("formats") if one["network"] == readme.OURS}
    assert {name for name, one in supports.items() if one["outcome"] == "not installed"} == {
        name for name, form in FORMATS.items() if form.packages
    } - {"onnx", "onnx-float16"} | {"aoti"}
    for form, error in (("onnx", 1e-4), ("onnx-float16", 2e-2), ("pt2", 1e-4)):
        assert (supports[form]["outcome"], supports[form]["report"]["conclusive"]) == ("passed", True)
        assert supports[form]["report"]["max_abs_error"] < error
        assert supports[form]["timing"]["minimum"] > 0
    table = {cells[0]: cells[3:] for cells in rows("README.md", "support")}
    assert table["`onnx`"][0] == "the package"
    assert table["`onnx`"][1].startswith("compared, off by ")
    assert table["`litert`"] == ['`pip install ".[litert]"` in the checkout', "not installed"]
    listed = rows("benchmarks/README.md", "formats")
    assert [cells[0] for cells in listed] == ["mobilemamba_s6, 224x224"] * 8
    assert [cells[3] for cells in listed].count("yes, compared") == 3
    assert (
        Path("README.md").read_text().count("before\n<!--") == Path("README.md").read_text().count("-->\nafter\n") == 3
    )
