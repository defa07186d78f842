"""Would the tests notice? Each entry below breaks the method in one place, in a copy of the
package; the tests that it names, which are among those of `make test`, must then fail.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAIN, DATA, METRICS, COMPARE, POST, MODEL, SEARCH = (
    f"tests/test_{name}.py"
    for name in ("train", "data", "metrics", "compare", "post", "model", "search")
)
# what is broken -> module, the line, the line that takes its place, the tests that see it
MUTANTS = {
    "the mask of action units is ignored": (
        "train",
        'losses["AU"] = masked_mean(each, masks["AU"].float())',
        'losses["AU"] = each.mean()',
        TRAIN,
    ),
    "an epoch has no seed of its own": (
        "checkpoints",
        "        seed_everything(self.stage.seed, self.stage.name, epoch, *process)\n",
        "",
        TRAIN,
    ),
    "a checkpoint lacks its optimiser": (
        "checkpoints",
        "    optimizer.load_state_dict(saved)\n",
        "",
        TRAIN,
    ),
    "the best weights are those of the last epoch": (
        "checkpoints",
        "        if score > self.highest and rank() == 0:\n",
        "        if rank() == 0:\n",
        TRAIN,
    ),
    "concordance forgets the difference of the means": (
        "metrics",
        " + (pred.mean() - true.mean()) ** 2\n    return float(2 * covariance",
        "\n    return float(2 * covariance",
        METRICS,
    ),
    "the weights of the losses do not act": (
        "train",
        'getattr(config, f"weight_{name}") * loss',
        "1.0 * loss",
        TRAIN,
    ),
    "an interval is over frames and not videos": (
        "metrics",
        "        .multinomial(videos, np.full(videos, 1 / videos), size=n)\n",
        "        .multinomial(40 * videos, np.full(videos, 1 / videos), size=n) / 40\n",
        METRICS,
    ),
    "p values are not corrected": (
        "compare",
        'method="holm"',
        'method="fdr_bh"',
        COMPARE,
    ),
    "a window runs over into the next video": (
        "batches",
        "np.minimum(place, last)], place <= last",
        "place.clip(max=len(rows) - 1 - (np.cumsum(n) - n)[video][:, None])], place <= last",
        DATA,
    ),
    "a video is in two parts": (
        "batches",
        '~table.video.isin(rest.index), "dev")',
        '~table.video.isin(rest.index[1:]), "dev")',
        DATA,
    ),
    "thresholds are fitted where they are reported": (
        "evaluate",
        '("crossfit", "A", select_frames(validation, half), ~half)',
        '("crossfit", "A", select_frames(validation, ~half), ~half)',
        POST,
    ),
    "the autoencoder's loss is over all patches": (
        "model",
        "F.mse_loss(prediction.take_along_dim(hidden, 1).float(), target)",
        "F.mse_loss(prediction.float(), self.target(images)[0])",
        MODEL,
    ),
    "validation chooses the best single model": (
        "ablations",
        'entry["dev"]',
        'entry["metrics"]["P"]',
        SEARCH,
    ),
}


@pytest.mark.nightly
@pytest.mark.parametrize("broken", MUTANTS)
def test_a_broken_method_is_noticed(broken, tmp_path):
    module, line, other, tests = MUTANTS[broken]
    shutil.copytree(ROOT / "affnb", tmp_path / "affnb")
    path = next((tmp_path / "affnb").rglob(f"{module}.py"))
    source = path.read_text()
    assert line in source, "the line is gone: choose another"
    path.write_text(source.replace(line, other))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", tests],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout[-2000:]
