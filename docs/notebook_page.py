"""What build.py adds to the page of a notebook: at its top how to get it and run it, its place in
the chain and the time that it takes; under its exercises the questions that the page checks.

Nothing here is typed: rules are those that Snakemake plans, seconds and answers those that
`make notebooks` keeps in data/example/answers.json, questions and hints those of the notebook.
"""

import ast
import base64
import html
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote
import nbformat
import yaml
from affnb.engine import arms
from affnb.engine.cli import make_plan, plan_text, write_sources
from affnb.engine.core import AU_NAMES, EXPRESSIONS, TASKS, load_config, read_json
from affnb.engine.course import tagged

ROOT = Path(__file__).resolve().parent.parent
ANSWERS = ROOT / "data" / "example" / "answers.json"
PROFILE = "smoke"  # whose chain is described
BRANCH = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["nbdev"]["branch"]


# ---------------------------------------------------------------- the chain
@dataclass
class Job:
    "One run of a rule: which files it reads and leaves, and the name of the notebook it runs."

    rule: str
    reads: list
    leaves: list
    notebook: str  # such as 07_separate-AU-seed0; empty where the rule runs none


@dataclass
class Chain:
    "The jobs of a profile, in order, and which files each `--only table_NAME` asks for."

    jobs: list[Job]
    tables: dict
    rule_of: dict = field(init=False)  # file -> the rule that leaves it

    def __post_init__(self):
        self.rule_of = {file: job.rule for job in self.jobs for file in job.leaves}

    def jobs_for(self, files) -> list[Job]:
        "The jobs that these files need, directly or not."
        wanted = set(files)
        found = []
        for job in reversed(self.jobs):
            if wanted.intersection(job.leaves):
                wanted.update(job.reads)
                found.append(job)
        return found

    def smallest_table(self, rule: str) -> str | None:
        "The table that needs a rule and the fewest jobs; None where only the whole chain does."
        sizes = {}
        for table, files in self.tables.items():
            jobs = self.jobs_for(files)
            if any(job.rule == rule for job in jobs):
                sizes[table] = len(jobs)
        return min(sizes, key=sizes.__getitem__, default=None)


# the program `snakemake` of `affnb reproduce`, which also writes the files of each job down
PLAN_ONLY = """
from affnb.engine import cli
cli._EVENT_VALUES["job_info"] += ("input", "output", "log")
cli.run_snakemake()
"""


def read_chain() -> Chain:
    "Plans the profile with the project's Snakefile in a folder of its own, and runs nothing."
    with tempfile.TemporaryDirectory() as place:
        plan = make_plan(load_config(PROFILE, ["device=cpu"]), out=place)
        run = Path(plan["run"])
        run.mkdir(parents=True)
        (run / "plan.json").write_text(plan_text(plan))
        write_sources(plan)
        (run / "Snakefile").write_text(
            f"include: {str(ROOT / 'Snakefile')!r}\n"
            "Path('tables.json').write_text(json.dumps(RECORDED))\n"
        )
        words = [sys.executable, "-c", PLAN_ONLY, "all", "--snakefile", "Snakefile", "--dry-run"]
        words += ["--profile", str(ROOT / "profiles" / "local"), "--config", "run=."]
        done = subprocess.run(words, cwd=run, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"the chain cannot be planned: {done.stderr[-2000:]}")
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        tables = json.loads((run / "tables.json").read_text())

        def below(files):
            # such as "manifest.json (update)", in Snakemake's words
            return [os.path.relpath(re.sub(r" \(\w+\)$", "", file), run) for file in files]

        jobs = [
            Job(
                event["rule_name"],
                below(event["input"]),
                below(event["output"]),
                Path(event["log"][0]).stem if event["log"] else "",
            )
            for event in events
            if event["event"] == "job_info" and event["rule_name"] != "all"
        ]
        return Chain(in_order(jobs), {name: below(files) for name, files in tables.items()})


def in_order(jobs) -> list[Job]:
    "Each job after those that it needs; those that could run side by side by name."
    left = sorted(jobs, key=lambda job: (job.rule, job.notebook))
    done = []
    while left:
        pending = {file for job in left for file in job.leaves}
        ready = [job for job in left if not pending.intersection(job.reads)]
        done += ready
        left = [job for job in left if job not in ready]
    return done


def runs(job: Job, name: str) -> bool:
    "Whether a job runs this notebook: its log is named after it."
    stem = Path(name).name
    return job.notebook == stem or job.notebook.startswith(f"{stem}-")


# ---------------------------------------------------------------- where the repository is
def repository() -> str | None:  # OWNER/NAME on GitHub
    "From AFFNB_REPOSITORY, else from CITATION.cff, else from git's remote; None if it is none."
    remote = subprocess.run(
        ["git", "remote", "get-url", "origin"], cwd=ROOT, capture_output=True, text=True
    )
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text()).get("repository-code", "")
    named = os.environ.get("AFFNB_REPOSITORY", "")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", named):
        return named.removesuffix(".git")
    for address in (named, citation, remote.stdout.strip()):
        found = re.search(r"github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?$", address)
        if found:
            return found[1]
    return None


def elsewhere(name: str, home: str | None) -> dict:  # text -> address
    "Where a notebook can be run without a machine of one's own."
    if not home:
        return {}
    page = f"nbs/{name}.ipynb"
    return {
        "Open in Colab": f"https://colab.research.google.com/github/{home}/blob/{BRANCH}/{page}",
        "Open in Binder": f"https://mybinder.org/v2/gh/{home}/{BRANCH}?labpath={quote(page, '')}",
    }


def colab_lines(name: str, home: str) -> str:
    "What is to be run in Colab before the first cell."
    folder = home.rpartition("/")[2]
    return (
        f"!git clone --depth 1 https://github.com/{home} && pip install --quiet ./{folder}\n"
        f"%cd {folder}/{Path('nbs', name).parent.as_posix()}"
    )


# ---------------------------------------------------------------- the top of a page
def duration(seconds: float) -> str:
    "Minutes are rounded up, for those who plan an hour with them."
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{math.ceil(seconds / 60)} minutes"


def span(seconds) -> str:
    "From the shortest to the longest."
    ends = [duration(end) for end in (min(seconds), max(seconds))]
    return " to ".join(dict.fromkeys(ends))


def listing(words, most: int = 4) -> str:
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")


def place_in_chain(name: str, chain: Chain, titles: dict) -> str:
    "One line: which rule runs a notebook, what it needs, what it leaves; or who uses its module."
    jobs = sorted((job for job in chain.jobs if runs(job, name)), key=lambda job: job.notebook)
    if not jobs:
        exported = re.search(r"#\| default_exp ([\w.]+)", notebook_text(name))
        module = exported[1] if exported else ""
        source = f"sources/{module.rpartition('.')[2]}.txt"
        users = dict.fromkeys(job.rule for job in chain.jobs if module and source in job.reads)
        if not users:
            return "the chain does not run this notebook."
        rules = ", ".join(f"`{rule}`" for rule in users)
        return (
            f"no rule runs this notebook. Rules that use its module `affnb.{module}` run again when"
            f" it changes: {rules}."
        )
    rule = jobs[0].rule
    files = [file for job in jobs for file in job.reads if file in chain.rule_of]
    needed = dict.fromkeys(chain.rule_of[file] for file in files)
    notebooks = {
        job.rule: other for job in chain.jobs for other in titles if other and runs(job, other)
    }
    words = []
    for other in needed:
        link = ""
        if other != rule and other in notebooks:
            target = os.path.relpath(f"{notebooks[other]}.ipynb", Path(name).parent)
            link = f" ([{titles[notebooks[other]]}]({target}))"
        words.append(f"`{other}`{link}")
    leaves = listing([f"`{file}`" for file in jobs[0].leaves])
    if len(jobs) == 1:
        return f"rule `{rule}`; needs {', '.join(words)}; leaves {leaves}."
    return (
        f"rule `{rule}`, {len(jobs)} jobs in the profile {PROFILE}; needs {', '.join(words)};"
        f" leaves, for instance of the job {jobs[0].notebook}, {leaves}."
    )


def time_it_takes(kept: dict) -> str:
    "One line: of a rule in the published run, and of all cells where somebody reads."
    parts = []
    if kept.get("chain"):
        jobs = list(kept["chain"].values())
        each = "each of its jobs" if len(jobs) > 1 else "its job"
        parts.append(f"{each} took {span(jobs)} in the published {PROFILE} run")
    if "seconds" in kept:
        where = "all cells on the example run" if kept.get("chain") else "all cells"
        parts.append(f"{where}, {duration(kept['seconds'])} on {kept['cores']} cores")
    return "; ".join(parts) + "."


def notebook_text(name: str) -> str:
    return (ROOT / "nbs" / f"{name}.ipynb").read_text()


def title_of(name: str) -> str:
    return re.search(r"# (.+)", nbformat.reads(notebook_text(name), 4).cells[0].source)[1]


def how_to_run(name: str, chain: Chain, home: str | None) -> str:
    "The commands, for a clone and for Colab."
    lines = ["In a clone of the project:", "", "```bash"]
    rules = [job.rule for job in chain.jobs if runs(job, name)]
    if rules:
        table = chain.smallest_table(rules[0])
        only = f" --only table_{table}" if table else ""
        lines.append(f".venv/bin/affnb reproduce{only}   # its rule, and what that needs")
    lines += [f"make lab AT=nbs/{name}.ipynb   # in JupyterLab", "```"]
    if home:
        lines += ["", "In Colab, paste this as the first cell:", "", "```text"]
        lines += [colab_lines(name, home), "```"]
    else:
        lines += [
            "",
            "Links to Colab and Binder need a public clone: they are here where the site was built"
            " with `AFFNB_REPOSITORY=OWNER/NAME`, the clone's name on GitHub.",
        ]
    return "\n".join(lines)


def top_of_page(name: str, chain: Chain, titles: dict, home: str | None) -> str:  # Markdown
    "What stands under the title of a notebook's page."
    size = (ROOT / "nbs" / f"{name}.ipynb").stat().st_size // 1024
    file = Path(name).name
    links = [f'<a href="{file}.ipynb" download>Download this notebook</a> ({size} kB)']
    links += [f"[{text}]({address})" for text, address in elsewhere(name, home).items()]
    if name == "results":
        how = (
            "**How it is made:** `affnb reproduce` publishes records, tables and figures; this"
            " notebook reads them, and `python tests/refresh.py --readme` runs it."
        )
        return f"::::{{container}} this-notebook\n{' · '.join(links)}\n\n{how}\n::::"
    kept = read_json(ANSWERS).get(name, {})
    lines = [f"**In the chain:** {place_in_chain(name, chain, titles)}"]
    if kept:
        lines.append(f"**Time:** {time_it_takes(kept)}")
    return (
        f"::::{{container}} this-notebook\n{' · '.join(links)}\n\n"
        f":::{{dropdown}} Run it\n{how_to_run(name, chain, home)}\n:::\n\n"
        + "\n\n".join(lines)
        + "\n::::"
    )


def with_top(source: str, top: str) -> str:
    "The first cell of a notebook, with these lines under its title and subtitle."
    title = re.match(r"# .+\n*(?:> ?.+\n?)*", source)
    return f"{title[0].rstrip()}\n\n{top}\n\n{source[title.end() :].lstrip()}"


# ---------------------------------------------------------------- questions
def in_html(text: str) -> str:
    "Plain text in which `code` is marked as such."
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def what_is_asked(solution: str) -> tuple[str, str] | None:  # number of the exercise, its comment
    "From the comment that a solution begins with."
    lines = itertools.takewhile(lambda line: line.startswith("# "), solution.splitlines())
    text = " ".join(line.removeprefix("# ") for line in lines)
    found = re.match(r"answer_(\d+): (.+)", text)
    return (found[1], found[2]) if found else None


def hints_of(cells) -> dict:  # number of an exercise -> hint
    "From the calls of `check` in a notebook's last cell."
    calls = [
        node
        for cell in cells
        if cell.cell_type == "code" and tagged(cell, "check")
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check"
    ]
    return {str(call.args[0].value): ast.literal_eval(call.args[3]) for call in calls}


def vocabulary(words, asked: str) -> list[str]:
    "The words to choose from, where they are of a known list, or of those that the text quotes."
    quoted = re.findall(r'"([^"]+)"', asked)
    known = (*arms.AUTOENCODERS, *arms.ENCODERS, *arms.HEADLINE)
    lists = (TASKS, AU_NAMES, EXPRESSIONS, quoted if len(quoted) > 1 else [], known)
    for choices in map(list, map(dict.fromkeys, lists)):
        if set(words) <= set(choices):
            return choices
    return []


def form_of(name: str, number: str, asked: str, entry: dict, hint: str) -> str:
    "A question as HTML, in one block without an empty line."
    value = entry["value"]
    field_id = f"quiz-{number}"
    label = f"Your answer to exercise {number}: {in_html(asked)}"
    several = isinstance(value, list)
    words = [word for word in (value if several else [value]) if isinstance(word, str)]
    choices = vocabulary(words, asked) if words and "low" not in entry else []
    if several and choices and not entry["ordered"]:
        boxes = "\n".join(
            f'<label><input type="checkbox" name="answer" value="{html.escape(word)}">'
            f" {html.escape(word)}</label>"
            for word in choices
        )
        asking = f"<fieldset>\n<legend>{label}</legend>\n{boxes}\n</fieldset>"
    elif choices and not several:
        options = "\n".join(f"<option>{html.escape(word)}</option>" for word in choices)
        asking = (
            f'<label for="{field_id}">{label}</label>\n<select id="{field_id}" name="answer"'
            f' required>\n<option value="">choose</option>\n{options}\n</select>'
        )
    else:
        kind = "text" if several or words else "number"
        step = ' step="any"' if kind == "number" else ""
        commas = " (with a comma between one and the next)" if several else ""
        asking = (
            f'<label for="{field_id}">{label}{commas}</label>\n<input id="{field_id}" type="{kind}"'
            f'{step} name="answer" autocomplete="off" required>'
        )
    secret = base64.b64encode(json.dumps(entry | dict(hint=hint)).encode()).decode()
    return (
        f'<form class="quiz" data-exercise="{number}" data-accepts="{secret}">\n{asking}\n'
        '<button type="submit">Check</button>\n'
        f'<a class="quiz-solution" href="#solution-{number}" hidden>Show the solution</a>\n'
        '<p class="quiz-result" role="status" aria-live="polite"></p>\n</form>'
    )


def exercises_cell(cells) -> int:
    "Which cell lists the exercises."
    return next(
        k
        for k, cell in enumerate(cells)
        if cell.cell_type == "markdown" and re.search("^## Exercises", cell.source, re.M)
    )


def add_questions(name: str, cells: list) -> list:
    "A notebook's cells with a form for each answer that was kept, and a place for each solution."
    answers = read_json(ANSWERS).get(name, {}).get("answers", {})
    if not answers:
        return cells
    hints = hints_of(cells)
    forms = []
    shown = []
    for cell in cells:
        asked = what_is_asked(cell.source) if tagged(cell, "solution") else None
        if asked and cell.cell_type == "code" and asked[0] in answers:
            number, text = asked
            forms.append(form_of(name, number, text, answers[number], hints[number]))
            place = f'<div id="solution-{number}" class="solution-place"></div>'
            shown.append(nbformat.v4.new_markdown_cell(place))
        shown.append(cell)
    after = exercises_cell(shown) + 1
    block = '<div class="quizzes" hidden>\n' + "\n".join(forms) + "\n</div>"
    return [*shown[:after], nbformat.v4.new_markdown_cell(block), *shown[after:]]
