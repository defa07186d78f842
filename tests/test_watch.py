"""Numbers that look like results and are none: what is missing is said aloud and written down."""
import numpy as np, pandas as pd, pytest
from dataclasses import replace
from types import SimpleNamespace
from affnb.core import read_json
from affnb.data import targets_of
from affnb.evaluate import describe_data
from affnb.separate import train_task
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
