"""The byte parser against Python's own decimal arithmetic."""

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.events.kernels.text import NO_NUMBER, NO_TIME, TOO_FEW, TOO_MANY, parse_lines


def _parse(text: str, columns=(0, 1, 2, 3), t_power: int = 6):
    data = np.frombuffer(text.encode(), np.uint8)
    n = text.count("\n")
    t, (x, y, p) = np.empty(n, np.int64), np.empty((3, n), np.float32)
    count, line = np.zeros(4, np.int64), np.full(4, -1, np.int64)
    n, lines, fractional = parse_lines(data, np.array(columns, np.int64), t_power, t, x, y, p, count, line)
    return t[:n], x[:n], y[:n], p[:n], count, line, lines, fractional


@settings(max_examples=300, deadline=None)
@given(
    digits=st.integers(0, 10**17),
    point=st.integers(0, 17),
    exponent=st.none() | st.integers(-12, 0),
    sign=st.sampled_from(["", "-", "+"]),
    t_power=st.sampled_from([6, 3, 0, -3]),
)
def test_times_are_rounded_as_decimals_are(digits, point, exponent, sign, t_power):
    text = str(digits).zfill(point + 1)
    number = sign + (text[: len(text) - point] + "." + text[len(text) - point :] if point else text)
    if exponent is not None:
        number += f"e{exponent}"
    expected = Decimal(number).scaleb(t_power)
    t, *_, count, _, _, _ = _parse(f"{number} 1 2 1\n", t_power=t_power)
    if abs(expected) < 9 * 10**17:
        assert t.tolist() == [int(expected.quantize(Decimal(1), rounding=ROUND_HALF_UP))]
    elif abs(expected) > 10**19:
        assert count[NO_TIME] == 1


@settings(max_examples=200, deadline=None)
@given(value=st.floats(0, 2000, width=32), form=st.sampled_from(["{:.9g}", "{:.18e}", "{:.12f}"]))
def test_pixels_in_any_notation(value, form):
    _, x, *_ = _parse(f"1 {form.format(value)} 0 0\n")
    assert x[0] == pytest.approx(value, rel=1e-7, abs=1e-11)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789.-+eE,; \t#x\n", max_size=80))
def test_any_text_is_parsed_to_its_end(text):
    """Nothing that the reader may meet runs out of the buffer or loses count of the lines."""
    *_, t_lines, _ = _parse(text + "\n")
    assert t_lines == text.count("\n") + 1


def test_reasons_and_first_lines():
    text = "1 1 1 1\n2 2\n3 3 3 3 3\n4 a 4 4\nnan 1 1 1\n5 5\n\n# 1\n6 6 6 6\n"
    t, _, _, _, count, line, lines, fractional = _parse(text, t_power=0)
    assert t.tolist() == [1, 6]
    assert count[[TOO_FEW, TOO_MANY, NO_NUMBER, NO_TIME]].tolist() == [2, 1, 1, 1]
    assert line[[TOO_FEW, TOO_MANY, NO_NUMBER, NO_TIME]].tolist() == [1, 2, 3, 4]
    assert lines == 9
    assert not fractional


def test_unused_columns():
    t, x, y, p, *_ = _parse("1 9.5 2 3 0\n", columns=(1, -1, 2, 0, 3), t_power=0)
    assert (t[0], x[0], y[0], p[0]) == (3, 1, 2, 0)
