"""Rewriting of a graph where OpenVINO has a faster operator than other runtimes."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern, rewrite


def rewrite_for_openvino(model: ir.Model) -> ir.Model:
    """Return the model with each softplus in one operator; ONNX Runtime's own takes longer than what it replaces."""
    return rewrite(model, [pattern.RewriteRule(_written_out, _softplus)])


def _written_out(op: Any, x: Any, low: Any) -> Any:
    """The form of :mod:`mobilemamba.scan.rows`: -softplus(-x)."""
    return op.Min(x, op.Log(op.Sigmoid(op.Clip(x, low))))


def _softplus(op: Any, x: Any, low: Any) -> Any:
    return op.Neg(op.Softplus(op.Neg(x)))
