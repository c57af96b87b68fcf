from pathlib import Path

import pytest

from benchmarks import ceiling, formats, kernels, readme
from benchmarks.formats import Support, support_table
from benchmarks.latency import Latency
from benchmarks.publish import around_markers
from benchmarks.training_step import TrainingStep
from mobilemamba.export.timing import Timing

ROOT = Path(__file__).parents[2]


def timed(network: str, form: readme.Form, minimum: float, ratio: float) -> Latency:
    return Latency(network, form, (224, 224), 1, 15_040_000, 652_000_000, Timing(minimum, 99.0, 3), ratio, 9.0, 0.0)


def step(network: str, megabytes: float, minimum: float) -> TrainingStep:
    ratios = (megabytes / 20, minimum / 400, 9.0)
    return TrainingStep(network, (224, 224), 16, megabytes, Timing(minimum, 999.0, 3), *ratios)


def test_latency_table_has_a_column_for_each_form_and_ends_with_the_ratio() -> None:
    results = [
        timed("mobilemamba_s6", "eager", 31.06, 1.511),
        timed("mobilemamba_s6", "onnx", 10.9, 1.05),
        timed("repvit_m1_0", "eager", 25.0, 1.2),
        timed("repvit_m1_0", "onnx", 13.6, 1.3),
    ]
    header, _, ours, other, ratio = readme.latency_table(results).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, ours, other, ratio)]
    assert cells == [
        ["network", "pixels", "top-1", "distilled", "M parameters", "GMACs", "eager", "ONNX Runtime"],
        ["mobilemamba_s6", "224", "78.0", "80.7", "15.0", "0.65", "31.1", "10.9"],
        ["repvit_m1_0", "224", "-", "80.0", "15.0", "0.65", "25.0", "13.6"],
        ["mobilemamba_s6 / shvit_s3", "", "", "", "", "", "1.51", "1.05"],
    ]


def test_training_table_ends_with_the_ratio() -> None:
    lines = readme.training_table([step("mobilemamba_s6", 32.0, 600.0), step("shvit_s3", 20.0, 400.0)]).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["mobilemamba_s6", "32.0", "600"]
    assert [cell.strip() for cell in lines[-1].strip("|").split("|")] == ["mobilemamba_s6 / shvit_s3", "1.60", "1.50"]


def test_support_table_says_what_became_of_each_format() -> None:
    supports = [
        Support("mobilemamba_s6", (224, 224), "onnx", "passed", max_abs_error=4.1e-6),
        Support("mobilemamba_s6", (224, 224), "litert", "not installed"),
    ]
    _, _, onnx, litert = support_table(supports).splitlines()
    assert "| compared, off by 4e-06 |" in onnx
    assert "| the package " in onnx
    assert '| `pip install ".[litert]"` in the checkout | not installed ' in litert


def test_every_format_has_a_purpose() -> None:
    assert formats.PURPOSES.keys() == set(formats.FORMATS)


def test_documents_have_a_place_for_every_table() -> None:
    pages = [(Path("docs/performance.md"), name) for name in (ceiling.MARKERS, kernels.MARKERS)]
    for path, name in [*readme.PLACES, *pages]:
        assert all(around_markers(ROOT / path, name))


def test_a_document_without_markers_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").touch()
    monkeypatch.setattr(readme, "PLACES", ((tmp_path / "README.md", "latency"),))
    monkeypatch.setattr(readme, "build", None)  # calling it would fail
    with pytest.raises(ValueError, match="has no place for the table"):
        readme.readme()
