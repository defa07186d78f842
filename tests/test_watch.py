"""Numbers that look like results and are none: what is missing is said aloud and written down."""

import numpy as np
import pandas as pd
import pytest
from dataclasses import replace
from types import SimpleNamespace
from affnb.engine.core import read_json
from affnb.engine.batches import targets_of
from affnb.engine.describe import describe_data
from affnb.separate import train_task
from affnb.engine.tables import warnings_text
from affnb.engine.watch import WARNING_KINDS, OTHER_WARNING, kind_of_warning, rank_of_warning
from toy import toy_run


def without(run, part, **values):
    "The run with labels of a part taken out or set: column = value."
    table = run.table.copy()
    for name, value in values.items():
        table.loc[table["part"] == part, name] = value
    counts = (
        {
            split: dict(listed=len(rows), duplicates=0, conflicting=0, absent=0, undecodable=0)
            for split, rows in table.groupby("split")
        }
        if "split" in table
        else {}
    )
    return replace(
        run,
        table=table,
        packed=SimpleNamespace(manifest=dict(counts=counts)),
        **dict(zip(("targets", "masks"), targets_of(table))),
    )


@pytest.mark.parametrize(
    "values, sentence",
    [
        (dict(AU26=pd.NA, valence=np.nan), "no frame of it has a label of AU26, valence"),
        (dict(expression=pd.NA), "no frame of it has a label of EXPR"),
        (dict(valence=np.nan, arousal=np.nan), "no frame of it has a label of VA"),
        (
            dict(AU2=0),
            "no frame of it shows Neutral, Anger, Disgust, Sadness, Surprise, Other, AU2",
        ),
    ],
    ids=["a unit and valence", "expressions", "a task", "a unit that is never active"],
)
@pytest.mark.parametrize("part", ["dev", "validation"])
def test_a_mask_that_drops_everything_is_said_and_recorded(
    part, values, sentence, tmp_path, capsys
):
    run = toy_run(tmp_path)
    before = describe_data(without(run, part))["warnings"]
    capsys.readouterr()
    (line,) = set(describe_data(without(run, part, **values))["warnings"]) - set(before)
    assert line == f"{part}: {sentence}"
    assert f"WARNING: the data: {line}" in capsys.readouterr().err


def test_a_stage_without_a_label_says_that_it_trained_nothing(tmp_path, capsys):
    run = without(
        toy_run(tmp_path),
        "train",
        **{f"AU{unit}": pd.NA for unit in (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)},
    )
    assert train_task(run, "AU", 0)[0] is None
    (line,) = read_json(tmp_path / "records" / "train-AU-seed0.json")["warnings"]
    assert "no training frame has a label" in line
    assert f"WARNING: AU, seed 0, on dev: {line}" in capsys.readouterr().err


SENTENCES = (  # one of each kind, in their order, as they are written where they are found
    "AU: 0.258 is not above 0.355, which a constant answer reaches",
    "EXPR: 0.310 is not above 0.412, which a linear model on pixels reaches",
    "no training frame has a label that it could learn from: there is no model, and no score",
    "valence: a CCC of -0.012 is not above 0, which a constant answer reaches",
    "arousal: every frame gets the same answer",
    "dev: no frame of it has a label of AU26, valence",
    "EXPR: never predicts Fear (108 frames)",
    "validation: no frame of it shows AU2",
)
UNIT = "AU: never finds AU15 (9 frames)"
UNSCORED = "AU: no frame has a label: there is nothing to score"


def test_every_kind_of_warning_is_known_and_ranked():
    assert [kind_of_warning(line) for line in SENTENCES] == [name for name, _ in WARNING_KINDS]
    assert kind_of_warning(UNIT) == "never predicted or found"
    assert kind_of_warning(UNSCORED) == "no frame has a label"
    assert [rank_of_warning(kind) for kind, _ in WARNING_KINDS] == list(range(len(WARNING_KINDS)))
    assert rank_of_warning(OTHER_WARNING) == rank_of_warning("unheard of") == len(WARNING_KINDS)


def warned_of(*rows):
    "A table of warnings: where, arm, sentence."
    columns = ("where", "arm", "warning")
    table = pd.DataFrame(rows, columns=columns).assign(seeds="0")
    return table.assign(kind=table["warning"].map(kind_of_warning))


def test_ninety_two_warnings_are_ten_lines_at_most_and_none_is_lost(tmp_path):
    "The worst first, an arm of the headline before all; the table has every one."
    from affnb.engine.cli import warned

    further = [SENTENCES[0].replace("AU:", "EXPR:"), SENTENCES[3].replace("valence", "arousal")]
    rows = [("fusion", f"arm {n}", UNIT) for n in range(70)]
    rows += [("tasks", f"arm {n}", line) for n, line in enumerate((*SENTENCES, *further, "odd"))]
    rows += [("data", "", line) for line in (SENTENCES[5], SENTENCES[7])]
    rows += [("headline", "joint", line) for line in SENTENCES[:2]]
    rows += [("temporal", f"arm {n}", SENTENCES[6]) for n in range(7)]
    table = warned_of(*rows)
    assert len(table) == 92
    table.to_csv(tmp_path / "table_warnings.csv", index=False)
    lines = warned(tmp_path).splitlines()
    assert lines[:2] == [f"WARNING: headline: joint: {line} (seed 0)" for line in SENTENCES[:2]]
    assert lines[2].startswith("WARNING: arm 0: AU: 0.258 is not above"), "then the worst kinds"
    assert lines[3].startswith("WARNING: arm 8: EXPR: 0.258 is not above")
    assert lines[-2].startswith("WARNING: and ")
    assert lines[-2].endswith(" warnings")
    assert len(lines) == 10
    assert lines[-1] == f"92 warnings in all: {tmp_path / 'table_warnings.md'}"
    assert len(pd.read_csv(tmp_path / "table_warnings.csv")) == 92


@pytest.mark.parametrize(
    "rows, sentence",
    [
        (
            [("fusion", f"arm {n}", UNIT) for n in range(13)],
            "AU: never predicted or found: in 13 arms (arm 0, arm 1, arm 2, arm 3 and 9 more)",
        ),
        (
            [("data", "", SENTENCES[5]), ("data", "", "train: no frame of it has a label of AU1")],
            "no frame has a label: in 2 places (data: dev, data: train)",
        ),
        ([("tasks", "a", SENTENCES[4])], "a: arousal: every frame gets the same answer (seed 0)"),
    ],
    ids=["arms", "data", "one"],
)
def test_a_group_says_how_many_and_which(rows, sentence):
    first, last = warnings_text(warned_of(*rows), "t.md").splitlines()
    assert first == f"WARNING: {sentence}"
    assert last == f"{len(rows)} warning{'s' * (len(rows) > 1)} in all: t.md"
