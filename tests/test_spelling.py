"""Identifiers are spelled as torch, numpy and scipy spell theirs: optimizer, normalize, center, color."""

import ast
import re
from pathlib import Path

import pauca

SOURCE = Path(pauca.__file__).parent
BRITISH = re.compile(
    r"(optim|normal|initial|quant|parallel|serial|regular|organ|recogn|util|maxim|minim|summar|synchron|token|linear"
    r"|vector|visual|standard|random|final|local|general|categor|penal|stabil|memor)is(e|ing|ation|er)"
    r"|colour|grey|centr(e|ing)|neighbour|behaviour|favour|honour|labell|modell|travell|cancelled|artefact|catalogue"
    r"|analys(e|ing)",
    re.IGNORECASE,
)
OLD_NAMES = {("fewshot", "normalise")}  # those of 0.1 that stay for one version, beside `formerly`'s


def test_identifiers_are_in_us_spelling():
    found = set()
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        for name, line in _identifiers(ast.parse(path.read_text(encoding="utf-8"))):
            if BRITISH.search(name) and (place.split("/")[0], name) not in OLD_NAMES:
                found.add(f"{place}:{line}: {name}")
    assert not found, "\n".join(sorted(found))


def test_scan_sees_british_names_of_every_kind():
    code = """
import tokenise
class Optimiser:
    colour: int
def normalise(greys, *neighbours, **labelled): self.centre = f(initialiser=1)
formerly(quantise="quantize")
"""
    found = {name for name, _ in _identifiers(ast.parse(code)) if BRITISH.search(name)}
    names = {"tokenise", "Optimiser", "colour", "normalise", "greys", "neighbours", "labelled", "centre", "initialiser"}
    assert found == names


def _identifiers(tree: ast.Module) -> list[tuple[str, int]]:
    """All names that code gives or uses, with their lines; not the keywords of `formerly`, which are old names."""
    names = []
    for node in _walk(tree):
        for field in ("id", "attr", "name", "asname", "arg"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                names.append((name, getattr(node, "lineno", 0)))
    return names


def _walk(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "formerly":
        return [node.func]
    return [node, *(found for child in ast.iter_child_nodes(node) for found in _walk(child))]
