"""Numbers that look like results and are none: what is missing is said aloud and written down."""
import numpy as np, pandas as pd, pytest
from dataclasses import replace
from types import SimpleNamespace
from affnb.core import read_json
from affnb.data import targets_of
from affnb.evaluate import describe_data
from affnb.separate import train_task
from affnb.tables import warnings_text
from affnb.watch import KINDS, OTHER, kind_of_warning, rank_of_warning
from toy import toy_run


def without(run, part, **values):
    "The run with labels of a part taken out or set: column = value."
    table = run.table.copy()
    for name, value in values.items(): table.loc[table["part"] == part, name] = value
    counts = {split: dict(listed=len(rows), duplicates=0, conflicting=0, absent=0, undecodable=0) for split, rows in table.groupby("split")} if "split" in table else {}
    return replace(run, table=table, packed=SimpleNamespace(manifest=dict(counts=counts)), **dict(zip(("targets", "masks"), targets_of(table))))


@pytest.mark.parametrize("values, said", [
    (dict(AU26=pd.NA, valence=np.nan), "no frame of it has a label of AU26, valence"),
    (dict(expression=pd.NA), "no frame of it has a label of EXPR"),
    (dict(valence=np.nan, arousal=np.nan), "no frame of it has a label of VA"),
    (dict(AU2=0), "no frame of it shows Neutral, Anger, Disgust, Sadness, Surprise, Other, AU2"),
], ids=["a unit and valence", "expressions", "a task", "a unit that is never active"])
@pytest.mark.parametrize("part", ["dev", "validation"])
def test_a_mask_that_drops_everything_is_said_and_recorded(part, values, said, tmp_path, capsys):
    run = toy_run(tmp_path)
    before = describe_data(without(run, part))["warnings"]
    capsys.readouterr()
    (line,) = set(describe_data(without(run, part, **values))["warnings"]) - set(before)
    assert line == f"{part}: {said}" and f"WARNING: the data: {line}" in capsys.readouterr().err


def test_a_stage_without_a_label_says_that_it_trained_nothing(tmp_path, capsys):
    run = without(toy_run(tmp_path), "train", **{f"AU{unit}": pd.NA for unit in (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)})
    assert train_task(run, "AU", 0)[0] is None
    (line,) = read_json(tmp_path/"records"/"train-AU-seed0.json")["warnings"]
    assert "no training frame has a label" in line and f"WARNING: AU, seed 0, on dev: {line}" in capsys.readouterr().err


SENTENCES = (   # one of each kind, in their order, as they are written where they are found
    "AU: 0.258 is not above 0.355, which a constant answer reaches", "EXPR: 0.310 is not above 0.412, which a linear model on pixels reaches",
    "no training frame has a label that it could learn from: there is no model, and no score",
    "valence: a CCC of -0.012 is not above 0, which a constant answer reaches", "arousal: every frame gets the same answer",
    "dev: no frame of it has a label of AU26, valence", "EXPR: never predicts Fear (108 frames)", "validation: no frame of it shows AU2")

def test_every_kind_of_warning_is_known_and_ranked():
    assert [kind_of_warning(line) for line in SENTENCES] == [name for name, _ in KINDS]
    assert kind_of_warning("AU: never finds AU15 (9 frames)") == "never predicted or found" and kind_of_warning("AU: no frame has a label: there is nothing to score") == "no frame has a label"
    assert [rank_of_warning(kind) for kind, _ in KINDS] == list(range(len(KINDS))) and rank_of_warning(OTHER) == rank_of_warning("unheard of") == len(KINDS)


def warned_of(*rows):
    "A table of warnings: where, arm, sentence."
    return pd.DataFrame([dict(kind=kind_of_warning(line), where=where, arm=arm, warning=line, seeds="0") for where, arm, line in rows])


def test_ninety_two_warnings_are_ten_lines_at_most_and_none_is_lost(tmp_path):
    "The worst first, an arm of the headline before all; the table has every one."
    from affnb.cli import warned
    rows = [("fusion", f"arm {n}", "AU: never finds AU15 (9 frames)") for n in range(70)]
    rows += [("tasks", f"arm {n}", line) for n, line in enumerate((*SENTENCES, *(line.replace("AU:", "EXPR:") for line in SENTENCES[:1]), *(line.replace("valence", "arousal") for line in SENTENCES[3:4]), "unheard of"))]
    rows += [("data", "", line) for line in (SENTENCES[5], SENTENCES[7])] + [("headline", "joint", line) for line in SENTENCES[:2]]
    rows += [("temporal", f"arm {n}", "EXPR: never predicts Fear (1 frames)") for n in range(7)]
    table = warned_of(*rows)
    assert len(table) == 92
    table.to_csv(tmp_path/"table_warnings.csv", index=False)
    lines = warned(tmp_path).splitlines()
    assert len(lines) == 10 and lines[-1] == f"92 warnings in all: {tmp_path/'table_warnings.md'}"
    assert lines[0] == f"WARNING: headline: joint: {SENTENCES[0]} (seed 0)" and lines[1] == f"WARNING: headline: joint: {SENTENCES[1]} (seed 0)"
    assert lines[2].startswith("WARNING: arm 0: AU: ") and lines[3].startswith("WARNING: arm 8: EXPR: 0.258 is not above"), "then the worst kinds"
    assert lines[-2].startswith("WARNING: and ") and lines[-2].endswith(" warnings")
    assert len(pd.read_csv(tmp_path/"table_warnings.csv")) == 92


def test_a_group_says_how_many_arms_and_which():
    text = warnings_text(warned_of(*(("fusion", f"arm {n}", "AU: never finds AU15 (9 frames)") for n in range(12)), ("headline", "joint", "AU: never finds AU2 (3 frames)")), "t.md")
    assert text.splitlines() == ["WARNING: AU: never predicted or found: in 13 arms (arm 0, arm 1, arm 2, arm 3 and 9 more)", "13 warnings in all: t.md"]
    assert warnings_text(warned_of(("data", "", SENTENCES[5]), ("data", "", "train: no frame of it has a label of AU1")), "t.md").splitlines()[0] == "WARNING: no frame has a label: in 2 places (data: dev, data: train)"
    assert warnings_text(warned_of(("tasks", "a", SENTENCES[4])), "t.md").splitlines() == ["WARNING: a: arousal: every frame gets the same answer (seed 0)", "1 warning in all: t.md"]
