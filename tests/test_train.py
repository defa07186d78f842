"""What the examples of 05_train and the stages cannot show: the defects of the released code,
killing and resuming, real runs.
"""

import dataclasses
import json
import math
import time
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from affnb.engine.batches import Batch
from affnb.engine.core import AffnbError, Config
from affnb.engine.checkpoints import Stage
from affnb.train import ccc_loss, class_weights, fit, learning_rate, make_optimizer, masked_mean
from affnb.train import task_losses, total_loss
from errors import assert_error
from toy import SMALL

PLAIN = {"AU": torch.ones(12), "EXPR": torch.ones(8)}


def batch_of(n, seed=0, share=0.6):
    draw = torch.Generator().manual_seed(seed)
    targets = {
        "AU": torch.randint(0, 2, (n, 1, 12), generator=draw).float(),
        "EXPR": torch.randint(0, 8, (n, 1), generator=draw),
        "VA": torch.rand(n, 1, 2, generator=draw) * 2 - 1,
    }
    masks = {
        task: torch.rand(values.shape, generator=draw) < share for task, values in targets.items()
    }
    return Batch(
        None,
        targets,
        masks,
        torch.ones(n, 1, dtype=torch.bool),
        torch.arange(n)[:, None],
        torch.randn(n, 1, 1, 6, generator=draw),
    )


class Linear(nn.Module):
    def __init__(self, tasks=("AU", "EXPR", "VA")):
        super().__init__()
        sizes = {"AU": 12, "EXPR": 8, "VA": 2}
        self.heads = nn.ModuleDict({task: nn.Linear(6, sizes[task]) for task in tasks})

    def forward(self, batch):
        x = batch.features[:, :, 0]
        return {
            task: head(x).tanh() if task == "VA" else head(x) for task, head in self.heads.items()
        }


class Some:
    "A few fixed batches, the same in every epoch."

    def __init__(self, n=6, size=16):
        self.n = n
        self.size = size

    def __len__(self):
        return self.n

    def epoch(self, e, start=0):
        return (batch_of(self.size, 50 * e + i) for i in range(start, self.n))


def loss_of(config=Config()):
    def loss(model, batch):
        parts = task_losses(model(batch), batch, PLAIN)
        return total_loss(parts, config), parts

    return loss


@pytest.mark.parametrize("task", ["AU", "EXPR", "VA"])
def test_masked_labels_change_no_loss_and_no_gradient(task):
    model = Linear()
    batch = batch_of(20)

    def gradients():
        model.zero_grad()
        loss, parts = loss_of()(model, batch)
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.parameters()]

    loss, before = gradients()
    # the file's codes must not reach a loss
    batch.targets[task][~batch.masks[task]] = 1 if task != "VA" else -5.0
    again, after = gradients()
    assert loss == again
    assert all(torch.equal(a, b) for a, b in zip(before, after))


def test_au_mask_selects_elements_not_rows():
    "Released: a row with one unit labelled trains on -1 for the other eleven."
    logits = torch.zeros(2, 1, 12, requires_grad=True)
    batch = batch_of(2)
    batch.targets["AU"][:] = -1.0
    batch.masks["AU"][:] = False
    batch.targets["AU"][0, 0, 3] = 1.0
    batch.masks["AU"][0, 0, 3] = True
    task_losses({"AU": logits}, batch, PLAIN)["AU"].backward()
    assert (logits.grad != 0).sum() == 1
    assert logits.grad[0, 0, 3] < 0


def test_a_batch_whose_only_labelled_row_is_row_0_has_a_loss():
    "Released: the index of the only labelled row, 0, is taken for 'none'."
    batch = batch_of(4)
    for mask in batch.masks.values():
        mask[:] = False
    batch.masks["EXPR"][0] = True
    batch.masks["AU"][0] = True
    model = Linear()
    parts = task_losses(model(batch), batch, PLAIN)
    assert parts["EXPR"] > 0.1
    assert parts["AU"] > 0.1
    (parts["EXPR"] + parts["AU"]).backward()
    assert model.heads["EXPR"].weight.grad.abs().sum() > 0
    assert model.heads["AU"].weight.grad.abs().sum() > 0


def test_task_weights_act_in_training():
    "Released: weights are applied in evaluation only."
    model = Linear()
    batch = batch_of(20)

    def gradient(config):
        model.zero_grad()
        loss_of(config)(model, batch)[0].backward()
        return model.heads["EXPR"].weight.grad.clone(), model.heads["AU"].weight.grad.clone()

    one = gradient(Config(weight_EXPR=1.0))
    two = gradient(Config(weight_EXPR=0.25))
    assert torch.allclose(one[0] * 0.25, two[0])
    assert torch.allclose(one[1], two[1])
    assert one[0].abs().sum() > 0


def test_valence_and_arousal_are_not_swapped():
    """Released: swapped twice. A model that predicts valence exactly has a valence loss of 0 and
    not an arousal loss of 0.
    """
    batch = batch_of(30, share=2.0)
    outputs = {"VA": torch.stack([batch.targets["VA"][..., 0], torch.zeros(30, 1)], -1)}
    parts = task_losses(outputs, batch, PLAIN)
    assert parts["valence"] < 1e-3
    assert abs(parts["arousal"] - 1) < 1e-3
    weights = (
        total_loss(parts, Config(weight_valence=0.0, weight_arousal=1.0)),
        total_loss(parts, Config(weight_valence=1.0, weight_arousal=0.0)),
    )
    assert weights[0] > 0.9 > 0.1 > weights[1]


@pytest.mark.parametrize("n, spread", [(0, 1.0), (1, 1.0), (2, 0.0), (20, 0.0)])
def test_ccc_loss_of_a_tiny_or_constant_batch_is_finite_with_finite_gradient(n, spread):
    x = torch.full((20,), 0.3, requires_grad=True)
    mask = torch.arange(20) < n
    loss = ccc_loss(x, torch.linspace(-1, 1, 20) * spread + 0.1, mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() < 100
    if n < 2:
        assert loss == 0
        assert (x.grad == 0).all()


def test_learning_rate_schedule_acts():
    "Released: the schedule is a no-op."
    rates = []
    model = Linear(("AU",))
    optimizer = make_optimizer(model, 1e-2, 0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, 40, 0.25)
    )
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates.index(max(rates)) == 9
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] < 1e-4
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)


def run_fit(folder, judge, epochs=4, **config):
    torch.manual_seed(0)
    model = Linear(("AU", "EXPR"))
    return model, fit(
        model,
        Some(),
        loss_of(),
        judge,
        Stage("toy", 0, folder, Config(**config), epochs, 5e-3, "key"),
    )


def test_best_checkpoint_is_that_of_the_epoch_it_scores(tmp_path):
    """Released: evaluate, train, then save, so that the best weights carry the previous epoch's
    score.
    """
    scores = iter([0.1, 0.9, 0.3, 0.2])
    seen = []

    def judge(model):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(scores), {}

    model, history = run_fit(tmp_path, judge)
    with safe_open(tmp_path / "best.safetensors", "pt") as file:
        best = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (no dict)
    assert all(torch.equal(best[k], seen[1][k]) for k in best)
    assert not all(torch.equal(best[k], seen[0][k]) for k in best)
    # and it is what the model is left with
    assert all(torch.equal(v, best[k]) for k, v in model.state_dict().items())
    assert [h["score"] for h in history] == [0.1, 0.9, 0.3, 0.2]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_that_is_killed_goes_on_to_the_same_weights(tmp_path, stop):
    straight, history = run_fit(tmp_path / "a", lambda m: (-float(m.heads["AU"].weight.norm()), {}))
    calls = []

    def dies(m):
        calls.append(1)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return -float(m.heads["AU"].weight.norm()), {}

    with pytest.raises(KeyboardInterrupt):
        run_fit(tmp_path / "b", dies)
    epochs = []
    resumed, again = run_fit(
        tmp_path / "b", lambda m: (epochs.append(1), (-float(m.heads["AU"].weight.norm()), {}))[1]
    )
    assert len(epochs) == 4 - stop  # it went on, it did not start again
    assert all(
        torch.equal(a, b)
        for a, b in zip(straight.state_dict().values(), resumed.state_dict().values())
    )
    assert [h["loss"] for h in history] == [h["loss"] for h in again]


class Dropping(Linear):
    "Draws chance in every step."

    def forward(self, batch):
        x = nn.functional.dropout(batch.features[:, :, 0], 0.3, self.training)
        return {task: head(x) for task, head in self.heads.items()}


@pytest.mark.parametrize("every", [0.0, 0.02])
@pytest.mark.parametrize("stop", [1, 4, 6, 11, 17])
def test_a_run_that_is_killed_within_an_epoch_goes_on_to_the_same_weights(tmp_path, stop, every):
    """Stopped after so many of 18 steps, with a checkpoint after each step, or after those at which
    20 ms had passed.
    """
    steps = []

    def losing(limit=99):
        def loss(model, batch):
            steps.append(1)
            if len(steps) > limit:
                raise KeyboardInterrupt
            time.sleep(0.008)
            return loss_of()(model, batch)

        return loss

    def training(folder, loss):
        torch.manual_seed(0)
        model = Dropping(("AU", "EXPR"))
        return model, fit(
            model,
            Some(),
            loss,
            lambda m: (-float(m.heads["AU"].weight.norm()), {}),
            Stage("toy", 0, folder, Config(checkpoint_seconds=every), 3, 5e-3, "key"),
        )

    straight, history = training(tmp_path / "a", losing())
    steps.clear()
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path / "b", losing(stop))
    steps.clear()
    resumed, again = training(tmp_path / "b", losing())
    # it went on from the last checkpoint
    assert len(steps) == 18 - stop if every == 0 else 18 - stop <= len(steps) <= 18
    assert all(
        torch.equal(a, b)
        for a, b in zip(straight.state_dict().values(), resumed.state_dict().values())
    )
    assert [{k: v for k, v in h.items() if k != "seconds"} for h in history] == [
        {k: v for k, v in h.items() if k != "seconds"} for h in again
    ]


def test_the_best_weights_of_another_experiment_are_not_taken(tmp_path):
    "Where no epoch has a score, those that lie there from before are no answer."
    run_fit(tmp_path, lambda m: (1.0, {}), epochs=1)
    assert (tmp_path / "best.safetensors").exists()
    with pytest.raises(AffnbError) as error:
        run_fit(tmp_path, lambda m: (math.nan, {}), epochs=1, clip_norm=0.5)
    assert_error(error, problem="epoch", remedy="dev_share")


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path):
    run_fit(tmp_path, lambda m: (0.0, {}), epochs=2)
    epochs = []
    run_fit(tmp_path, lambda m: (epochs.append(1), (0.0, {}))[1], epochs=2, clip_norm=0.5)
    assert len(epochs) == 2


def test_a_loss_that_is_not_finite_ends_the_run_with_step_and_rows(tmp_path):
    class Broken(Some):
        def epoch(self, e, start=0):
            for i, batch in enumerate(super().epoch(e, start), start):
                if e == 1 and i == 2:
                    batch.features[3] = math.inf
                yield batch

    torch.manual_seed(0)
    with pytest.raises(AffnbError, match=r"step 8, batch of rows \[0, 1, 2"):
        fit(
            Linear(("AU",)),
            Broken(),
            loss_of(),
            lambda m: (1.0, {}),
            Stage("toy", 0, tmp_path, Config(), 3, 1e-3),
        )
    with safe_open(tmp_path / "last.safetensors", "pt") as file:
        # the last good epoch is kept
        assert len(json.loads(file.metadata()["state"])["history"]) == 1


def test_class_weights_count_rare_classes_more():
    targets = {"EXPR": np.array([0] * 90 + [1] * 10), "AU": np.zeros((100, 12), "float32")}
    targets["AU"][:5, 0] = 1
    masks = {task: np.ones(v.shape, bool) for task, v in targets.items()}
    weights = class_weights(targets, masks, 1.0)
    assert weights["EXPR"][1] / weights["EXPR"][0] == pytest.approx(9)
    assert weights["AU"][0] == pytest.approx(19)
    masks["AU"][5:] = False  # only labelled elements count
    assert class_weights(targets, masks, 1.0)["AU"][0] < 1


def test_masked_mean_of_nothing_is_zero_with_a_gradient():
    x = torch.ones(3, requires_grad=True)
    masked_mean(x, torch.zeros(3)).backward()
    assert (x.grad == 0).all()


@pytest.mark.slow
def test_without_epochs_the_autoencoder_hands_on_the_weights_that_it_was_given(tmp_path):
    from affnb.benchmark import Knobs
    from affnb.engine.bench import _packed_run
    from affnb.engine.rendering import BenchmarkSize, write_benchmark
    from affnb.engine.weights import read_weights, save_weights
    from affnb.model import make_encoder
    from affnb.pretrain import pretrain

    counts = dict(clips=6, clip_frames=3, long_videos=2, long_frames=12, test_videos=0)
    counts |= dict(validation_videos=2, validation_frames=12)
    write_benchmark(
        tmp_path / "faces", BenchmarkSize(size=32, seed=0, **counts), knobs=Knobs(draws=1)
    )
    given = make_encoder(SMALL)
    save_weights(given, tmp_path / "given.safetensors")
    start = dict(pretrained=str(tmp_path / "given.safetensors"), mae_epochs=0)
    run = _packed_run(tmp_path, dataclasses.replace(SMALL, **start))
    _, history = pretrain(run, "mae", 0)
    assert history == []
    left = read_weights(run.folder / "seed0" / "mae" / "model.safetensors")
    for name, value in given.state_dict().items():
        assert torch.equal(left[f"encoder.{name}"], value), name


def test_smoothed_labels_ask_for_less_than_certainty():
    sure = torch.full((1, 1, 8), -9.0)
    sure[..., 3] = 9.0
    batch = batch_of(1)
    batch.targets["EXPR"][:] = 3
    batch.masks["EXPR"][:] = True
    plain, smoothed = (
        task_losses({"EXPR": sure}, batch, PLAIN, smoothing)["EXPR"].item()
        for smoothing in (0.0, 0.1)
    )
    assert plain < 1e-5
    # seven eighths of a tenth of the target lie 18 below the largest logit
    assert abs(smoothed - 0.1 * 7 / 8 * 18) < 1e-3
