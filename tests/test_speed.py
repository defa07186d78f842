"""Fast ways give what slow and plain ones give: each is held against the code that it took the
place of, to a stated tolerance. And the bench itself.
"""

import json
import math
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from affnb.engine.bench import doubling, large_folder, rates, watched
from affnb.engine.batches import (
    Augmentation,
    Batches,
    augment_frames,
    make_windows,
    merge_windows,
    prepare_frames,
    targets_of,
)
from affnb.benchmark import Knobs
from affnb.engine.rendering import BenchmarkSize, write_benchmark
from affnb.engine.core import AffnbError, Config, generator, seed_everything
from affnb.engine.data import open_packed, pack
from affnb.metrics import SUM_COLUMNS, f1_binary, score, video_statistics
from affnb.model import hide_patches, make_autoencoder, make_encoder, make_model
from affnb.engine.report import bench_table, read_benches, write_bench
from affnb.train import make_optimizer, task_losses, total_loss
from errors import assert_error
from toy import SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    made = tmp_path_factory.mktemp("speed")
    write_benchmark(
        made / "faces",
        BenchmarkSize(
            clips=12,
            clip_frames=4,
            long_videos=3,
            long_frames=40,
            validation_videos=3,
            validation_frames=20,
            test_videos=1,
            size=32,
            seed=0,
        ),
        knobs=Knobs(draws=1),
    )
    pack(made / "faces", made / "packed", 32)
    return open_packed(made / "packed")


# ---------------------------------------------------------------- input
def test_a_batch_is_what_indexing_row_by_row_gives(packed):
    index, valid = make_windows(packed.table, 5, 3)
    batch = Batches(packed.frames, packed.table, index, valid, batch_size=7).make(torch.arange(7))
    targets, masks = targets_of(packed.table)
    for w in range(7):
        for t in range(5):
            row = index[w, t]
            plain = (
                torch.from_numpy(packed.frames[row].copy()).permute(2, 0, 1).float() / 255 - 0.5
            ) / 0.25
            assert torch.allclose(batch.frames[w, t], plain, atol=1e-6)
            for task in targets:
                assert np.array_equal(batch.targets[task][w, t].numpy(), targets[task][row])
                assert np.array_equal(
                    batch.masks[task][w, t].numpy(), masks[task][row] & valid[w, t]
                )


def plain_augmentation(x, u, strength):
    "As it was first written: torch's own grid, matrices made on the spot, a draw a frame."

    def low(i, a, b):
        return 1 + strength * (a - 1) + strength * (b - a) * u[:, i]

    mirror = torch.where(u[:, 0] < 0.5, -1.0, 1.0)
    side = low(1, 0.8, 1.0).sqrt()
    angle = torch.deg2rad(strength * 10 * (2 * u[:, 2] - 1))
    c = side / low(3, 0.9, 1.1)
    shift = (2 * u[:, 4:6] - 1) * (1 - side)[:, None] + 2 * strength * 0.1 * (2 * u[:, 6:8] - 1)
    theta = torch.stack(
        [
            mirror * c * angle.cos(),
            -mirror * c * angle.sin(),
            shift[:, 0],
            c * angle.sin(),
            c * angle.cos(),
            shift[:, 1],
        ],
        1,
    ).view(-1, 2, 3)
    x = F.grid_sample(
        x,
        F.affine_grid(theta, x.shape, align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    out = []
    weights = torch.tensor([0.299, 0.587, 0.114])
    for picture, (b, k, s, h) in zip(
        x, strength * torch.tensor([0.2, 0.2, 0.2, 0.1]) * (2 * u[:, 8:] - 1)
    ):
        mean = (picture.mean((1, 2)) * weights).sum()
        picture = (1 + k) * (1 + b) * picture
        grey = (picture * weights.view(3, 1, 1)).sum(0)
        picture = (1 + s) * picture - s * grey
        cos = math.cos(2 * math.pi * h)
        sin = math.sin(2 * math.pi * h)
        one = torch.eye(3)
        turn = (
            cos * one
            + (1 - cos) / 3
            + sin / 3**0.5 * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
        )
        out.append(torch.einsum("ij,jhw->ihw", turn, picture) - k * (1 + b) * mean)
    return torch.stack(out).clamp(0, 1)


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_augmentation_is_the_plain_one(packed, strength):
    x = torch.from_numpy(packed.frames[:20].copy()).permute(0, 3, 1, 2).float() / 255
    u = torch.rand(20, 12, generator=generator("speed"))
    assert torch.allclose(
        augment_frames(x[:, None], generator("speed"), Augmentation(strength=strength))[:, 0],
        plain_augmentation(x, u, strength),
        atol=2e-5,
    )
    assert torch.allclose(
        prepare_frames(
            torch.from_numpy(packed.frames[:20].copy())[:, None],
            generator("speed"),
            strength=strength,
        )[:, 0]
        * 0.25
        + 0.5,
        plain_augmentation(x, u, strength),
        atol=2e-5,
    )


def test_merging_windows_is_the_mean_over_a_loop(packed):
    index, valid = make_windows(packed.table, 6, 2)
    values = np.random.default_rng(0).random((*index.shape, 3))
    by_row = {}
    for w, t in np.argwhere(valid):
        by_row.setdefault(index[w, t], []).append(values[w, t])
    merged = merge_windows(values, index, valid, len(packed.table))
    means = [np.mean(by_row[row], 0) for row in range(len(packed.table))]
    assert np.allclose(merged, means, atol=1e-12)


# ---------------------------------------------------------------- training
def test_places_of_hidden_patches_are_those_that_a_mask_selects():
    "The autoencoder's loss, prediction and gradient, against the same with boolean indexing."
    torch.manual_seed(0)
    mae = make_autoencoder(SMALL, make_encoder(SMALL))
    x = torch.randn(6, 3, 32, 32)
    loss, prediction, mask = mae(x, generator("speed"))
    loss.backward()
    ours = {name: p.grad.clone() for name, p in mae.named_parameters()}
    mae.zero_grad()
    tokens = mae.encoder._pos_embed(mae.encoder.patch_embed(hide_patches(x, mask, 8)))
    seen = tokens[:, 1:][~mask].unflatten(0, (6, -1))
    seen = mae.enter(
        mae.encoder.fc_norm(
            mae.encoder.norm(
                mae.encoder.blocks(mae.encoder.norm_pre(torch.cat([tokens[:, :1], seen], 1)))
            )
        )
    )
    patches = mae.mask_token.expand(*mask.shape, -1).masked_scatter(~mask[..., None], seen[:, 1:])
    plain = mae.leave(mae.blocks(torch.cat([seen[:, :1], patches + mae.positions], 1))[:, 1:])
    plain_loss = F.mse_loss(plain[mask], mae.target(x)[0][mask])
    plain_loss.backward()
    assert torch.allclose(prediction, plain, atol=1e-5)
    assert torch.allclose(loss, plain_loss, atol=1e-6)
    assert all(torch.allclose(ours[name], p.grad, atol=1e-5) for name, p in mae.named_parameters())


def losses_of(run, steps, make=make_optimizer, live=lambda model: model):
    """The losses of the first steps of a joint model on the frames of a pack, nothing left to
    chance.
    """
    index, valid = make_windows(run.table, 1, 1)
    batches = Batches(run.frames, run.table, index, valid, batch_size=16, seed=0)
    seed_everything("speed")
    model = make_model(SMALL, encoder=make_encoder(SMALL)).train()
    trained = live(model)
    optimizer = make(model, 5e-4, 0.05)
    losses = []
    weights = {"AU": torch.ones(12), "EXPR": torch.ones(8)}
    for epoch in range(99):
        for batch in batches.epoch(epoch):
            loss = total_loss(task_losses(trained(batch), batch, weights), Config(weight_EXPR=1.0))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                return np.array(losses)


def plain_optimizer(model, lr, decay):
    groups = [
        {k: v for k, v in group.items() if k in ("params", "weight_decay")}
        for group in make_optimizer(model, lr, decay).param_groups
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), foreach=False, fused=False)


def test_fused_steps_are_adamws(packed):
    fused = losses_of(packed, 30)
    plain = losses_of(packed, 30, plain_optimizer)
    assert np.abs(fused - plain).max() < 1e-4
    assert plain[:5].mean() > 1.05 * plain[-5:].mean()


@pytest.mark.nightly
def test_compiled_steps_are_those_of_the_plain_model(packed):
    assert np.abs(losses_of(packed, 4) - losses_of(packed, 4, live=torch.compile)).max() < 1e-4


@pytest.mark.parametrize("on", [False, True])
def test_the_setting_compile_is_heard(tmp_path, monkeypatch, on):
    from affnb import train
    from affnb.engine.checkpoints import Stage

    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    monkeypatch.setattr(
        train, "train_epoch", lambda *words, **more: dict(loss=1.0, losses={}, frames=1, lr=1.0)
    )
    train.fit(
        nn.Linear(3, 2),
        [1, 2],
        None,
        lambda m: (1.0, {}),
        Stage("toy", 0, tmp_path, Config(compile=on), 1, 1e-3),
    )
    assert len(compiled) == on


# ---------------------------------------------------------------- evaluation
def test_scores_are_those_of_loops_over_classes_and_videos():
    rng = np.random.default_rng(1)
    targets = dict(
        AU=(rng.random((400, 12)) < 0.3).astype(np.float32),
        EXPR=rng.integers(0, 8, 400),
        VA=rng.uniform(-1, 1, (400, 2)),
    )
    masks = {task: rng.random(v.shape) < 0.7 for task, v in targets.items()}
    answers = dict(
        AU=rng.random((400, 12)), EXPR=rng.random((400, 8)), VA=rng.uniform(-1, 1, (400, 2))
    )
    scores = score(answers, targets, masks)
    m = masks["EXPR"]
    assert np.allclose(
        scores["EXPR_per_class"],
        [f1_binary(answers["EXPR"].argmax(1)[m] == c, targets["EXPR"][m] == c) for c in range(8)],
    )
    assert np.allclose(
        scores["AU_per_unit"],
        [
            f1_binary(
                answers["AU"][masks["AU"][:, u], u] >= 0.5, targets["AU"][masks["AU"][:, u], u]
            )
            for u in range(12)
        ],
    )
    videos = rng.choice(["b", "a", "c"], 400)
    sums = video_statistics(answers, targets, masks, videos)
    for v, name in enumerate(sums.names):
        at = videos == name
        assert (
            sums.values[v, SUM_COLUMNS.index("AU6:fn")]
            == (
                (answers["AU"][at, 3] < 0.5) & (targets["AU"][at, 3] > 0) & masks["AU"][at, 3]
            ).sum()
        )
        assert (
            sums.values[v, SUM_COLUMNS.index("Fear:fp")]
            == ((answers["EXPR"][at].argmax(1) == 3) & (targets["EXPR"][at] != 3) & m[at]).sum()
        )
        assert sums.values[v, SUM_COLUMNS.index("arousal:n")] == masks["VA"][at, 1].sum()


# ---------------------------------------------------------------- the bench
def test_a_ratio_does_not_follow_a_machine_that_slows_down(monkeypatch):
    """The second half of the rounds runs at a sixth of the speed: rates change, the ratio does not.
    The clock is the test's own.
    """
    import time

    clock = [0.0]
    calls = []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def work(milliseconds):
        calls.append(milliseconds)
        clock[0] += milliseconds / 1000 * (6 if len(calls) > 120 else 1)

    measured = rates({"a": (lambda: work(2), 1), "b": (lambda: work(1), 1)}, seconds=0.02, rounds=8)
    ratio = np.median(np.array(measured["b"]) / np.array(measured["a"]))
    assert max(measured["a"]) > 5 * min(measured["a"])
    assert abs(ratio - 2) < 0.01


def test_memory_is_that_of_all_processes():
    code = (
        "import multiprocessing, time\ndef hold(n):\n    ballast = bytearray(n); ballast[::4096] ="
        " b'x'*len(ballast[::4096]); time.sleep(1.2)\nif __name__ == '__main__':\n    c ="
        " multiprocessing.get_context('fork'); p = [c.Process(target=hold, args=(100_000_000,)) for"
        " _ in range(2)]\n    [q.start() for q in p]; [q.join() for q in p]"
    )
    assert 200 < watched(code)[1] < 320
    with pytest.raises(AffnbError, match="ZeroDivisionError"):
        watched("1/0")


def test_a_large_folder_is_a_folder_in_order(tmp_path):
    from affnb.engine.data import check_folder

    n = large_folder(tmp_path / "large", 400, 16, videos=20)
    table, counts = check_folder(tmp_path / "large")
    assert n == len(table) == 400
    assert table.video.nunique() == 20
    assert counts["train"]["frames"] == 340
    assert counts["train"]["absent"] == 0
    # many names, few files
    assert (
        len(
            {
                (tmp_path / "large" / "cropped_aligned" / image).stat().st_ino
                for image in table.image
            }
        )
        < 400
    )


def test_a_bound_that_is_missed_is_said(tmp_path):
    part = dict(unit="s", against="", ratio=None)
    record = dict(
        device="d",
        cores=2,
        date="2026-01-01",
        name="d",
        profile="tiny",
        processor="p",
        commit=None,
        dirty=None,
        versions={},
        scaling=[dict(part="x", frames=[1, 2], seconds=[1.0, 2.0])],
        parts=[
            part | dict(part="fast", value=0.5, at_most=1),
            part | dict(part="slow", value=1.5, at_most=1),
            part | dict(part="ratio", value=99.0, against="x", ratio=0.8, at_least=0.9),
            *doubling([dict(part="x", frames=[1, 2], seconds=[1.0, 2.3], twice=2.3)]),
        ],
    )
    assert bench_table([record])["holds"].tolist() == ["yes", "no", "no", "no"]
    (tmp_path / "d.json").write_text(json.dumps(record))
    assert len(write_bench(tmp_path, tmp_path / "figures")) == 6
    assert "no" in (tmp_path / "figures" / "table_bench.csv").read_text()
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(AffnbError) as error:
        read_benches(tmp_path)
    assert_error(error, tmp_path / "e.json")


def test_what_is_published_was_measured_and_holds():
    "The committed records of the bench: every bound that a CPU can show is there and kept."
    from affnb.engine.core import project_root

    benches = read_benches(project_root() / "data" / "records" / "bench")
    assert benches
    assert all(b["profile"] == "smoke" and b["rows"] == 160_000 for b in benches)
    table = bench_table(benches)
    assert (table["holds"] != "no").all(), table[table["holds"] == "no"].to_string()
    for _, own in table.groupby("device"):
        bounded = own[own["bound"] != ""]
        assert set(bounded["part"]) >= {
            "packed frames",
            "packed windows",
            "training loop",
            "memory of checking and packing",
            *(f"twice the frames: {what}" for what in ("packing", "epoch", "evaluation")),
        }
        assert any(p.startswith("opening") for p in bounded["part"])
        assert any(p.startswith("metrics of") for p in bounded["part"])


@pytest.mark.nightly
def test_the_command_measures_and_keeps(tmp_path, capsys):
    """A quick look, from the command line: table printed, record kept where it is told to, nothing
    published.
    """
    from affnb.engine.cli import main

    assert main(["bench", "--quick", "--profile", "tiny", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(
        word in printed
        for word in (
            "frame-by-frame loader",
            "training loop",
            "twice the frames",
            "memory of checking and packing",
            "bounds hold",
            "quick look",
        )
    )
    [record] = read_benches(tmp_path / "data" / "runs" / "bench")
    assert record["rows"] == 3000
    assert record["parts"]
    assert (
        tmp_path / "data" / "runs" / "bench" / "figures" / "fig_scaling.png"
    ).stat().st_size > 1000
    assert not (tmp_path / "data" / "records").exists()
    assert not list((tmp_path / "data").glob(".bench-*"))
    assert main(["bench", "--profile", "smoek"]) == 2
    assert "did you mean `smoke`" in capsys.readouterr().err
