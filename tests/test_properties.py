"""What must hold for any input, not only for the examples of the notebooks: hypothesis looks for
the ones where it does not.
"""

import os
from collections import Counter
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from torch import nn
from affnb.engine.batches import (
    Augmentation,
    Batch,
    Batches,
    assign_parts,
    augment_frames,
    make_windows,
    merge_windows,
    targets_of,
)
from affnb.engine.core import (
    AU_NAMES,
    AffnbError,
    Config,
    UsageError,
    generator,
    load_config,
)
from affnb.engine.data import HEADER, SAFE_PATH, read_annotations
from affnb.engine.lists import LABEL_COLUMNS
from affnb.engine.intake import write_lists
from affnb.metrics import ccc, score, score_from_statistics, video_statistics
from affnb.engine.scoring import read_predictions, score_files
from affnb.train import class_weights, learning_rate, make_optimizer, task_losses, total_loss
from affnb.engine.checkpoints import load_checkpoint, save_checkpoint
from affnb.engine.watch import watch

MINUTES = float(os.environ.get("AFFNB_FUZZ_MINUTES", 1))  # `make fuzz MINUTES=10`
settings.register_profile(
    "affnb",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("affnb")

# ---------------------------------------------------------------- reader and writer
word = st.text(
    st.characters(
        codec="utf-8",
        exclude_characters='/\\",\0',
        exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs"),
    ),
    min_size=1,
    max_size=12,
).filter(lambda w: w not in (".", "..") and w == w.strip() and not w.startswith("\ufeff"))
affect = st.one_of(st.just(-5.0), st.floats(-1, 1, width=32))
labels = st.tuples(
    affect, affect, st.integers(-1, 7), st.lists(st.integers(-1, 1), min_size=12, max_size=12)
)
frames = st.lists(st.tuples(word, word, labels), min_size=1, max_size=30, unique_by=lambda f: f[:2])


def write(path, rows, newline="\n", mark=""):
    text = (
        newline.join(
            [
                HEADER,
                *(
                    f"{video}/{frame}.jpg,{v!r},{a!r},{e},{','.join(map(str, units))}"
                    for video, frame, (v, a, e, units) in rows
                ),
            ]
        )
        + newline
    )
    path.write_bytes((mark + text).encode())
    return path


@pytest.mark.slow
@given(frames, st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["", "\ufeff"]))
def test_what_was_written_is_what_is_read(tmp_path_factory, rows, newline, mark):
    rows = [row for row in rows if SAFE_PATH.fullmatch(f"{row[0]}/{row[1]}.jpg")]
    if not rows:
        return
    table = read_annotations(
        write(tmp_path_factory.getbasetemp() / "list.txt", rows, newline, mark)
    )
    assert table["image"].tolist() == [f"{video}/{frame}.jpg" for video, frame, _ in rows]
    assert table["video"].tolist() == [video for video, _, _ in rows]
    for i, name in enumerate(("valence", "arousal")):
        assert [None if pd.isna(x) else x for x in table[name]] == [
            None if row[2][i] == -5 else np.float32(row[2][i]) for row in rows
        ]
    for i, name in enumerate(LABEL_COLUMNS[2:]):
        assert [-1 if pd.isna(x) else x for x in table[name]] == [
            row[2][2] if i == 0 else row[2][3][i - 1] for row in rows
        ]


@pytest.mark.slow
@given(st.lists(labels, min_size=1, max_size=12))
def test_labels_of_ones_own_are_read_as_they_were_given(tmp_path_factory, rows):
    table = pd.DataFrame(
        [(f"v/{i}.jpg", "train", v, a, e, *units) for i, (v, a, e, units) in enumerate(rows)],
        columns=["image", "split", *LABEL_COLUMNS],
    )
    write_lists(
        tmp_path_factory.getbasetemp(), pd.concat([table, table.assign(split="validation")])
    )
    for name in ("training", "validation"):
        annotations = read_annotations(
            tmp_path_factory.getbasetemp() / f"{name}_set_annotations.txt"
        )
        assert annotations["image"].tolist() == table["image"].tolist()
        for column in LABEL_COLUMNS:
            missing, kind = (-5, np.float32) if column in ("valence", "arousal") else (-1, int)
            assert [missing if pd.isna(x) else x for x in annotations[column]] == table[
                column
            ].astype(kind).tolist(), column


# action units as probabilities
answered = st.tuples(
    st.floats(-1, 1),
    st.floats(-1, 1),
    st.integers(0, 7),
    st.lists(st.floats(0, 1), min_size=12, max_size=12),
)


@given(
    st.lists(st.tuples(labels, answered), min_size=1, max_size=20),
    st.randoms(use_true_random=False),
)
@settings(max_examples=50)
@pytest.mark.slow
def test_a_prediction_file_says_what_was_predicted(tmp_path_factory, rows, chance):
    truth, predictions = (
        tmp_path_factory.getbasetemp() / f"{name}.txt" for name in ("truth", "predictions")
    )
    names = [(f"v{i % 3}", str(i)) for i in range(len(rows))]
    write(truth, [(*name, label) for name, (label, _) in zip(names, rows)])
    # in an order of its own
    write(
        predictions,
        chance.sample(
            made := [(*name, answer) for name, (_, answer) in zip(names, rows)], len(made)
        ),
    )
    answers = (
        read_predictions(predictions).set_index("image").loc[[f"{v}/{f}.jpg" for v, f in names]]
    )
    assert answers[list(LABEL_COLUMNS)].to_numpy().tolist() == [
        [v, a, e, *units] for _, (v, a, e, units) in rows
    ]
    targets, masks = targets_of(read_annotations(truth))
    if not any(mask.any() for mask in masks.values()):
        return
    scores = score_files(predictions, truth)
    arrays = dict(
        AU=answers[list(AU_NAMES)].to_numpy(),
        EXPR=np.eye(8)[answers["expression"].astype(int)],
        VA=answers[["valence", "arousal"]].to_numpy(),
    )
    for name, value in score(arrays, targets, masks).items():
        assert (value is None) == (scores[name] is None), name
        assert value is None or np.allclose(value, scores[name], atol=1e-6), name


line = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.one_of(
            st.text(max_size=8),
            st.floats().map(repr),
            st.integers().map(str),
            st.sampled_from(["-5", "-1", "0", "1", "v/1.jpg", "", " "]),
        ),
        min_size=1,
        max_size=18,
    ).map(",".join),
    st.just(HEADER),
)
content = st.one_of(
    st.binary(max_size=400),
    st.lists(line, max_size=12).map(
        lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
    ),
    st.lists(line, max_size=12).map(
        lambda lines: "\n".join([HEADER, *lines]).encode("utf-8", "surrogatepass")
    ),
)


def spoiled(rows, edits):
    "A list that is in order, with a few bytes replaced."
    text = bytearray(
        "\n".join(
            [
                HEADER,
                *(
                    f"{video}/{frame}.jpg,{v!r},{a!r},{e},{','.join(map(str, units))}"
                    for video, frame, (v, a, e, units) in rows
                ),
            ]
        ).encode()
    )
    for place, made in edits:
        text[place % len(text) : place % len(text) + 1] = made
    return bytes(text)


content = st.one_of(
    content,
    st.builds(
        spoiled,
        frames,
        st.lists(
            st.tuples(
                st.integers(0, 3000),
                st.one_of(
                    st.binary(max_size=3),
                    st.sampled_from([b",", b"\n", b"-5", b"nan", b"../", b'"', b"", b"1e9"]),
                ),
            ),
            max_size=4,
        ),
    ),
)


def clean(call, *paths):
    "An error is one line, and one of ours."
    try:
        return call(*paths)
    except AffnbError as error:
        assert "\n" not in str(error), str(error)
        assert len(str(error)) < 700, str(error)
        assert any(str(path) in str(error) for path in paths), str(error)


edits = st.one_of(
    st.just([]),
    st.lists(
        st.tuples(
            st.integers(0, 3000),
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from([b",", b"\n", b"-5", b"nan", b"../", b'"', b"", b"1e9"]),
            ),
        ),
        max_size=3,
    ),
)
alike = st.builds(
    lambda rows, answers, first, second: (
        spoiled([(*row[:2], answers[i % len(answers)]) for i, row in enumerate(rows)], first),
        spoiled(rows, second),
    ),
    frames,
    st.lists(answered, min_size=1, max_size=5),
    edits,
    edits,
)


@pytest.mark.fuzz
def test_no_file_upsets_the_reader_or_the_score(tmp_path):
    """Files of nothing in particular, and pairs that belong together but for some bytes: many of
    them get through to the score.
    """
    a = tmp_path / "predictions.txt"
    b = tmp_path / "truth.txt"
    reached = Counter()

    @given(st.one_of(st.tuples(content, content), alike))
    @settings(max_examples=int(1200 * MINUTES), derandomize=MINUTES == 1)
    def look(files):
        a.write_bytes(files[0])
        b.write_bytes(files[1])
        table = clean(read_annotations, b)
        if table is not None:
            assert (
                (table[["valence", "arousal"]].abs() <= 1) | table[["valence", "arousal"]].isna()
            ).all(axis=None)
            assert all(SAFE_PATH.fullmatch(image) for image in table["image"])
            assert table[list(LABEL_COLUMNS[2:])].isin([*range(8), pd.NA]).all(axis=None)
        predicted = clean(read_predictions, a)
        scores = clean(score_files, a, b)
        if scores is not None:
            assert all(value is None or 0 <= value <= 1 for value in (scores["AU"], scores["EXPR"]))
            assert all(
                scores[f"CCC_{name}"] is None or -1 - 1e-9 <= scores[f"CCC_{name}"] <= 1 + 1e-9
                for name in ("valence", "arousal")
            )
        reached.update(
            files=1,
            read=table is not None,
            predicted=predicted is not None,
            scored=scores is not None,
        )

    look()
    assert min(reached[way] for way in ("read", "predicted", "scored")) > 0.1 * reached["files"], (
        reached
    )
    assert reached["scored"] < reached["files"], reached


# ---------------------------------------------------------------- windows
lengths = st.lists(st.integers(1, 70), min_size=1, max_size=8)


def table_of(lengths, order=None):
    "Videos of so many frames, with gaps between the frames' numbers, in any order."
    rng = np.random.default_rng(len(lengths))
    rows = [
        (f"v{i}", f"{n:05d}")
        for i, length in enumerate(lengths)
        for n in np.cumsum(rng.integers(1, 9, length))
    ]
    table = pd.DataFrame(rows, columns=["video", "frame"]).assign(row=lambda t: np.arange(len(t)))
    return table if order is None else table.sample(frac=1, random_state=order)


@given(lengths, st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_windows_cover_every_frame_as_promised(lengths, T, stride, order):
    if stride > T:
        with pytest.raises(UsageError):
            make_windows(table_of(lengths), T, stride)
        return
    table = table_of(lengths, order)
    index, valid = make_windows(table, T, stride)
    # as many as engine/batches says
    assert len(index) == sum(1 + max(0, -(-(n - T) // stride)) for n in lengths)
    # every frame, and nothing else
    assert set(index[valid]) == set(range(sum(lengths))) == set(index.ravel())
    video = table.sort_values("row")["video"].to_numpy()
    assert all(len(set(video[row])) == 1 for row in index)  # of one video each
    for row, ok in zip(index, valid):
        inside = row[ok]
        # in order; padding last, of the last frame
        assert ok[0]
        assert (np.diff(ok.astype(int)) <= 0).all()
        assert (np.diff(inside) == 1).all()
        assert (row[~ok] == inside[-1]).all()
    again, same = make_windows(table_of(lengths), T, stride)
    # whatever the order of rows
    assert sorted(map(tuple, again)) == sorted(map(tuple, index))
    assert valid.sum() == same.sum()


@given(lengths, st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_merging_is_the_inverse_of_windowing(lengths, T, stride, seed):
    stride = min(T, stride)
    index, valid = make_windows(table_of(lengths), T, stride)
    values = np.random.default_rng(seed).normal(size=(sum(lengths), 3)).round(6)
    # what stands in padding must not matter
    cut = np.where(valid[..., None], values[index], 1e9)
    assert np.allclose(merge_windows(cut, index, valid, len(values)), values, atol=1e-9)


@given(
    st.lists(st.integers(1, 130), min_size=3, max_size=40),
    st.floats(0.01, 0.6),
    st.just(0.0) | st.floats(0.01, 0.6),
    st.integers(1, 120),
    st.integers(0, 99),
)
def test_no_video_is_in_two_parts(lengths, dev_share, head_share, long_frames, seed):
    table = table_of(lengths).assign(split="train")
    try:
        parts = assign_parts(table, dev_share, head_share, long_frames, seed)
    except AffnbError:
        return
    assert parts.groupby("video")[["part", "role"]].nunique().max(axis=None) == 1
    assert set(parts["part"]) == {"train", "dev"}
    assert set(parts.loc[parts["part"] == "train", "role"]) == (
        {"encoder", "head"} if head_share else {"both"}
    )
    assert len(parts) == len(table)


# ---------------------------------------------------------------- metrics
answers = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def draw(rng, n, share=None):
    targets = dict(
        AU=(rng.random((n, 12)) < rng.random(12)).astype(np.float32),
        EXPR=rng.integers(0, 8, n),
        VA=rng.uniform(-1, 1, (n, 2)),
    )
    share = rng.random() if share is None else share
    masks = {task: rng.random(values.shape) < share for task, values in targets.items()}
    predictions = dict(
        AU=rng.random((n, 12)), EXPR=rng.random((n, 8)), VA=rng.uniform(-1, 1, (n, 2))
    )
    return predictions, targets, masks


@pytest.mark.slow
@given(answers, st.integers(1, 60))
def test_scores_are_those_of_the_references(rng, n):
    predictions, targets, masks = draw(rng, n)
    scores = score(predictions, targets, masks)
    for unit, value in enumerate(scores["AU_per_unit"] or []):
        m = masks["AU"][:, unit]
        assert value == pytest.approx(
            f1_score(targets["AU"][m, unit], predictions["AU"][m, unit] >= 0.5, zero_division=0)
            if m.any()
            else 0
        )
    m = masks["EXPR"]
    if m.any():
        assert scores["EXPR"] == pytest.approx(
            f1_score(
                targets["EXPR"][m],
                predictions["EXPR"][m].argmax(1),
                labels=range(8),
                average="macro",
                zero_division=0,
            )
        )
    for i, name in enumerate(("valence", "arousal")):
        m = masks["VA"][:, i]
        if not m.any():
            assert scores[f"CCC_{name}"] is None
            continue
        x = predictions["VA"][m, i]
        y = targets["VA"][m, i]
        reference = (
            2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
            if m.sum() > 1
            else 0.0
        )
        assert scores[f"CCC_{name}"] == pytest.approx(reference, abs=1e-9)
        assert -1 <= scores[f"CCC_{name}"] <= 1


@given(answers, st.integers(1, 60), st.integers(1, 6))
def test_sums_by_video_give_the_same_score(rng, n, videos):
    predictions, targets, masks = draw(rng, n)
    sums = video_statistics(
        predictions, targets, masks, rng.integers(0, videos, n).astype(str)
    ).values.sum(0)
    for name, value in score(predictions, targets, masks).items():
        other = score_from_statistics(sums)[name]
        assert (value is None) == (other is None), name
        assert value is None or np.allclose(value, other, atol=1e-9), name


@given(answers, st.integers(1, 40))
def test_a_masked_label_changes_no_score_and_no_warning(rng, n):
    predictions, targets, masks = draw(rng, n)

    def sums(t):
        return video_statistics(predictions, t, masks, np.full(n, "v")).values

    other = {
        task: (
            np.where(masks[task], values, {"EXPR": 7, "AU": 1, "VA": -5}[task]).astype(values.dtype)
        )
        for task, values in targets.items()
    }
    assert score(predictions, targets, masks) == score(predictions, other, masks)
    assert (sums(targets) == sums(other)).all()
    assert watch(sums(targets)[0]) == watch(sums(other)[0])


@given(hnp.arrays(float, st.integers(1, 30), elements=st.floats(-1, 1)), st.floats(-1, 1))
def test_concordance_is_bounded_symmetric_and_zero_for_a_constant(x, c):
    y = np.roll(x, 1)
    assert -1 - 1e-9 <= ccc(x, y) <= 1 + 1e-9
    assert ccc(x, y) == pytest.approx(ccc(y, x), abs=1e-9)
    if np.ptp(x) > 1e-3:
        assert ccc(np.full_like(x, c), x) == pytest.approx(0, abs=1e-9)
        assert ccc(x, x) == pytest.approx(1)


# ---------------------------------------------------------------- losses
def batch_of(rng, n):
    predictions, targets, masks = draw(rng, n)

    def as_batch(values):
        return torch.from_numpy(values)[:, None]

    return Batch(
        None,
        {t: as_batch(v).float() if t != "EXPR" else as_batch(v) for t, v in targets.items()},
        {t: as_batch(m) for t, m in masks.items()},
        torch.ones(n, 1, dtype=torch.bool),
        torch.arange(n)[:, None],
        torch.from_numpy(rng.normal(size=(n, 1, 5))).float(),
    )


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleDict(
            dict(AU=nn.Linear(5, 12), EXPR=nn.Linear(5, 8), VA=nn.Linear(5, 2))
        )

    def forward(self, batch):
        return {
            task: head(batch.features).tanh() if task == "VA" else head(batch.features)
            for task, head in self.heads.items()
        }


@given(answers, st.integers(1, 12), st.floats(0, 1))
def test_a_masked_label_changes_no_loss_and_no_gradient(rng, n, balance):
    batch = batch_of(rng, n)
    model = Heads()

    def plain(kind):
        return {task: values.numpy()[:, 0] for task, values in kind.items()}

    def passes():
        weights = class_weights(plain(batch.targets), plain(batch.masks), balance)
        model.zero_grad()
        losses = task_losses(model(batch), batch, weights)
        total_loss(losses, Config()).backward()
        return [loss.item() for loss in losses.values()], [
            p.grad.clone() for p in model.parameters()
        ]

    losses, gradients = passes()
    for task, values in batch.targets.items():
        values[~batch.masks[task]] = {"EXPR": 7, "AU": 1.0, "VA": -5.0}[task]
    again, same = passes()
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(gradients, same))
    assert np.isfinite(losses).all()
    assert all(g.isfinite().all() for g in gradients)


@given(st.integers(1, 500), st.floats(0, 0.9))
def test_the_learning_rate_rises_then_falls(steps, warmup):
    rates = [learning_rate(step, steps, warmup) for step in range(steps)]
    top = rates.index(max(rates))
    assert min(rates) >= 0
    assert max(rates) <= 1
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


# ---------------------------------------------------------------- augmentation and batches
@given(
    st.integers(0, 2**31),
    st.sampled_from(["window", "frame"]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.floats(0, 1),
)
@settings(max_examples=30)
def test_augmentation_keeps_shape_range_and_labels(seed, per, B, T, strength):
    x = torch.rand(B, T, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    before = x.clone()
    y = augment_frames(x, generator(seed), Augmentation(per, strength=strength))
    assert y.shape == x.shape
    assert torch.equal(x, before)
    assert y.isfinite().all()
    assert y.min() >= 0
    assert y.max() <= 1
    grey = augment_frames(
        torch.full_like(x, 0.5),
        generator(seed),
        Augmentation(per, strength=strength, jitter=(0, 0, 0, 0)),
    )
    # a turn, a crop, a shift bring nothing in from outside
    assert torch.allclose(grey, torch.full_like(x, 0.5), atol=1e-4)


@pytest.mark.slow
@given(
    lengths,
    st.integers(1, 9),
    st.integers(1, 7),
    st.integers(0, 2**31),
    st.sampled_from(["window", "frame"]),
)
@settings(max_examples=40)
def test_an_augmented_frame_keeps_its_own_labels(lengths, T, size, seed, augment):
    """Frames that are white where their labels are 1, and black where they are 0: no jitter makes
    one the other.
    """
    table = table_of(lengths)
    rng = np.random.default_rng(seed)
    white = rng.integers(0, 2, len(table))
    table = table.assign(
        valence=white - 0.5,
        arousal=0.5 - white,
        expression=pd.array(white * 4, "Int8"),
        **{unit: pd.array(white, "Int8") for unit in AU_NAMES},
    )
    pixels = np.broadcast_to(
        (white * 255).astype(np.uint8)[:, None, None, None], (len(table), 8, 8, 3)
    ).copy()
    shown = 0
    for batch in Batches(
        pixels, table, *make_windows(table, T, T), batch_size=size, augment=augment, seed=seed
    ).epoch(0):
        lit = batch.frames.mean((2, 3, 4)) > -0.5  # normalised: a grey of a third
        assert torch.equal(lit[batch.valid], torch.from_numpy(white)[batch.rows][batch.valid] == 1)
        labelled = batch.masks["AU"].all(-1) & batch.masks["EXPR"] & batch.masks["VA"].all(-1)
        assert torch.equal(labelled, batch.valid)
        for white_labels in (
            (batch.targets["AU"] == 1).all(-1),
            batch.targets["EXPR"] == 4,
            batch.targets["VA"][..., 0] == 0.5,
            batch.targets["VA"][..., 1] == -0.5,
        ):
            assert torch.equal(white_labels[batch.valid], lit[batch.valid])
        shown += int(batch.valid.sum())
    assert shown


@pytest.mark.slow
@given(
    lengths,
    st.integers(1, 9),
    st.integers(1, 7),
    st.integers(0, 99),
    st.sampled_from(["none", "window", "frame"]),
)
@settings(max_examples=40)
def test_an_epoch_can_be_taken_up_anywhere(lengths, T, size, seed, augment):
    table = table_of(lengths)
    table = table.assign(
        valence=0.0,
        arousal=0.0,
        expression=pd.array([1] * len(table), "Int8"),
        **{unit: pd.array([0] * len(table), "Int8") for unit in AU_NAMES},
    )
    pixels = np.random.default_rng(seed).integers(0, 256, (len(table), 8, 8, 3), dtype=np.uint8)
    batches = Batches(
        pixels, table, *make_windows(table, T, T), batch_size=size, augment=augment, seed=seed
    )
    whole = list(batches.epoch(3))
    for start in {0, len(whole) // 2, len(whole)}:
        rest = list(batches.epoch(3, start))
        assert len(rest) == len(whole) - start
        assert all(
            torch.equal(a.rows, b.rows) and torch.equal(a.frames, b.frames)
            for a, b in zip(rest, whole[start:])
        )
    assert all((batch.masks["EXPR"] == batch.valid).all() for batch in whole)


# ---------------------------------------------------------------- settings and checkpoints
@given(st.text(max_size=30), st.text(max_size=30))
def test_no_setting_upsets_the_parser(name, value):
    try:
        load_config("tiny", [f"{name}={value}"])
    except UsageError as error:
        assert "\n" not in str(error) or "\n" in name + value


@given(
    st.sampled_from(sorted(Config.__dataclass_fields__)),
    st.one_of(
        st.floats().map(repr),
        st.integers().map(str),
        st.sampled_from(["true", "none", "", "AU", "AU,VA", "1e400", "-0"]),
    ),
)
def test_a_setting_is_of_its_type_and_in_its_range_or_refused(name, text):
    try:
        config = load_config("paper", [f"{name}={text}"])
    except UsageError as error:
        assert name in str(error)
        return
    value = getattr(config, name)
    assert isinstance(value, type(getattr(Config(), name)))
    again = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    assert load_config("paper", [f"{name}={again}"]) == config


@given(st.lists(st.floats(allow_nan=False), max_size=5), st.integers(0, 2**31))
@settings(max_examples=25)
def test_a_checkpoint_gives_back_what_it_was_given(tmp_path_factory, history, seed):
    torch.manual_seed(seed)
    path = tmp_path_factory.getbasetemp() / "last.safetensors"
    model = nn.Linear(4, 3)
    other = nn.Linear(4, 3)
    optimizer, fresh = (make_optimizer(m, 0.1, 0.01) for m in (model, other))
    model(torch.rand(2, 4)).sum().backward()
    optimizer.step()
    save_checkpoint(
        path,
        model,
        optimizer,
        {"sum.loss": torch.tensor(history[0] if history else 0.0)},
        key="k",
        history=history,
        best=-1.0,
    )
    state = load_checkpoint(path, other, fresh, "k")
    assert state["history"] == history
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values())
    )
    saved, loaded = (o.state_dict()["state"] for o in (optimizer, fresh))
    assert all(torch.equal(saved[i][k], loaded[i][k]) for i in saved for k in saved[i])
    assert not [
        name
        for name in load_file(path)
        if name.split(".")[0] not in ("model", "optimizer", "within")
    ]
