"""Remedies serve both who types commands and who calls functions: a flag is named beside its argument."""

import ast
import re
from pathlib import Path

import pytest

import pauca

ROOT = Path(pauca.__file__).parent
VERBS = {"commands.py", "own_images.py", "named.py", "train_verb.py", "tasks.py", "settings.py", "sources.py"}
FILES = [p for room in ("fewshot", "recognize", "runs") for p in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", [p for p in FILES if p.name not in VERBS], ids=lambda p: str(p.relative_to(ROOT)))
def test_what_functions_raise_names_arguments_beside_flags(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Raise):
            continue
        parts = (
            part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
        )
        text = " ".join(parts)
        flags = set(re.findall(r"--([a-z][a-z-]*)", text)) - {"nproc-per-node"}  # of torchrun
        lacking = [flag for flag in flags if not re.search(rf"(?<!-)\b{flag.replace('-', '_')}\b ?=", text)]
        assert not lacking, f"{path.name}:{node.lineno}: {text}"
