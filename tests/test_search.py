"""The strategy search and the arms on a toy run: what 08_fusion_and_time, 10_search and
engine/ablations cannot show.
"""

import json
import time
from dataclasses import replace
import numpy as np
import optuna
import pytest
import torch
from safetensors.torch import save_file
from affnb.engine.arms import TOGETHER, Table, arm_config, models_of, head_arms, strategy, tables_of
from affnb.engine.core import TASKS, Config, UsageError
from affnb.heads import only_tasks, train_head
from affnb import search
from affnb.engine import ablations
from toy import toy_run

torch.set_num_threads(1)
FAST = dict(head_epochs=2, search_trials=4)
by_hand = search.by_hand


def with_progressive(run):
    "The headline's arm, as 08 would have left it."
    rows = run.table.loc[run.table["part"] != "train", "row"].to_numpy(copy=True)
    (run.folder / "seed0" / "progressive").mkdir(parents=True, exist_ok=True)
    stored = {
        task: torch.rand(len(rows), size, generator=torch.Generator().manual_seed(0))
        for task, size in (("AU", 12), ("EXPR", 8), ("VA", 2))
    }
    save_file(
        dict(rows=torch.from_numpy(rows), **stored),
        run.folder / "seed0" / "progressive" / "predictions.safetensors",
    )
    return run


def without_seconds(record):
    "A search's record without what depends on the clock."
    return [
        [{k: v for k, v in entry.items() if k != "seconds"} for entry in record[part]]
        for part in ("trials", "arms")
    ]


@pytest.mark.slow
def test_an_interrupted_search_ends_as_one_that_was_not(tmp_path, monkeypatch):
    """Cut off in its third trial, which leaves a trial that never ends in the study's file: the
    same trials, the same choice.
    """
    whole = search.run_search(with_progressive(toy_run(tmp_path / "whole", **FAST)), "AU", 0)
    cut = with_progressive(toy_run(tmp_path / "cut", **FAST))
    trained = []

    def train(*words, **more):
        trained.append(1)
        # the first of all are the settings chosen by hand
        if len(trained) == 4:
            raise KeyboardInterrupt
        return train_head(*words, **more)

    monkeypatch.setattr(search, "train_head", train)
    with pytest.raises(KeyboardInterrupt):
        search.run_search(cut, "AU", 0)
    monkeypatch.setattr(search, "train_head", train_head)
    assert without_seconds(search.run_search(cut, "AU", 0)) == without_seconds(whole)
    assert len(whole["trials"]) == 8
    assert {t["sampler"] for t in whole["trials"]} == {
        "tpe",
        "random",
    }
    assert [e["arm"] for e in whole["arms"]] == ["tpe", "random", "by hand", "progressive"]
    dev = {e["arm"]: e["dev"] for e in whole["arms"]}
    for kind in ("tpe", "random"):
        tried = [t["dev"] for t in whole["trials"] if t["sampler"] == kind]
        assert dev[kind] == max(*tried, dev["by hand"])


@pytest.mark.slow
def test_a_search_that_finds_nothing_better_keeps_what_it_began_with(tmp_path, monkeypatch):
    run = with_progressive(toy_run(tmp_path, **FAST))
    monkeypatch.setattr(search, "by_hand", lambda *words: by_hand(*words) | dict(dev=99.0))
    record = search.run_search(run, "AU", 0)
    tpe, random, hand, _ = record["arms"]
    assert tpe["change"] == random["change"] == {}
    assert tpe["dev"] == 99.0
    assert tpe["statistics"] == random["statistics"] == hand["statistics"]
    assert json.loads((tmp_path / "seed0" / "search" / "AU.json").read_text()) == {"change": {}}


@pytest.mark.parametrize(
    "torn, share",
    [
        (b'{"op_code":', 0.7),
        pytest.param(b"", 0.4, marks=pytest.mark.nightly),
        pytest.param(b"\xff\xfe", 0.9, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.slow
def test_a_torn_log_and_a_stale_lock_are_mended(tmp_path, torn, share):
    """A process that is killed while it appends leaves half a line, and the lock; Optuna would
    refuse the one for ever and wait half a minute for the other.
    """
    run = with_progressive(toy_run(tmp_path, **FAST))
    whole = search.run_search(run, "AU", 0)
    for log in (run.folder / "seed0" / "search").glob("*.log"):
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[: int(share * len(lines))]) + torn)
        (log.parent / f"{log.name}.lock").symlink_to(log)
    start = time.perf_counter()
    # the lock alone would cost 30 s
    assert without_seconds(search.run_search(run, "AU", 0)) == without_seconds(whole)
    assert time.perf_counter() - start < 25
    assert not list((run.folder / "seed0" / "search").glob("*.lock"))


@pytest.mark.slow
def test_no_validation_label_reaches_a_choice(tmp_path):
    run = with_progressive(toy_run(tmp_path / "a", **FAST))
    other = with_progressive(toy_run(tmp_path / "b", **FAST))
    wrong = other.table.assign(
        valence=np.where(
            other.table["part"] == "validation", -other.table["valence"], other.table["valence"]
        )
    )
    for task, values in other.targets.items():
        rows = other.table.loc[other.table["part"] == "validation", "row"]
        values[rows] = -values[rows] if task == "VA" else 0
    first, second = (search.run_search(r, "VA", 0) for r in (run, replace(other, table=wrong)))

    def choices(record):
        return [(t["choice"], t["dev"]) for t in record["trials"]]

    assert choices(first) == choices(second)
    assert [e["change"] for e in first["arms"]] == [e["change"] for e in second["arms"]]
    assert [t["validation"]["VA"] for t in first["trials"]] != [
        t["validation"]["VA"] for t in second["trials"]
    ]


def test_a_target_without_labels_has_an_empty_record(tmp_path):
    run = with_progressive(toy_run(tmp_path, tasks=("EXPR",), **FAST))
    run = only_tasks(run)
    record = search.run_search(run, "AU", 0)
    assert record["arms"] == record["trials"] == []
    assert json.loads((tmp_path / "seed0" / "search" / "AU.json").read_text()) == {"change": {}}


def test_a_label_that_an_arm_does_not_learn_changes_nothing(tmp_path):
    "heads:AU, with the expressions of all frames shuffled: the same weights to the last bit."
    run = toy_run(tmp_path, **FAST)
    weights = []
    for labels in (
        run.targets["EXPR"].copy(),
        np.random.default_rng(0).permutation(run.targets["EXPR"]),
    ):
        run.targets["EXPR"][:] = labels
        shuffled = replace(
            run,
            table=run.table.assign(expression=labels),
            config=arm_config(run.config, "heads:AU"),
        )
        model, _, predictions = train_head(shuffled, 0, tmp_path / str(len(weights)))
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
        assert set(predictions) == {"AU"}
    assert torch.equal(*weights)


@pytest.mark.slow
def test_order_and_company_change_no_arm(tmp_path, monkeypatch):
    run = toy_run(tmp_path, **FAST)
    names = ("layers-only", "sum:AU+VA", "gru@5", "same-EXPR", "gru@6 shuffled")

    def entries(arms):
        monkeypatch.setattr(ablations, "tables_of", lambda config: {"some": Table(tuple(arms), ())})
        record = ablations.run_table(run, "some", 0)
        import shutil

        shutil.rmtree(tmp_path / "seed0" / "tables")
        return {e["arm"]: {k: v for k, v in e.items() if k != "seconds"} for e in record["arms"]}

    forward = entries(names)
    backward = entries(names[::-1])
    alone = entries(names[2:3])
    assert forward == backward
    assert alone["gru@5"] == forward["gru@5"]
    assert forward["gru@6 shuffled"]["statistics"] != entries(["gru@6"])["gru@6"]["statistics"]


def test_arms_that_cannot_be_trained_here_have_entries_without_scores(tmp_path, monkeypatch):
    run = toy_run(tmp_path, **FAST)
    # as 07 leaves where a task has no labels
    save_file({}, tmp_path / "seed0" / "AU" / "features.safetensors")
    monkeypatch.setattr(
        ablations,
        "tables_of",
        lambda config: {"some": Table(("sum:AU", "sum:AU+VA", "heads:EXPR"), ())},
    )
    entries = {e["arm"]: e for e in ablations.run_table(run, "some", 0)["arms"]}
    assert entries["sum:AU"]["metrics"]["P"] is None
    assert entries["sum:AU"]["dev"] is None
    assert entries["sum:AU+VA"]["metrics"]["P"] > 0
    assert entries["heads:EXPR"]["metrics"]["AU"] is None
    assert entries["heads:EXPR"]["metrics"]["EXPR"] is not None


def test_unknown_names_are_refused(tmp_path):
    run = toy_run(tmp_path, **FAST)
    with pytest.raises(UsageError, match="did you mean `fusion`"):
        ablations.run_table(run, "fusoin", 0)
    with pytest.raises(UsageError, match="did you mean"):
        arm_config(run.config, "progresive")


@pytest.mark.parametrize("target", ["AU", "EXPR", "VA", "P"])
def test_every_strategy_of_the_space_is_a_config(target):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(60):
        change = strategy(target, search.draw_strategy(study.ask(), target))
        config = replace(Config(), **change)
        assert target in (*config.tasks, "P")
        assert target != "P" or len(config.tasks) == 3


def test_every_arm_of_every_table_has_settings_that_hold():
    for ablations_ in ("few", "all", "more"):
        config = Config(ablations=ablations_)
        for table in tables_of(config).values():
            for arm in table.arms:
                if arm not in (*TOGETHER, "searched"):
                    arm_config(config, arm)
    changes = {
        name: sorted(arm.change.items(), key=str)
        for name, arm in head_arms(Config(temporal="lstm", window=25)).items()
    }
    assert {"lstm@25", "lstm@25 shuffled", "gru@30"} <= set(changes)


@pytest.mark.parametrize("init_from", ["AU", "mae"])
def test_a_twin_differs_in_its_length_alone(init_from):
    "Whatever else differed would pass for the effect of more training."
    config = replace(Config(), ablations="all", init_from=init_from)
    table = tables_of(config)["convergence"]
    assert len(table.pairs) > 12
    assert {arm for pair in table.pairs for arm in pair} == set(table.arms)
    for twin, arm in table.pairs:
        for longer, plain in zip(models_of(twin), models_of(arm)):
            one = vars(arm_config(config, longer))
            other = vars(arm_config(config, plain))
            changed = {name for name in one if one[name] != other[name]}
            assert changed in ({"epochs"}, {"head_epochs"}), (twin, arm)
            (name,) = changed
            assert one[name] == 2 * other[name]


def test_parts_of_the_encoder_are_exchanged_one_at_a_time():
    config = replace(Config(), ablations="all", pool="places", stem="conv")
    for arm, against in tables_of(config)["encoder"].pairs:
        one = vars(arm_config(config, arm))
        other = vars(arm_config(config, against))
        assert sum(one[name] != other[name] for name in one) == 1, (arm, against)
    # as the paper's: those parts are not there to be exchanged
    plain = replace(config, pool="mean", stem="patch")
    assert tables_of(plain)["encoder"].arms == ("scratch", "scratch-stem")


def test_the_best_single_model_costs_no_more_than_the_whole_system():
    """In trainings of the profile's length: what an encoder starts from counts, and so do the
    models whose features are fused.
    """
    config = replace(Config(), ablations="all")

    def trainings(arm):
        c = arm_config(config, arm)
        return c.epochs / config.epochs + (trainings(c.start) if c.start in TASKS else 0)

    # AU is paid for once
    whole = trainings("joint-from-AU") + trainings("EXPR") + trainings("VA")
    table = tables_of(config)["whole"]
    ((name, candidates),) = table.best
    assert ("progressive", name) in table.pairs
    assert set(candidates) <= set(table.arms)
    assert all(trainings(arm) <= whole for arm in candidates)
    assert max(map(trainings, candidates)) == whole == 4


def test_dev_alone_chooses_the_best_single_model():
    entries = [
        dict(arm="a", dev=1.0, metrics=dict(P=2.0)),
        dict(arm="b", dev=1.5, metrics=dict(P=1.0)),
        dict(arm="c", dev=9.0, metrics=dict(P=9.0)),
    ]
    assert ablations.best_on_dev(entries, ("a", "b"))["arm"] == "b"
    assert (
        ablations.best_on_dev([dict(arm="a", dev=None), dict(arm="b", dev=-2.0)], ("a", "b"))[
            "chosen"
        ]
        == "b"
    )
    # no label anywhere: an entry without scores
    assert ablations.best_on_dev([dict(arm="a", dev=None)], ("a", "b"))["chosen"] == "a"


def test_what_stands_beside_the_claims_runs_for_some_seeds():
    from affnb.engine.cli import plan_arms

    plan = plan_arms(replace(Config(), ablations="all", seeds=(3, 1, 4), costly_seeds=2))
    assert plan["seeds_of"]["convergence"] == [3, 1] == plan["seeds_of"]["encoder"]
    assert plan["seeds_of"]["fusion"] == [3, 1, 4]
    assert plan["seeds_of"]["P"] == [3, 1], "the sum is searched for beside the claims"
    assert plan["seeds_of"]["AU"] == [3, 1, 4], "the sum is searched for beside the claims"
    assert set(plan["seeds_of"]) == {*plan["tables"], *plan["targets"]}
