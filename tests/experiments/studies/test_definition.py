"""A study's file means what it says, and what makes no sense is refused with field, value and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.studies.definition import flatten, read_study
from mobilemamba.errors import UserError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_study_is_read_whole(tmp_path: Path) -> None:
    path = write(
        tmp_path / "parts.yaml",
        """
base: {configs: [a.yaml, sub/b.yaml], overrides: {trainer: {max_steps: 7}}}
compare_with: two
arms:
  one: {description: first, configs: [c.yaml], overrides: {model: {network: {widths: [1, 2]}}, model.teacher: null}}
  two: {description: second, group: others}
seeds: [3, 4]
budget: {epochs: 5, hours: 25.51}
""",
    )
    study = read_study(path)
    assert (study.name, study.compare_with, study.seeds) == ("parts", "two", (3, 4))
    assert study.base.configs == (tmp_path / "a.yaml", tmp_path / "sub" / "b.yaml")
    assert study.base.overrides == {"trainer.max_steps": 7}
    one, two = study.arms
    assert (one.name, one.description, one.group, two.group) == ("one", "first", "", "others")
    assert one.layer.configs == (tmp_path / "c.yaml",)
    assert one.layer.overrides == {"model.network.widths": [1, 2], "model.teacher": None}
    assert study.budget == {"trainer.max_epochs": 5, "trainer.max_time": "01:01:30:36"}


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    study = read_study(write(tmp_path / "least.yaml", "arms: {only: {description: x}}"))
    assert (study.compare_with, study.seeds, study.budget, study.base.configs) == ("only", (0,), {}, ())


ARM = "{description: x}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("arms: {}", "arms must have at least one"),
        ("[]", "must hold a study"),
        ("a: b: c", "must be a YAML file"),
        (f"arms: {{a: {ARM}}}\narm: 1", "the study has no field 'arm': did you mean arms?"),
        (f"arms:\n  a: {ARM}\n  a: {ARM}", "'a' is given twice (line 3); rename one"),
        (f"arms: {{a: {ARM}, A: {ARM}}}", "['a', 'A'] holds a name twice"),
        (f"arms: {{a/b: {ARM}}}", "arms = 'a/b' must be letters"),
        (f"arms: {{..: {ARM}}}", "arms = '..' must be"),
        ("arms: {a: {}}", "arms.a has no description"),
        ("arms: {a: {description: x, override: {}}}", "arms.a has no field 'override': did you mean overrides?"),
        ("arms: {a: {description: x, configs: b.yaml}}", "arms.a.configs = 'b.yaml' must be a list"),
        ("arms: {a: {description: x, overrides: [1]}}", "arms.a.overrides = [1] must be"),
        ("arms: {a: {description: x, overrides: {run.name: y}}}", "sets run.name, which the study sets"),
        ("arms: {a: {description: x, overrides: {data: {seed: 1}}}}", "sets data.seed, which the study sets"),
        ("arms: {a: {description: x, overrides: {b.c: 1, b: {c: 2}}}}", "sets b.c twice"),
        (f"arms: {{a: {ARM}}}\ncompare_with: b", "compare_with = 'b' must be one of a"),
        (f"arms: {{a: {ARM}}}\nseeds: []", "seeds = [] must be"),
        (f"arms: {{a: {ARM}}}\nseeds: 3", "seeds = 3 must be a list"),
        (f"arms: {{a: {ARM}}}\nseeds: [1, 1]", "seeds = [1, 1] holds a seed twice"),
        (f"arms: {{a: {ARM}}}\nseeds: [-1]", "seeds = [-1] must be"),
        (f"arms: {{a: {ARM}}}\nbudget: {{epochs: 0}}", "budget.epochs = 0 must be 1 or more"),
        (f"arms: {{a: {ARM}}}\nbudget: {{hours: -1}}", "budget.hours = -1 must be"),
        (f"arms: {{a: {ARM}}}\nbudget: {{epoch: 1}}", "budget has no field 'epoch': did you mean epochs?"),
        (f"arms: {{a: {ARM}}}\nname: a b", "name = 'a b' must be"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path / "study.yaml", text)
    with pytest.raises(UserError) as caught:
        read_study(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_empty_mappings_are_values() -> None:
    assert flatten({"a": {"b": {}}, "c": {"d.e": 1}}, "here") == {"a.b": {}, "c.d.e": 1}
