import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mobilemamba import MobileMamba, MobileMambaConfig, fuse
from mobilemamba.errors import UserError
from mobilemamba.export import Comparison, ParityReport
from mobilemamba.export.comparison import compare_logits
from mobilemamba.export.parity import compare_fused, compare_runner

SHAPE = (2, 3, 64, 64)
REFERENCE = torch.tensor([[1.0, -4.0, 2.0], [0.5, 0.25, 0.0]])


def report(max_abs_error: float = 1e-6, top1_agreement: float = 1.0, response: float = 0.5) -> ParityReport:
    comparison = Comparison(SHAPE, 2, max_abs_error, top1_agreement, response)
    return ParityReport("onnx", 1e-15, 1e-4, (comparison,), {"torch": "2"}, 1)


def test_error_is_relative_to_the_largest_absolute_logit() -> None:
    candidate = REFERENCE.clone()
    candidate[1, 1] += 0.02
    comparison = compare_logits(REFERENCE, candidate, SHAPE)
    assert comparison.max_abs_error == pytest.approx(0.02 / 4)
    assert comparison.top1_agreement == 1.0


def test_another_top_class_is_counted_per_image_but_for_ties_within_float32() -> None:
    candidate = REFERENCE.clone()
    candidate[1, 1] = 0.6
    assert compare_logits(REFERENCE, candidate, SHAPE).top1_agreement == 0.5
    reference = torch.tensor([[1.0, 1.0 - 1e-6, 0.0]])
    assert compare_logits(reference, reference[:, [1, 0, 2]], SHAPE).top1_agreement == 1.0


def test_answers_that_are_no_numbers_or_too_few_are_refused() -> None:
    candidate = REFERENCE.clone()
    candidate[0, 0] = math.nan
    assert compare_logits(REFERENCE, candidate, SHAPE).max_abs_error == math.inf
    with pytest.raises(UserError, match="network itself gives logits that are not finite"):
        compare_logits(candidate, REFERENCE, SHAPE)
    with pytest.raises(UserError, match=r"shape \(2, 2\)"):
        compare_logits(REFERENCE, REFERENCE[:, :2], SHAPE)


@pytest.mark.parametrize("bad", [{"max_abs_error": 2e-4}, {"max_abs_error": math.inf}, {"top1_agreement": 0.99}])
def test_report_refuses_error_and_disagreement(bad: dict[str, float]) -> None:
    assert not report(**bad).passed
    with pytest.raises(UserError, match="onnx file is refused"):
        report(**bad).raise_if_refused()


def test_report_of_float16_counts_its_error_there_and_lets_near_classes_change() -> None:
    near = replace(report(1e-3, 0.9), tolerance=2e-2, half=Comparison(SHAPE, 2, 5e-3, 1.0, 0.5))
    assert near.passed
    assert near.max_abs_error == 5e-3
    assert near.top1_agreement == 0.9
    for error in (3e-2, math.inf):
        far = replace(near, half=Comparison(SHAPE, 2, error, 1.0, 0.5))
        assert not far.passed
        with pytest.raises(UserError, match=r"\(tolerance 0.02\) .* with every result rounded, in PyTorch"):
            far.raise_if_refused()
        assert not replace(near, comparisons=report(error).comparisons).passed


def test_report_without_comparison_claims_nothing() -> None:
    unknown = ParityReport("coreml", 1e-15, 1e-4, (), {"torch": "2"}, 1)
    assert replace(unknown, half=Comparison(SHAPE, 2, 0.0, 1.0, 0.5)).verdict == "converted, not run"
    unknown.raise_if_refused()
    content = unknown.to_dict()
    assert content["verdict"] == "converted, not run"
    assert content["passed"] is content["conclusive"] is False
    assert content["max_abs_error"] is content["top1_agreement"] is None


def test_report_sums_up_all_comparisons_in_plain_json() -> None:
    comparisons = (Comparison(SHAPE, 2, 1e-6, 1.0, 0.5), Comparison((1, 3, 64, 64), 6, 3e-6, 0.5, 0.0))
    assert replace(report(), comparisons=comparisons).max_abs_error == 3e-6
    assert replace(report(), comparisons=comparisons).top1_agreement == (2 + 3) / 8
    passed = report()
    passed.raise_if_refused()
    content = passed.to_dict()
    assert (content["verdict"], content["passed"], content["conclusive"]) == ("passed", True, True)
    assert (content["max_abs_error"], content["top1_agreement"]) == (1e-6, 1.0)
    assert content["comparisons"][0]["shape"] == [2, 3, 64, 64]
    assert json.loads(json.dumps(content)) == content


def test_fused_network_is_close_and_one_with_a_lost_bias_is_refused(
    tiny_config: MobileMambaConfig, randomised: Callable[[MobileMambaConfig], MobileMamba]
) -> None:
    network = randomised(tiny_config)
    fused = fuse(network)
    assert compare_fused(network, fused, SHAPE) < 1e-12
    stem = fused.stem[0]
    assert isinstance(stem, torch.nn.Conv2d)
    assert stem.bias is not None
    stem.bias[0] += 1e-3
    with pytest.raises(UserError, match="Fusion is refused"):
        compare_fused(network, fused, SHAPE)


def test_report_says_when_the_network_does_not_tell_images_apart() -> None:
    assert not report(response=1e-4).conclusive
    assert compare_logits(REFERENCE, REFERENCE, SHAPE).response == pytest.approx(4.25 / 4)
    assert compare_logits(REFERENCE[:1], REFERENCE[:1], (1, 3, 64, 64)).response == 0


def test_runner_is_asked_for_every_shape_with_reproducible_images() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    shapes = ((1, 3, 2, 2), (4, 3, 2, 2))
    state = torch.get_rng_state()
    comparisons = compare_runner(network, network, shapes)
    assert torch.equal(state, torch.get_rng_state())
    assert [comparison.shape for comparison in comparisons] == list(shapes)
    assert all(comparison.max_abs_error == 0 for comparison in comparisons)


def test_single_images_are_judged_together() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    batches: list[int] = []

    def runner(images: torch.Tensor) -> torch.Tensor:
        batches.append(len(images))
        return network(images)

    (comparison,) = compare_runner(network, runner, ((1, 3, 2, 2),) * 4)
    assert batches == [1, 1, 1, 1]
    assert (comparison.shape, comparison.images) == ((1, 3, 2, 2), 4)
    assert comparison.response > 0
