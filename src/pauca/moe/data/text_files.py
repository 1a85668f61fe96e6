"""Text files, compressed or not, as documents: found, read and checked."""

import codecs
import gzip
import lzma
import re
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pauca.errors import InputError
from pauca.moe.data.tokenizers import END

_SUFFIXES = (".txt", ".md", ".py")
_RECORDS = (".jsonl", ".ndjson")


_COMPRESSED = {".xz": lzma.open, ".gz": gzip.open}


# Tests are not written to be read, caches and installed packages are not of the standard library.
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


_MARK = "\ufeff"  # with which editors of Windows begin a file; no part of its text


BYTES_AT_ONCE = 1 << 24
LONGEST_PIECE = 1 << 24  # characters of a document


def read_documents(path: Path, blank_is_fine: bool = False) -> Iterator[tuple[str, bool]]:
    """The documents of a text file, decompressed, in pieces: each with whether it ends its document.

    A document of usual size is one piece. A longer one is cut after a line whose next begins with no space, where byte
    pairs never join, so that the tokens are those of the whole. However large the file, some 100 MB are held at once.
    Empty documents are left out.

    Args:
        path: the file to read.
        blank_is_fine: a file without text holds no document, and is not a mistake.

    Raises:
        InputError: no such file, nothing in it, damaged compression, or no text in UTF-8 (line and byte are named).
    """
    waiting, begun, found = "", False, False
    for text in _decoded(path):
        *whole, waiting = (waiting + text).split(END)
        for document in whole:
            if begun or document.strip():
                yield document, True
                found = True
            begun = False
        while len(waiting) > LONGEST_PIECE:
            cut = _place_to_cut(waiting[:LONGEST_PIECE])
            if begun or waiting[:cut].strip():
                yield waiting[:cut], False
                begun = found = True
            waiting = waiting[cut:]
    if begun or waiting.strip():
        yield waiting, True
        found = True
    if not found and not blank_is_fine:
        raise InputError(f"{path}: holds no text; leave it out")


def _place_to_cut(text: str) -> int:
    """Behind the last line of a text whose next begins with no space; at least one character, and no part of an END."""
    place = text.rfind("\n", 0, len(text) - 1)
    while place > 0 and text[place + 1].isspace():
        place = text.rfind("\n", 0, place)
    return place + 1 if place > 0 else max(1, len(text) - len(END))


def _decoded(path: Path) -> Iterator[str]:
    """The text of a file, some megabytes at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, line = 0, 1  # of what comes next
    try:
        with _COMPRESSED.get(path.suffix, open)(path, "rb") as file:
            while True:
                data = file.read(BYTES_AT_ONCE)
                begun = len(decoder.getstate()[0])  # bytes of a character that the last part has cut
                try:
                    text = decoder.decode(data, final=not data)
                except UnicodeDecodeError as error:
                    at = line + error.object.count(b"\n", 0, error.start)
                    raise InputError(
                        f"{path}: byte {offset - begun + error.start} (line {at}) is not UTF-8; convert the file, for "
                        "example with iconv"
                    ) from error
                place = data.find(0)  # valid in UTF-8, but no text, and what ends a document where tokens are bytes
                if place >= 0:
                    at = line + data.count(b"\n", 0, place)
                    raise InputError(
                        f"{path}: byte {offset + place} (line {at}) is NUL, which no text contains; leave a binary "
                        "file out, convert UTF-16 with iconv, or remove such bytes with tr -d '\\0'"
                    )
                if not data:
                    return
                if offset == 0:
                    text = text.removeprefix(_MARK)
                offset, line = offset + len(data), line + data.count(b"\n")
                yield text
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the compressed file is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def text_files(sources: Sequence[str]) -> list[tuple[str, Path]]:
    """All text files, each with the name by which its checksum is known."""
    if not sources:
        root = Path(sysconfig.get_path("stdlib"))
        found = [path for path in root.rglob("*.py") if not _NOT_LIBRARY & set(path.relative_to(root).parts)]
        named = sorted((path.relative_to(root).as_posix(), path) for path in found)
        # _sysconfigdata holds how this very Python was built.
        return [(name, path) for name, path in named if path.stat().st_size and not name.startswith("_sysconfigdata")]
    files = []
    for source in map(Path, sources):
        if source.is_dir():
            below = sorted(path for path in source.rglob("*") if path.is_file() and _is_text(path))
            if not below:
                raise InputError(f"{source}: no text files below it; they are known by {', '.join(_SUFFIXES)}")
            files += [(str(path), path) for path in below if path.stat().st_size]
        elif source.is_file():
            files.append((str(source), source))
        else:
            raise InputError(f"{source}: no such file or folder of text")
    return files


def refuse_repeated(training: Sequence[Path], validation: Sequence[Path]) -> None:
    """Text that is named twice is no more text, and the loss of text that is learned is no validation.

    A link inside a folder is a text of its own, as a copy would be; but none to validate on what it leads to.

    Raises:
        InputError: the first file that is among these twice.
    """
    for part, paths in (("training", training), ("validation", validation)):
        places: set[Path] = set()
        for path in paths:
            place = path.parent.resolve() / path.name
            if place in places:
                raise InputError(f"{path}: is named twice for {part}, or lies in a folder that is; name it once")
            places.add(place)
    learned = {path.resolve() for path in training}
    for path in validation:
        if path.resolve() in learned:
            raise InputError(
                f"{path}: is text to train on and to validate on, whose loss would say nothing; name or move it so "
                "that it is one of them"
            )


def refuse_records(path: Path) -> None:
    """Data sets come as JSON lines; as text, their braces and names of fields would be learned, and no document end.

    Raises:
        InputError: the file's name and its first line say so.
    """
    name = path.with_suffix("") if path.suffix in _COMPRESSED else path
    if name.suffix.lower() not in _RECORDS:
        return
    if re.match(r'\s*\{\s*"', next(_decoded(path), "")):
        raise InputError(
            f"{path}: holds JSON lines, and not text; write the texts to a file, with {END!r} between documents: "
            f"jq -r '.text + \"{END}\"' {path.name}"
        )


def _is_text(path: Path) -> bool:
    name = path.with_suffix("") if path.suffix in _COMPRESSED else path
    return name.suffix in _SUFFIXES
