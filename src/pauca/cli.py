"""The one entry point: `pauca SYSTEM VERB`.

Only the system that is asked for is imported. Each system's `commands.py` brings `COMMANDS`: verb -> function (or a
dictionary of such, for verbs of two words); tyro reads options and help off the functions' parameters. The verbs that
belong to no system, `pauca demo` and `pauca doctor`, are at the end.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeAlias

from tyro.conf import arg

import pauca
from pauca.errors import InputError, PaucaError
from pauca.renamed import flag_with_new_name
from pauca.systems import SYSTEMS
from pauca.typed import typed

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what only who runs us can mend: the disk, a quota, a limit

Commands: TypeAlias = Mapping[str, "Callable | Commands"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `pauca` with `arguments` (default: the process's own) and return the exit code.

    0 done, 1 failed, 2 wrong usage, bad input, or a device that this machine lacks. An error is one line on standard
    error; `--debug` shows where it comes from.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    words = [flag_with_new_name(word) for word in words]
    try:
        with typed(words):
            _dispatch(words)
    except SystemExit as stop:  # raised by tyro: 0 after --help, 2 for wrong usage
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt as stop:  # of a training it says what is left
        print(f"pauca: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            return 0
        if debug:
            traceback.print_exc()
        print(f"pauca: {_with_rank(_one_line(error, debug))}", file=sys.stderr)
        return error.exit_code if isinstance(error, PaucaError) else 1
    return 0


def _reader_has_gone() -> bool:
    """Whether nobody reads our output any more, as in `pauca ... | head`, and not another pipe broke. What is still to
    be written goes nowhere then."""
    output = sys.stdout.fileno()
    if hasattr(select, "poll"):  # Windows has none
        look = select.poll()
        look.register(output, 0)
        if not any(state & (select.POLLERR | select.POLLHUP) for _, state in look.poll(0)):
            return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def run() -> NoReturn:
    """Run `pauca` as a process of its own, and end it."""
    code = main()
    # Only a command that has several ranks has imported this, and torch.
    processes = sys.modules.get("pauca.runs.processes")
    if processes is not None:
        processes.end_rank(code)
    sys.exit(code)


def _dispatch(words: list[str]) -> None:
    first = words[0] if words else "--help"
    if first in ("--help", "-h", "help"):
        _print_overview()
    elif first in ("--version", "-V"):
        print(f"pauca {pauca.__version__}")
    else:
        _dispatch_command(first, words)


def _folder_is_there() -> bool:
    try:
        return Path.cwd().is_dir()
    except OSError:
        return False


def _dispatch_command(first: str, words: list[str]) -> None:
    if not _folder_is_there():  # in which torch cannot be loaded, and no file found
        raise InputError("the current folder was deleted; change to another one")
    from pauca.runs import share_processors

    share_processors()  # before a system imports torch
    if first in SYSTEMS:
        _run_verb(f"pauca {first}", _commands_of(first), words[1:])
    else:
        if first not in COMMANDS:
            known = ", ".join([*SYSTEMS, *COMMANDS])
            print(f"pauca: unknown command {first!r}; there are: {known} (see pauca --help)", file=sys.stderr)
            raise SystemExit(2)
        _run_verb("pauca", COMMANDS, words)


def _commands_of(system: str) -> Commands:
    try:
        return import_module(f"pauca.{system}.commands").COMMANDS
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pauca"):
            raise
        raise PaucaError(
            f"`pauca {system}` needs {error.name}, which is not installed: pip install '{SYSTEMS[system].package}'"
        ) from error


def _run_verb(program: str, commands: Commands, words: list[str]) -> None:
    while words and isinstance(inner := commands.get(words[0]), Mapping):
        program, commands, words = f"{program} {words[0]}", inner, words[1:]
    import tyro

    functions = {verb: _later(command) for verb, command in commands.items() if callable(command)}
    for verb, command in commands.items():
        if isinstance(command, Mapping):
            functions[verb] = _group(verb, command)
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            run = tyro.extras.subcommand_cli_from_dict(
                functions,
                prog=program,
                description=f"{program}: see `{program} VERB --help`. Errors are one line; --debug shows their places.",
                args=words or ["--help"],
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
            )
    except SystemExit as stop:
        if stop.code:
            print(f"pauca: {_with_rank(_without_box(told.getvalue(), program))}", file=sys.stderr)
        raise
    run()


def _later(command: Callable) -> Callable:
    """A command that is read like another, and gives what is left to call: so that only tyro's words are caught."""

    @wraps(command)
    def prepare(*arguments: Any, **named: Any) -> Callable[[], Any]:
        return partial(command, *arguments, **named)

    prepare.__annotations__ = {**command.__annotations__, "return": Callable}
    return prepare


def _without_box(text: str, program: str) -> str:
    """tyro's box around wrong usage as one line of sentences."""
    # Boxes are drawn in ASCII where standard error is not a terminal of UTF-8.
    border = r"^(?:[│|]\s*|[╭╰+][─-]+\s*)|\s*(?:[│|]|[─-]*[╮╯+])$"
    found = [re.sub(border, "", line.strip()).strip() for line in text.splitlines()]
    found = ["" if re.fullmatch(r"[─-]+", line) else line for line in found]
    # tyro leaves the system out of the command that would know an option.
    found = [re.sub(r"^in pauca (?=\S+ --help$)", f"in {program} ", line) for line in found]
    parts = [""]  # of the text, between ruled lines
    for line in found[1:]:
        if not line:
            parts.append("")
        elif re.fullmatch(r"in pauca .*--help", line) and parts[-1].endswith("--help"):
            parts[-1] += f", {line}"  # one command of several that know it
        elif line.startswith("--") and parts[-1] and not parts[-1].endswith(":"):
            parts[-1] += f"; {line}"  # one option of several
        else:
            parts[-1] += f" {line}"
    sentences = [part.strip() for part in parts if part]
    title = found[0] if found else "wrong usage; see --help"
    words = " ".join(
        [sentence if sentence.endswith((".", ":")) else f"{sentence}." for sentence in sentences[:-1]] + sentences[-1:]
    )
    return words if words.startswith(title) else f"{title}: {words}" if words else title


def _group(verb: str, commands: Commands) -> Callable[[], None]:
    """A stand-in for a group of verbs, so that it appears in the list of its system."""

    def group() -> None: ...

    group.__doc__ = f"{verb}: {', '.join(commands)}."
    return group


def _one_line(error: Exception, debug: bool) -> str:
    if isinstance(error, PaucaError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}could not be written ({error.strerror}); make room, and run it again (or --resume it)"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"unexpected error: {text}" + ("" if debug else " (--debug shows where)")


def _with_rank(line: str) -> str:
    """Say which of the processes that torchrun has started is speaking."""
    rank = f"rank {os.environ.get('RANK')}"
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return line if alone or line.startswith(rank) else f"{rank}: {line}"


def _print_overview() -> None:
    systems = {name: system.sentence for name, system in SYSTEMS.items()}
    verbs = {name: (function.__doc__ or "").split("\n")[0] for name, function in COMMANDS.items()}
    print(f"pauca {pauca.__version__}: perception and training with few events, few labels and few bits\n")
    print("usage: pauca SYSTEM VERB [options]      pauca SYSTEM --help      pauca SYSTEM VERB --help\n")
    for name, words in [*systems.items(), *verbs.items()]:
        print(f"  {name:<10}{words}")
    print("\n  --version   print the version\n  --debug     with any command: show where an error comes from")


def demo(out: Path = Path("runs/demo"), seed: int = 0, quiet: bool = False) -> None:
    """Show what pauca does, on data it makes itself, and write a report.

    Args:
        out: folder for the report and its pictures; an earlier demo there is replaced.
        seed: seed of everything random.
        quiet: show no progress.
    """
    from pauca.demo import run_demo

    report = run_demo(out, seed, quiet)
    print(f"report: {report.resolve()}")


def doctor(as_json: Annotated[bool, arg(name="json")] = False) -> None:
    """Say what this machine can do, and why not.

    Args:
        as_json: print JSON for programs.
    """
    from pauca.doctor import examine, print_table

    checks = examine()
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print_table(checks)


COMMANDS = {"demo": demo, "doctor": doctor}


if __name__ == "__main__":
    run()
