"""What pauca raises. Each message is one line: what came in and where, what was expected, what to do."""

import sys


class PaucaError(Exception):
    """Base of every error that pauca raises on purpose; the command line shows it as one line, without a traceback."""

    exit_code = 1


class InputError(PaucaError):
    """A file or an array that cannot be used as it is. The message names it, the place in it, and the remedy."""

    exit_code = 2


class ConfigError(PaucaError):
    """Options that contradict each other or lie outside their range."""

    exit_code = 2


class DeviceError(PaucaError):
    """This machine cannot do what was asked. The message says what it would need; `pauca doctor` says what it has."""

    exit_code = 2  # to ask for a device that is not there is wrong usage: the same command cannot succeed here


def level_outside() -> int:
    """The `stacklevel` with which who calls this warns in the name of the line outside of pauca that led here."""
    level, ours, frame = 0, 1, sys._getframe(1)
    while frame is not None:
        level += 1
        if frame.f_globals.get("__name__", "").startswith("pauca."):  # decorators may stand between two of ours
            ours = level
        frame = frame.f_back
    return ours + 1
