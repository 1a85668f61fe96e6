"""Run the commands of the tutorial pages and write their output and pictures into the pages.

    python docs/tutorials.py                      # every tutorial
    python docs/tutorials.py docs/moe/tutorial.md --check

In a page, a block of ```console holds commands after `$ ` and what they print; the commands of a page run in one new
folder, in their order. A line `<!-- from FILE -->` before a picture names the file of that folder that it is a copy of,
which may hold a `*`.
`--check` changes nothing, and fails where a command fails or says something else than the page; numbers may differ, and
all that is in a block of ```{ .console .varies }.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PAGES = sorted([*DOCS.glob("*/tutorial.md"), DOCS / "events" / "recordings.md"])
_BLOCK = re.compile(r"^```(?:console|(\{ \.console \.varies \}))\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"<!-- from (\S+) -->\n+!\[[^\]]*\]\(([^)]+)\)")
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(e[-+]?\d+)?")
_PROGRESS = re.compile(r".*: \d+/\d+ \w+, .* left")  # every ten seconds, where output is no terminal
_MOST_LINES = 24  # of one command's output


def run_page(page: Path, check: bool) -> list[str]:
    """Run a page's commands and, without `check`, bring it up to date; what is wrong with the page, a line each."""
    text, wrong = page.read_text(encoding="utf-8"), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def renew(block: re.Match[str]) -> str:
            lines = []
            for command in _commands(block[2]):
                lines += [f"$ {command}", *_output(command, folder, wrong)]
            return f"```{block[1] or 'console'}\n" + "\n".join(lines) + "\n```"

        renewed = _BLOCK.sub(renew, text)
        for source, target in _PICTURE.findall(text):
            made = sorted(folder.glob(source))
            if not made:
                wrong.append(f"{page.name}: {source} was not made")
            elif not check:
                shutil.copy(made[0], page.parent / target)
    if check:
        wrong += _differences(text, renewed, page)
    elif not wrong:
        page.write_text(renewed, encoding="utf-8")
    return wrong


def _commands(block: str) -> list[str]:
    """What stands after `$ `, with the lines that a backslash or a `<< 'END'` adds to it."""
    commands, lines = [], iter(block.splitlines())
    for line in lines:
        if not line.startswith("$ "):
            continue
        command = line[2:]
        ends = "END" if command.endswith("<< 'END'") else None
        while command.endswith("\\") or (ends and not command.endswith(f"\n{ends}")):
            command += "\n" + next(lines)
        commands.append(command)
    return commands


def _output(command: str, folder: Path, wrong: list[str]) -> list[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"COLUMNS": "110", "PATH": path, "NO_COLOR": "1"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        wrong.append(f"`{command}` ended with {done.returncode}: {done.stdout[-300:]}")
    printed = [line.rstrip().replace(str(folder), "~") for line in done.stdout.strip().splitlines()]
    lines = [line for line in printed if not _PROGRESS.match(line)]
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 4], "...", *lines[-3:]]


def _differences(text: str, renewed: str, page: Path) -> list[str]:
    """Lines of the page that its commands no longer print, numbers, paths and repeated blanks apart."""

    def shape(line: str) -> str:
        return re.sub(r"[\s─━=.#]+", " ", _NUMBER.sub("0", line)).strip()

    now = {shape(line) for line in renewed.splitlines()}
    return [
        f"{page.parent.name}/{page.name}: no longer printed: {line.strip()}"
        for varies, block in _BLOCK.findall(text)
        for line in block.splitlines()
        if not varies and line.strip() and shape(line) not in now
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page is out of date")
    options = parser.parse_args()
    wrong = [line for page in options.pages for line in run_page(page, options.check)]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
