"""Are notebooks, package and README in step? Run by `make test`; works on a copy, so that it
changes nothing.

clean:   `nbdev-clean` finds nothing to strip;
export:  `nbdev-export` gives exactly the committed affnb/;
README:  nbs/index.ipynb, executed afresh, renders to exactly the committed README.md;
results: nbs/results.ipynb, executed afresh, has the outputs that are committed.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


PAGES = ("index", "results")  # notebooks of words and published results: no lesson, no exercises


def run_cells(root, name, notebook, timeout):
    "Executes the cells of a notebook where its file lies under `root`."
    from nbclient import NotebookClient

    folder = {"metadata": {"path": str((root / "nbs" / name).parent)}}
    NotebookClient(notebook, resources=folder, timeout=timeout).execute()
    notebook.metadata.pop("widgets", None)  # the state of sliders, which need a kernel


def execute(root, name, timeout=120):  # seconds, of each cell
    "A notebook, executed on what is published under `root`."
    import nbformat

    notebook = nbformat.read(root / "nbs" / f"{name}.ipynb", 4)
    run_cells(root, name, notebook, timeout)
    return notebook


KEEP = "from affnb.engine.course import keep_answers as _keep_answers\n_kept = _keep_answers()"
TELL = "import json as _json\nprint(_json.dumps(_kept))"


def execute_and_keep(root, name, timeout):
    "An executed notebook, and what its checks accept, as `keep_answers` gives it."
    import nbformat

    notebook = nbformat.read(root / "nbs" / f"{name}.ipynb", 4)
    first, last = (nbformat.v4.new_code_cell(source) for source in (KEEP, TELL))
    notebook.cells = [first, *notebook.cells, last]
    run_cells(root, name, notebook, timeout)
    notebook.cells = notebook.cells[1:-1]
    return notebook, json.loads("".join(output.get("text", "") for output in last.outputs))


def written(notebook) -> list[str]:
    "What the cells of a notebook have written, as Markdown."
    return [
        output["data"].get("text/markdown", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "data" in output
    ]


def render_readme(notebook):
    "README.md as nbs/index.ipynb, executed, renders it: code cells hidden."
    from nbconvert import MarkdownExporter

    exporter = MarkdownExporter(exclude_input=True)
    text, resources = exporter.from_notebook_node(notebook)
    assert not resources.get("outputs"), "index.ipynb must show pictures by link, not as outputs"
    lines = [
        line.rstrip() for line in re.sub(r'(\]\(|src="|srcset=")\.\./', r"\1", text).split("\n")
    ]
    squeezed = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]
    return (
        "<!-- rendered from nbs/index.ipynb by `make notebooks`; edit that -->\n"
        + "\n".join(squeezed).strip()
        + "\n"
    )


def listed_files() -> list:  # names below the project
    "The files that git knows or would add."
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [name for name in names.split("\0") if name and (ROOT / name).is_file()]


def copy_tree(target):
    "Those files, as they are in the working tree."
    for name in listed_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


def differences(root, folder, pattern):
    """Names of the files in a folder that differ between the working tree and `root`, or are on one
    side only.
    """
    names = {
        path.relative_to(base)
        for base in (ROOT, root)
        for path in (base / folder).glob(pattern)
        if "checkpoint" not in str(path)
    }

    def same(name):
        return (
            (ROOT / name).exists()
            and (root / name).exists()
            and (ROOT / name).read_bytes() == (root / name).read_bytes()
        )

    return sorted(str(name) for name in names if not same(name))


def main():
    import nbformat

    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "affnb"
        tools = Path(sys.executable).parent
        copy_tree(root)
        checks = [
            ("clean", [tools / "nbdev-clean"], "nbs", "**/*.ipynb", "run nbdev-clean"),
            (
                "export",
                [tools / "nbdev-export"],
                "affnb",
                "**/*.py",
                "run nbdev-export; affnb/ is never edited by hand",
            ),
        ]
        for name, command, where, pattern, remedy in checks:
            subprocess.run(
                [str(word) for word in command], cwd=root, check=True, stdout=subprocess.DEVNULL
            )
            different = differences(root, where, pattern)
            failed += bool(different)
            print(
                f"{name}: {'in step' if not different else ', '.join(different) + ': ' + remedy}",
                flush=True,
            )
        same = render_readme(execute(root, "index")) == (ROOT / "README.md").read_text()
        failed += not same
        print(
            "README:"
            f" {'in step' if same else 'run python tests/refresh.py --readme: '}"
            f"{'' if same else 'README.md is not what nbs/index.ipynb renders'}",
            flush=True,
        )
        committed = nbformat.read(ROOT / "nbs" / "results.ipynb", 4)
        same = written(execute(root, "results")) == written(committed)
        failed += not same
        remedy = "run python tests/refresh.py --readme: nbs/results.ipynb shows other results"
        print(f"results: {'in step' if same else remedy}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
