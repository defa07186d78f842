"""Builds the site, or the slides, from what is committed: no notebook is run. One thing is fetched,
once, by npm: onnxruntime-web, which runs the models in the living pages (docs/package-lock.json
has its hash). Without npm the site is built all the same, with pictures in place of explorers.

    python docs/build.py site OUT [PAGE ...]    OUT/index.html, with the slides in OUT/slides
    python docs/build.py slides OUT             OUT/1-labels.html and the decks of other sessions

Where pages are named, such as nbs/lab or docs/living, all are read and only these are written.

Pages are laid out in OUT's neighbour `OUT-source`, as the project is (nbs/, figures/, docs/), so
that links between notebooks, tables and pages hold as they are; what has to be written (the API
from the docments, results, gallery, commands) is written there.
"""

import base64
import contextlib
import gzip
import html
import importlib
import inspect
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
import nbformat
from nbdev.showdoc import BasicMarkdownRenderer, show_doc
from sphinx.cmd.build import build_main
from affnb.engine.cli import make_parser
from affnb.engine.core import notebooks_below
from affnb.engine.course import AFTER_GUESS, SESSIONS, first_sentence, write_decks
from affnb.engine.living import write_living
from affnb.engine.paper import PUBLISHED
from notebook_page import add_questions, read_chain, repository, title_of, top_of_page
from notebook_page import what_is_asked, with_top

ROOT = Path(__file__).resolve().parent.parent
# the largest first
PROFILES = [name for name in PUBLISHED if (ROOT / "figures" / name).is_dir()]


# ---------------------------------------------------------------- notebooks
def plain(text):
    return re.sub(r"[$*`#>\\]|\[([^]]*)\]\([^)]*\)", r"\1", " ".join(text.split()))


PICTURE = r'<picture><source .*?srcset="(.+?)"><img alt="(.+?)" src="(.+?)"></picture>'


def light_and_dark(picture) -> str:
    "A picture of two files for Sphinx, which follows the reader's choice of light or dark."
    dark, text, light = picture.groups()
    return "\n\n".join(
        f"```{{image}} {file}\n:alt: {text}\n:class: only-{scheme}\n```"
        for scheme, file in (("light", light), ("dark", dark))
    )


def prompts(cell, show, hide):
    "What the reader clicks on to open and to close what is folded of a cell."
    cell.metadata["mystnb"] = dict(code_prompt_show=show, code_prompt_hide=hide)


def fold(cell):
    """Closes what answers a question: a solution, its check, the output of what is to be guessed,
    and the code that repeats it.
    """
    tags = cell.metadata["tags"]
    if "solution" in tags:
        tags.append("hide-cell")
        asked = what_is_asked(cell.source)
        which = f" of exercise {asked[0]}" if asked else ""
        prompts(cell, f"Show the solution{which}", f"Hide the solution{which}")
    elif "check" in tags:
        tags.append("hide-cell")
        prompts(cell, "Show the check", "Hide the check")
    elif "guess" in tags:
        tags.append("hide-output")
        prompts(cell, "Guess first, then look", "Hide what came out")
    elif "after-guess" in tags:
        tags.append("hide-cell")
        prompts(cell, "What came out, as assertions", "Hide the assertions")


CLOSED_TEXTS = {"solution": "Solution, in words", "after-guess": AFTER_GUESS}


def stage_notebook(name, source, top):
    """A page of a notebook: `top` under its title, questions under its exercises, what answers them
    folded, every picture with a text that stands for it; of the README what it says, not how.
    """
    notebook = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", 4)
    heading = ""
    said = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(PICTURE, light_and_dark, cell.source)
    if name in ("index", "results"):
        # "affnb" is the first page
        notebook.cells[0].source = notebook.cells[0].source.replace("# affnb", "# The README", 1)
        notebook.cells = [
            (
                nbformat.v4.new_markdown_cell(
                    "\n\n".join(
                        o["data"].get("text/markdown", "") for o in cell.outputs if "data" in o
                    )
                )
                if cell.cell_type == "code"
                else cell
            )
            for cell in notebook.cells
        ]
    for cell in notebook.cells:
        tags = cell.metadata.setdefault("tags", [])
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ +(.+)$", cell.source, re.M)
            prose = [
                block
                for block in re.split(r"\n{2,}", cell.source)
                if not block.startswith(("#", ">", "|", "-", "$$"))
            ]
            heading = found[-1] if found else heading
            said = first_sentence(plain(prose[-1]))[:200] if prose else said
            for tag in CLOSED_TEXTS.keys() & tags:
                cell.source = f":::{{dropdown}} {CLOSED_TEXTS[tag]}\n{cell.source}\n:::"
            continue
        cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)  # what nbdev reads
        if not cell.source:
            tags.append("remove-cell")
        fold(cell)
        if any(mime.startswith("image/") for o in cell.outputs for mime in o.get("data", {})):
            cell.metadata.setdefault("mystnb", {})["image"] = {
                "alt": f"Figure of the section {heading}. {said}".replace("\n", " ")
            }
    if top:
        notebook.cells[0].source = with_top(notebook.cells[0].source, top)
    notebook.cells = add_questions(name, notebook.cells)
    target = source / "nbs" / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


def stage_notebooks(source):
    notebooks = notebooks_below(ROOT / "nbs")
    chain = read_chain()
    home = repository()
    titles = {name: title_of(name) for name in notebooks}
    for name in notebooks:
        top = "" if name == "index" else top_of_page(name, chain, titles, home)
        stage_notebook(name, source, top)


def copy_notebooks(out):
    "What the pages offer for download: the notebooks as they are committed, with their outputs."
    for name, path in notebooks_below(ROOT / "nbs").items():
        if name != "index":
            shutil.copy(path, Path(out) / "nbs" / f"{name}.ipynb")


# ---------------------------------------------------------------- tables and figures
def tables_in(text):
    "Markdown with each pipe table as an HTML table whose columns can be sorted."

    def convert(match):
        # a number and its interval stay together
        def whole(cell):
            return re.sub(
                r"\S+ \[[^]]*\]", lambda found: found[0].replace(" ", "\u00a0"), cell.strip()
            )

        rows = [
            [whole(cell) for cell in line.strip().strip("|").split("|")]
            for line in match[0].strip().splitlines()
        ]
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in rows[0])
        body = "\n".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows[2:]
        )
        return (
            '<div class="wide" tabindex="0" role="region" aria-label="table"><table'
            f' class="sortable"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
            "</div>\n"
        )

    # links to records, which the site does not hold
    text = re.sub(r"^Records: .*\n?", "", text, flags=re.M)
    return re.sub(r"(^\|.*\|\n?)+", convert, text, flags=re.M)


def where_from(beside, profile):
    "One line: what made a table or figure."
    notebook = beside.get("notebook", "")
    command = "affnb bench" if profile == "bench" else f"affnb reproduce --profile {profile}"
    records = beside.get("records", [])
    named = (
        f"`data/records/{profile}/{records[0]}`"
        + (f" and {len(records) - 1} more" if len(records) > 1 else "")
        if records
        else "no record"
    )
    return f"[{Path(notebook).stem}](../{notebook}), from {named}: `{command}`"


def stage_figures(source):
    for folder in sorted(path for path in (ROOT / "figures").iterdir() if path.is_dir()):
        shutil.copytree(folder, source / "figures" / folder.name)
        for page in (source / "figures" / folder.name).glob("*.md"):
            beside = json.loads(page.with_suffix(".json").read_text())
            page.write_text(
                f"---\norphan: true\n---\n# {page.stem}"
                f" ({folder.name})\n\n{tables_in(page.read_text())}\n\nMade by"
                f" {where_from(beside, folder.name).replace('](../', '](../../')}\n"
            )


def write_gallery(source):
    lines = [
        "# Gallery",
        "",
        (
            "Every published figure, with the notebook and the records that made it, and the"
            " command that makes it again. The title of a figure is its finding, computed from the"
            " numbers that it shows."
        ),
        "",
    ]
    for profile in (*PROFILES, "bench"):
        lines += [f"## {profile}", "", "::::{grid} 1 1 2 2", ":gutter: 3", ""]
        for path in sorted((ROOT / "figures" / profile).glob("fig_*.png")):
            beside = json.loads(path.with_suffix(".json").read_text())
            lines += [
                f":::{{grid-item-card}} {path.stem}",
                f"![{beside.get('caption', path.stem)}](../figures/{profile}/{path.name})",
                "",
                where_from(beside, profile),
                ":::",
                "",
            ]
        lines += ["::::", ""]
    (source / "docs" / "gallery.md").write_text("\n".join(lines))


def write_results(source):
    first = ("headline", "bounds", "claims", "published", "best", "cost", "data", "warnings")
    for profile in PROFILES:
        folder = ROOT / "figures" / profile
        names = sorted(
            (path.stem.removeprefix("table_") for path in folder.glob("table_*.md")),
            key=lambda name: (first.index(name) if name in first else len(first), name),
        )
        lines = [
            f"# Results: {profile}",
            "",
            (
                "Click on a column's name to sort by it. Each table names its records; a number in"
                " brackets is an interval, and a dash says that there were no labels."
            ),
            "",
        ]
        for name in names:
            lines += [
                f"## {name.replace('_', ' ')}",
                "",
                tables_in((folder / f"table_{name}.md").read_text()),
                "",
                f"[As a page of its own](../figures/{profile}/table_{name}.md)",
                "",
            ]
        (source / "docs" / f"results_{profile}.md").write_text("\n".join(lines))


# ---------------------------------------------------------------- API and commands
def write_api(source):
    "A page per module, from its docments."
    modules = {}
    for notebook, path in notebooks_below(ROOT / "nbs").items():
        exported = re.search(r"#\| default_exp ([\w.]+)", path.read_text())
        if exported:
            modules[exported[1]] = notebook
    (source / "docs" / "api").mkdir(parents=True)
    for name, notebook in modules.items():
        module = importlib.import_module(f"affnb.{name}")
        lines = [
            f"# affnb.{name}",
            "",
            (module.__doc__ or "").strip(),
            "",
            f"Explained, with examples, in [{notebook}](../../nbs/{notebook}.ipynb).",
            "",
        ]
        for symbol in module.__all__:
            value = getattr(module, symbol)
            if inspect.isfunction(value) or inspect.isclass(value):
                shown = show_doc(value, renderer=BasicMarkdownRenderer)._repr_markdown_()
                shown = shown[shown.index("###") :]
                lines += [re.sub(r"^#+ ", "## ", shown).replace("NoneType=None", "=None"), ""]
        (source / "docs" / "api" / f"{name}.md").write_text("\n".join(lines))
    listed = "\n".join(f"api/{name}" for name in modules)
    (source / "docs" / "api.md").write_text(
        "# API\n\nA page per module, written from the comments beside each argument: types, and for"
        " arrays shape, unit and range.\n\n```{toctree}\n:maxdepth: 1\n\n" + listed + "\n```\n"
    )


def write_commands(source):
    parser, lines = (
        make_parser(),
        ["# Commands", "", "What `affnb --help` and `affnb COMMAND --help` say.", ""],
    )
    actions = next(action for action in parser._actions if getattr(action, "choices", None))
    shown = {choice.dest for choice in actions._choices_actions}
    for name, command in actions.choices.items():
        if name in shown:
            lines += [f"## affnb {name}", "", f"```text\n{command.format_help().rstrip()}\n```", ""]
    (source / "docs" / "commands.md").write_text("\n".join(lines))


# ---------------------------------------------------------------- the living pages
RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def install_runtime(place) -> Path | None:
    "The folder of onnxruntime-web, installed by npm where it is not yet; None where it cannot be."
    place.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / "docs" / name, place)
    folder = place / "node_modules" / "onnxruntime-web" / "dist"
    wanted = json.loads((place / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    installed = folder.parent / "package.json"
    if installed.exists() and json.loads(installed.read_text())["version"] == wanted:
        return folder
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    try:
        subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
        print(
            "docs: onnxruntime-web could not be installed by npm, so that pictures stand in the"
            f" place of the explorers: {' '.join(why)}",
            file=sys.stderr,
        )
        return None
    return folder


def stage_living(source, place):
    """What the explorers run, each file packed in a script of its own: a page that was opened
    without a server may load scripts and nothing else.
    """
    runtime = install_runtime(place)
    if runtime is None:
        return
    folder = source / "_static" / "living"
    write_living(folder)
    for name in RUNTIME:
        shutil.copy(runtime / name, folder)
    for path in sorted(folder.iterdir()):
        text = base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode()
        script = f'(window.affnbFiles ??= {{}})["{path.name}"] = "{text}";\n'
        path.with_name(f"{path.name}.js").write_text(script)
        path.unlink()


# ---------------------------------------------------------------- all of it
def run_sphinx(builder, source, out, pages=()):
    """Builds all pages; a warning of Sphinx ends the process. Or those that are named, of all that
    are read: of these Sphinx warns that they are not all, so that warnings are only printed.
    """
    named = [
        str(path)
        for page in pages
        for path in (source / f"{page}.md", source / f"{page}.ipynb")
        if path.exists()
    ]
    if len(named) < len(pages):
        sys.exit(
            f"{out}: not built: {len(pages) - len(named)} of these pages do not exist: "
            + ", ".join(pages)
        )
    with contextlib.redirect_stdout(io.StringIO()):
        code = build_main(
            [
                "-q",
                *([] if named else ["-W", "--keep-going"]),
                "-b",
                builder,
                "-t",
                "slides" if builder == "revealjs" else "site",
                "-d",
                f"{source}-doctrees",
                str(source),
                str(out),
                *named,
            ]
        )
    if code:
        sys.exit(f"{out}: not built: see the warnings above")


def begin(out):
    "An empty folder for pages beside OUT, with the settings and what is static."
    source = Path(f"{out}-source")
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "_static", source / "_static")
    shutil.copy(ROOT / "docs" / "conf.py", source)
    return source


def build_slides(out):
    source = begin(out)
    write_decks(source)
    (source / "index.md").write_text(
        "# affnb in four sessions\n\n"
        + "\n".join(f"- [{title}]({session}.ipynb)" for session, (title, _) in SESSIONS.items())
        + "\n\n```{toctree}\n:hidden:\n\n"
        + "\n".join(SESSIONS)
        + "\n```\n"
    )
    run_sphinx("revealjs", source, out)


def front_page(text) -> str:
    "The text of docs/index.md, with links as they are from the folder above."
    text = re.sub(r"\]\((?=[\w-]+\.md)", "](docs/", text).replace("](../", "](")
    return re.sub(PICTURE, light_and_dark, text.replace('"../', '"'))


def with_decks(text) -> str:
    """The text of docs/teach.md with a link to its deck below the heading of each session: as HTML,
    for Sphinx builds the decks later, and knows no such page.
    """

    def below(heading):
        deck = next(session for session in SESSIONS if session.startswith(f"{heading[1]}-"))
        return f'{heading[0]}\n\n<p><a href="../slides/{deck}.html">Slides of this session</a></p>'

    return re.sub(r"^## Session (\d+): .+$", below, text, flags=re.M)


def share_mathjax(slides):
    "Lets the decks set formulas with the site's MathJax, and removes their own, 24 MB."
    for page in slides.glob("*.html"):
        text = page.read_text()
        page.write_text(text.replace('"_static/mathjax/', '"../_static/mathjax/'))
    shutil.rmtree(slides / "_static" / "mathjax")


def build_site(out, pages=()):
    source = begin(out)
    shutil.copytree(
        ROOT / "docs",
        source / "docs",
        ignore=shutil.ignore_patterns("*.py", "_static", "index.md", "__pycache__"),
    )
    (source / "index.md").write_text(front_page((ROOT / "docs" / "index.md").read_text()))
    teach = source / "docs" / "teach.md"
    teach.write_text(with_decks(teach.read_text()))
    for name in ("CONTRIBUTING", "CHANGELOG"):
        (source / f"{name}.md").write_text(
            "---\norphan: true\n---\n" + (ROOT / f"{name}.md").read_text()
        )
    shutil.copy(ROOT / "CITATION.cff", source)  # pages link to it
    stage_notebooks(source)
    stage_figures(source)
    write_gallery(source)
    write_results(source)
    write_api(source)
    write_commands(source)
    stage_living(source, ROOT / "_docs" / "npm")
    run_sphinx("html", source, out, pages)
    copy_notebooks(out)
    build_slides(Path(out) / "slides")
    share_mathjax(Path(out) / "slides")
    shutil.rmtree(Path(out) / "slides-source")
    shutil.rmtree(Path(out) / "slides-source-doctrees")


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or [""]
    if not rest or what not in ("site", "slides") or (what == "slides" and len(rest) > 1):
        sys.exit(__doc__)
    out = Path(rest[0]).resolve()
    if what == "site":
        build_site(out, rest[1:])
    else:
        build_slides(out)
    print(f"{out}/index.html")
