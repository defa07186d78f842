"""Refreshes what is committed of the notebooks: their outputs, the package, README.md, and the
weights of the example run. Run by `make notebooks`.

Stage notebooks take the outputs of the smoke profile's run; the others are executed here.
"""

import shutil
import subprocess
import sys
from pathlib import Path
import nbformat
from affnb.engine.core import notebooks_below
from affnb.engine.example import MODELS
from in_step import PAGES, ROOT, execute, render_readme

NBS = ROOT / "nbs"
RUN = ROOT / "data" / "runs" / "smoke" / "notebooks"
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


def main():
    if "--readme" not in sys.argv:
        for name in MODELS:
            weights = ROOT / "data" / "runs" / "smoke" / "seed0" / name / "model.safetensors"
            shutil.copyfile(weights, ROOT / "data" / "example" / f"{name}.safetensors")
        for name, path in notebooks_below(NBS).items():
            if name in STAGES:
                notebook = take_outputs(name, RUN / f"{STAGES[name]}.ipynb")
            else:
                notebook = execute(ROOT, name, timeout=600)
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
