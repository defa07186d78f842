"The profile faces on real photographs, where there are some."

import contextlib
import json
import os
import signal
import time
import pandas as pd
import psutil
import pytest
from in_step import ROOT
from project import Project

pytestmark = pytest.mark.slow

REAL = ROOT.parent / "shared" / "real-faces"


@pytest.mark.nightly
@pytest.mark.skipif(
    not REAL.exists(), reason=f"{REAL} is not there: the chain is not run on real photographs"
)
def test_real_faces(tmp_path):
    """The profile faces on photographs that have expressions alone: dashes elsewhere, and models
    above a linear one on pixels.
    """
    project = Project(tmp_path / "affnb")
    used = {}
    limit = time.time() + 1500
    project.environment["AFFNB_TRIAL"] = str(tmp_path)
    process = project.start("reproduce", "--data", str(REAL), "--out", str(tmp_path))
    while process.poll() is None and time.time() < limit:
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if one.environ().get("AFFNB_TRIAL") == str(tmp_path):
                    used[one.pid, one.create_time()] = sum(one.cpu_times()[:2])
        time.sleep(1)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == 0, process.stdout.read()
    print(f"{sum(used.values()):.0f} seconds of a core")
    assert 100 < sum(used.values()) < 2 * 600, "ten minutes of two cores, whoever else is at work"
    table = pd.read_csv(tmp_path / "figures" / "faces" / "table_headline.csv").set_index("arm")
    assert table[["AU", "valence", "arousal", "VA", "P"]].isna().all(axis=None)
    assert table["EXPR"].notna().all()
    assert "–" in (tmp_path / "figures" / "faces" / "table_headline.md").read_text()
    assert table.loc["progressive", "EXPR"] >= 0.25
    baselines = pd.read_csv(tmp_path / "figures" / "faces" / "table_bounds.csv").set_index("arm")
    pixels = baselines.loc["pixels", "EXPR"]
    # nobody drew these
    assert 0.2 < pixels < 0.5
    assert not baselines.index.str.startswith("oracle").any()
    assert min(table.loc[["joint", "progressive"], "EXPR"]) > pixels, table["EXPR"]
    records = json.loads(
        next(tmp_path.glob("data/records/faces/arm-progressive-seed0.json")).read_text()
    )
    assert records["source"] == "real"
    assert records["metrics"]["AU"] is None
    assert records["metrics"]["P"] is None
