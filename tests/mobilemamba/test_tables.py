"""Cells that a spreadsheet must not run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from mobilemamba.inference.embed import write_embeddings
from mobilemamba.inference.predict import Prediction, write_predictions
from mobilemamba.tables import safe_cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_is_text(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "bee", "a=1", "photographs/-1.jpg"])
def test_other_texts_stay(text: str) -> None:
    assert safe_cell(text) == text


def test_tables_for_other_programs_hold_no_formula(tmp_path: Path) -> None:
    write_predictions([Prediction("=1.png", ("+2",), (0.5,))], tmp_path / "named.csv")
    write_embeddings(torch.zeros(1, 2), [Path("-3.png")], ["@4"], tmp_path / "features.safetensors")
    rows = [*read(tmp_path / "named.csv"), *read(tmp_path / "features.csv")]
    assert rows[1::2] == [["'=1.png", "'+2", "0.500000"], ["'-3.png", "'@4"]]


def read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))
