"""Training with compiled layers, in a process of its own: torch.compile cannot trace the type checks of the suite."""

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest


@pytest.mark.slow
def test_compiled_layers_train_alike():
    subprocess.run([sys.executable, __file__], check=True, timeout=300)


def main() -> None:
    from smallest import CONFIG, fresh, text  # beside this file

    from pauca.moe import Trainer

    with tempfile.TemporaryDirectory() as folder:
        data = text(Path(folder))
        config = replace(CONFIG, learning_rate=1e-4, passes=2)
        plain, compiled = (Trainer(fresh(), data, replace(config, compile=compile)) for compile in (False, True))
        for _ in range(2):
            # Fused operations round once where separate ones round twice, which tips some values over to another code.
            expected, found = plain.step().cross_entropy, compiled.step().cross_entropy
            assert abs(found - expected) < 0.01 * expected, (found, expected)
        assert compiled.health().keys() == plain.health().keys()
        assert compiled.weights().keys() == plain.weights().keys()


if __name__ == "__main__":
    main()
