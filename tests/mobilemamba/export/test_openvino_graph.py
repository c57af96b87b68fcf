"""The graph that OpenVINO is given, run by ONNX Runtime: what it computes does not depend on who runs it."""

import copy
import io

import numpy as np
import onnxruntime
import pytest
import torch

from mobilemamba import MobileMamba, MobileMambaConfig, fuse
from mobilemamba.export.formats.onnx import convert
from mobilemamba.export.formats.openvino import join_softplus
from mobilemamba.export.graph import for_graphs
from mobilemamba.export.options import ExportOptions
from mobilemamba.export.tracing import trace


@pytest.fixture(scope="module")
def network() -> MobileMamba:
    torch.manual_seed(0)
    network = MobileMamba(MobileMambaConfig(widths=(16, 24, 32), num_classes=5))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return fuse(network.eval())


def test_each_softplus_is_one_operator_and_answers_stay(network: MobileMamba) -> None:
    import onnx_ir as ir

    program = trace(
        for_graphs(copy.deepcopy(network), dynamic_size=False), 3, (64, 64), ExportOptions(dynamic_batch=True)
    )
    model = convert(program).model
    before = [node.op_type for node in model.graph]
    rewritten = join_softplus(model)
    after = [node.op_type for node in rewritten.graph]
    scans = before.count("Log")
    assert scans > 0
    assert "Softplus" not in before
    assert after.count("Softplus") == scans
    assert "Log" not in after
    buffer = io.BytesIO(ir.to_proto(rewritten).SerializeToString())
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
