"""Run the commands of docs/events/tutorial.md, write their output back into the page, and draw its pictures.

    python benchmarks/events_tutorial.py [--check]

A block of the page that begins with `$ pauca ...` is a command and its output; commands run in order in one empty
folder. Pictures that they draw are copied to docs/images under the name that the page shows. With `--check`, nothing is
written, and the exit code is 1 where a command fails or the words of its output have changed; numbers may differ, since
times do and other processors round differently.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "events" / "tutorial.md"
PICTURES = {  # what the commands draw: the picture of the page
    "runs/events/turn/velocity.png": "events-velocity.png",
    "runs/events/turn/aligned_*.png": "events-aligned.png",
    "error.png": "events-error.png",
    "runs/events/stop/velocity.png": "events-stop.png",
}
_BLOCK = re.compile(r"```console\n(\$ .*?)```", re.DOTALL)


def run_block(block: str, folder: Path) -> str:
    """The block with its commands' output as it is now."""
    lines = []
    for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE):
        words = shlex.split(command.replace("\\\n", " "))
        if words[0] == "pauca":
            words = [sys.executable, "-m", "pauca.cli", *words[1:]]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command}\n{done.stdout}{done.stderr}")
        lines += [f"$ {command}", *(line.rstrip() for line in (done.stdout + done.stderr).splitlines())]
    return "\n".join(lines) + "\n"


def words_of(text: str) -> str:
    """A text without its numbers, which other machines print otherwise."""
    return re.sub(r"\s+", " ", re.sub(r"[-+]?\d[\d,.]*", "#", text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the words have changed")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        new = _BLOCK.sub(lambda found: f"```console\n{run_block(found[1], folder)}```", page)
        if options.check:
            sys.exit(0 if words_of(new) == words_of(page) else f"{PAGE}: the output of a command has changed")
        PAGE.write_text(new, encoding="utf-8")
        for pattern, picture in PICTURES.items():
            shutil.copy(sorted(folder.glob(pattern))[0], DOCS / "images" / picture)


if __name__ == "__main__":
    main()
