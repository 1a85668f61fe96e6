"""The one entry point: `pauca SYSTEM VERB`.

Only the system that is asked for is imported. Each system's `commands.py` brings `COMMANDS`: verb -> function (or a
dictionary of such, for verbs of two words); tyro reads options and help off the functions' parameters.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TypeAlias

import pauca
from pauca.errors import PaucaError

Commands: TypeAlias = Mapping[str, "Callable | Commands"]

SYSTEMS = {
    "events": "few events: the rotation of an event camera, aligned events, sharp images",
    "fewshot": "few labels: recognise new image classes from one to five examples",
    "moe": "few bits: MXFP4 training of mixture-of-experts models on Hopper GPUs",
}
# Systems whose packages are optional: system -> what to install.
_EXTRAS = {"fewshot": "pauca[fewshot]", "moe": "pauca[moe]"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `pauca` with `arguments` (default: the process's own) and return the exit code.

    0 done, 1 failed, 2 wrong usage, bad input, or a device that this machine lacks. An error is one line on standard
    error; `--debug` shows where it comes from.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        _dispatch(words)
    except SystemExit as stop:  # raised by tyro: 0 after --help, 2 for wrong usage
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("pauca: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `pauca ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"pauca: {_with_rank(_one_line(error, debug))}", file=sys.stderr)
        return error.exit_code if isinstance(error, PaucaError) else 1
    return 0


def _dispatch(words: list[str]) -> None:
    first = words[0] if words else "--help"
    if first in ("--help", "-h", "help"):
        _print_overview()
    elif first in ("--version", "-V"):
        print(f"pauca {pauca.__version__}")
    else:
        _dispatch_command(first, words)


def _dispatch_command(first: str, words: list[str]) -> None:
    from pauca.runs import share_processors

    share_processors()  # before a system imports torch
    if first in SYSTEMS:
        _run_verb(f"pauca {first}", _commands_of(first), words[1:])
    else:
        from pauca import commands

        if first not in commands.COMMANDS:
            known = ", ".join([*SYSTEMS, *commands.COMMANDS])
            print(f"pauca: unknown command {first!r}; there are: {known} (see pauca --help)", file=sys.stderr)
            raise SystemExit(2)
        _run_verb("pauca", commands.COMMANDS, words)


def _commands_of(system: str) -> Commands:
    try:
        return import_module(f"pauca.{system}.commands").COMMANDS
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(system)
        if extra is None or (error.name or "").startswith("pauca"):
            raise
        raise PaucaError(
            f"`pauca {system}` needs {error.name}, which is not installed: pip install '{extra}'"
        ) from error


def _run_verb(program: str, commands: Commands, words: list[str]) -> None:
    while words and isinstance(inner := commands.get(words[0]), Mapping):
        program, commands, words = f"{program} {words[0]}", inner, words[1:]
    import tyro

    functions = {verb: command for verb, command in commands.items() if callable(command)}
    for verb, command in commands.items():
        if isinstance(command, Mapping):
            functions[verb] = _group(verb, command)
    tyro.extras.subcommand_cli_from_dict(
        functions,
        prog=program,
        description=f"{program}: see `{program} VERB --help`. Errors are one line; --debug shows where they come from.",
        args=words or ["--help"],
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )


def _group(verb: str, commands: Commands) -> Callable[[], None]:
    """A stand-in for a group of verbs, so that it appears in the list of its system."""

    def group() -> None: ...

    group.__doc__ = f"{verb}: {', '.join(commands)}."
    return group


def _one_line(error: Exception, debug: bool) -> str:
    if isinstance(error, PaucaError):
        return " ".join(str(error).split())
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"unexpected error: {text}" + ("" if debug else " (--debug shows where)")


def _with_rank(line: str) -> str:
    """Say which of the processes that torchrun has started is speaking."""
    rank = f"rank {os.environ.get('RANK')}"
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return line if alone or line.startswith(rank) else f"{rank}: {line}"


def _print_overview() -> None:
    from pauca import commands

    verbs = {name: (function.__doc__ or "").split("\n")[0] for name, function in commands.COMMANDS.items()}
    print(f"pauca {pauca.__version__}: perception and training with few events, few labels and few bits\n")
    print("usage: pauca SYSTEM VERB [options]      pauca SYSTEM --help      pauca SYSTEM VERB --help\n")
    for name, words in [*SYSTEMS.items(), *verbs.items()]:
        print(f"  {name:<10}{words}")
    print("\n  --version   print the version\n  --debug     with any command: show where an error comes from")


if __name__ == "__main__":
    sys.exit(main())
