"A copy of the project, to be run, edited and killed in."

import os
import subprocess
import sys
from in_step import copy_tree


class Project:
    "A copy of the project whose own code runs, wherever the package was installed from."

    def __init__(self, root):
        self.root = root
        copy_tree(root)
        self.environment = {**os.environ, "PYTHONPATH": str(root)}

    def start(self, *words, **options):
        return subprocess.Popen(
            [sys.executable, "-m", "affnb.engine.cli", *words],
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )

    def run(self, *words):
        "What it printed."
        process = self.start(*words)
        output, _ = process.communicate(timeout=1500)
        assert process.returncode == 0, output
        return output

    def times(self, name="tiny"):
        return {
            str(path.relative_to(self.root)): path.stat().st_mtime_ns
            for path in (self.root / "data" / "runs" / name).glob("seed0/*/*.safetensors")
        }
