"""Refreshes what is committed of the notebooks: their outputs, the package, README.md, the weights
of the example run, what the living pages draw and show, and the answers that the site's questions
compare with. Run by `make notebooks`.

    python tests/refresh.py                        all of it
    python tests/refresh.py --readme               README.md and nbs/results.ipynb alone
    python tests/refresh.py --answers [NAME ...]   the answers alone, of all notebooks or of some

Stage notebooks take the outputs of the smoke profile's run, and their answers from the example run;
the others are executed here.
"""

import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
import nbformat
from affnb.engine.core import notebooks_below, read_json, text_hash, write_json
from affnb.engine.course import tagged
from affnb.engine.example import MODELS
from affnb.engine.living import threshold_curves, write_faces
from affnb.engine.predict import leave_model
from affnb.engine.runs import open_run
from in_step import PAGES, ROOT, execute, execute_and_keep, render_readme

NBS = ROOT / "nbs"
RUN = ROOT / "data" / "runs" / "smoke" / "notebooks"
EXAMPLE = ROOT / "data" / "example"
ANSWERS = EXAMPLE / "answers.json"
WIDGET = "application/vnd.jupyter.widget-view+json"
STAGES = {
    "06_pretrain": "06_pretrain-mae-seed0",
    "07_separate": "07_separate-AU-seed0",
    "09_joint": "09_joint-joint-seed0",
    "10_search": "10_search-P-seed0",
    "engine/ablations": "ablations-temporal-seed0",
    "engine/focus": "focus-seed0",
    "11_evaluate": "11_evaluate-seed0",
    "engine/report": "report",
}


def take_outputs(name, executed):
    "Puts the outputs of an executed notebook into the committed one of the same cells."
    own = nbformat.read(NBS / f"{name}.ipynb", 4)
    done = nbformat.read(executed, 4)
    cells = [
        cell for cell in done.cells if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    if [c.source for c in own.cells] != [c.source for c in cells]:
        sys.exit(
            f"{executed}: its cells are not those of nbs/{name}.ipynb: run `affnb reproduce` first"
        )
    for mine, theirs in zip(own.cells, cells):
        if mine.cell_type == "code":
            mine.outputs = theirs.outputs
    return own


def exercises_hash(notebook) -> str:
    "Of the cells that answer a notebook's exercises and check them."
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    asked = [cell for cell in cells if tagged(cell, "solution") or tagged(cell, "check")]
    return text_hash(*(cell.source for cell in asked))


def rule_seconds(name) -> dict:  # such as 07_separate-AU-seed0 -> seconds
    "How long the jobs of a stage took in the smoke profile's run; nothing where there is none."
    stem = Path(name).name
    paths = sorted(RUN.glob(f"{stem}-*.ipynb")) or sorted(RUN.glob(f"{stem}.ipynb"))
    runs = {path.stem: nbformat.read(path, 4).metadata.get("papermill", {}) for path in paths}
    return {job: round(run["duration"]) for job, run in runs.items() if run.get("duration")}


def cell_seconds(notebook) -> float:
    "How long the cells took; the check, which here was asked many times, is left out."
    took = 0.0
    for cell in notebook.cells:
        times = cell.metadata.get("execution", {})
        ends = [times.get(f"iopub.status.{status}") for status in ("busy", "idle")]
        if all(ends) and not tagged(cell, "check"):
            start, end = map(datetime.fromisoformat, ends)
            took += (end - start).total_seconds()
    return took


def keep(name):
    """Executes a notebook; keeps its answers, how many seconds that took, and of a stage how many
    seconds its jobs took in the chain.
    """
    notebook, answers = execute_and_keep(ROOT, name, timeout=900)
    seconds = round(cell_seconds(notebook))
    kept = read_json(ANSWERS) if ANSWERS.exists() else {}
    known = {other: kept[other] for other in notebooks_below(NBS) if other in kept}
    entry = dict(
        exercises=exercises_hash(notebook),
        seconds=seconds,
        cores=os.cpu_count(),
        answers={number: answers[number] for number in sorted(answers)},
    )
    jobs = rule_seconds(name) or kept.get(name, {}).get("chain")
    if jobs:
        entry["chain"] = jobs
    write_json(ANSWERS, dict(sorted((known | {name: entry}).items())))
    print(f"{name}: {len(answers)} answers, {seconds} s", flush=True)
    return notebook


def refresh_example():
    "What the example run and the living pages need of the smoke profile's run."
    run = ROOT / "data" / "runs" / "smoke"
    for name in MODELS:
        weights = run / "seed0" / name / "model.safetensors"
        shutil.copyfile(weights, EXAMPLE / f"{name}.safetensors")
    shutil.rmtree(EXAMPLE / "progressive", ignore_errors=True)
    leave_model(run, EXAMPLE / "progressive")
    write_json(EXAMPLE / "thresholds.json", threshold_curves(open_run(run), "progressive", 0))
    write_faces(EXAMPLE)


def main():
    if "--answers" in sys.argv:
        named = sys.argv[sys.argv.index("--answers") + 1 :]
        for name in named or [name for name in notebooks_below(NBS) if name not in PAGES]:
            keep(name)
        return
    if "--readme" not in sys.argv:
        refresh_example()
        for name, path in notebooks_below(NBS).items():
            if name in STAGES:
                notebook = take_outputs(name, RUN / f"{STAGES[name]}.ipynb")
                keep(name)
            else:
                notebook = execute(ROOT, name, timeout=600) if name in PAGES else keep(name)
            # progress bars and warnings of libraries are no result,
            for cell in filter(lambda c: c.cell_type == "code", notebook.cells):
                cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
                for output in cell.outputs:  # and a widget needs a kernel behind it
                    if WIDGET in output.get("data", {}):
                        output["data"] = {
                            "text/plain": (
                                "Sliders: open this notebook in JupyterLab (`make lab`) and run it"
                                " to move them."
                            )
                        }
            nbformat.write(notebook, path)
            print(name, path.stat().st_size // 1024, "kB", flush=True)
        for tool in ("nbdev-clean", "nbdev-export"):
            subprocess.run([str(Path(sys.executable).parent / tool)], cwd=ROOT, check=True)
    else:
        for name in PAGES:
            nbformat.write(execute(ROOT, name), NBS / f"{name}.ipynb")
        subprocess.run([str(Path(sys.executable).parent / "nbdev-clean")], cwd=ROOT, check=True)
    (ROOT / "README.md").write_text(render_readme(nbformat.read(NBS / "index.ipynb", 4)))


if __name__ == "__main__":
    main()
