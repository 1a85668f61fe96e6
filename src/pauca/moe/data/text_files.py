"""Text files, compressed or not, as documents: found, read and checked."""

import gzip
import lzma
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from pauca.errors import InputError
from pauca.moe.data.tokenizers import END

_SUFFIXES = (".txt", ".md", ".py")


_COMPRESSED = {".xz": lzma.open, ".gz": gzip.open}


# Tests are not written to be read, caches and installed packages are not of the standard library.
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def read_documents(path: Path, blank_is_fine: bool = False) -> Iterator[str]:
    """The documents of a text file, decompressed; empty ones are left out.

    Args:
        path: the file to read.
        blank_is_fine: a file without text holds no document, and is not a mistake.

    Raises:
        InputError: no such file, nothing in it, damaged compression, or no text in UTF-8 (line and byte are named).
    """
    try:
        with _COMPRESSED.get(path.suffix, open)(path, "rb") as file:
            data = file.read()
        text = data.decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: byte {error.start} (line {line}) is not UTF-8; convert the file, for example with iconv"
        ) from error
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the compressed file is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    place = data.find(0)  # valid in UTF-8, but no text, and what ends a document where tokens are bytes
    if place >= 0:
        line = data.count(b"\n", 0, place) + 1
        raise InputError(
            f"{path}: byte {place} (line {line}) is NUL, which no text contains; leave a binary file out, convert "
            "UTF-16 with iconv, or remove such bytes with tr -d '\\0'"
        )
    documents = [document for document in text.split(END) if document.strip()]
    if not documents and not blank_is_fine:
        raise InputError(f"{path}: holds no text; leave it out")
    yield from documents


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


def _is_text(path: Path) -> bool:
    name = path.with_suffix("") if path.suffix in _COMPRESSED else path
    return name.suffix in _SUFFIXES
