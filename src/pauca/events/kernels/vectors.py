"""Four neighboring pixels at once: what numba's compiler does not find by itself, written down for LLVM.

Each operation is that of a single float, rounded as written, so that results do not depend on the processor. Indices
are not checked: of the four floats from an index on all must be inside of the array.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic  # what it makes has no typing context any more, which it does not say

_FLOAT, _INDEX = ir.FloatType(), ir.IntType(32)
_FOUR = ir.VectorType(_FLOAT, 4)


@intrinsic
def copy_four(typing_context: Any, source: Any, first: Any, target: Any, at: Any) -> Any:
    """Copy four floats of source, from index `first` on, to target, from index `at` on: float32, contiguous."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, begin, out, to = args
        four = builder.load(_place(context, builder, signature.args[0], array, begin), align=4)
        builder.store(four, _place(context, builder, signature.args[2], out, to), align=4)
        return context.get_dummy_value()

    return types.void(source, types.uint32, target, types.uint32), generate


@intrinsic
def add_spline(typing_context: Any, target: Any, corner: Any, stride: Any, u: Any, v: Any) -> Any:
    """Add the quadratic B-spline around (u, v), from the middle one of nine pixels, to these pixels.

    Args:
        target: float32 [pixels], contiguous.
        corner: uint32, index of the first of the nine pixels; the pixel right of each three is added zero.
        stride: uint32, from one row to the next.
        u, v: float32, -0.5 to 0.5.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, at, step, u, v = args
        across = _spline_across(builder, _all(builder, u))
        half = ir.Constant(_FLOAT, 0.5)
        above, below = builder.fsub(half, v), builder.fadd(half, v)
        shares = (
            builder.fmul(builder.fmul(half, above), above),
            builder.fsub(ir.Constant(_FLOAT, 0.75), builder.fmul(v, v)),
            builder.fmul(builder.fmul(half, below), below),
        )
        for share in shares:
            place = _place(context, builder, signature.args[0], array, at)
            more = builder.fmul(_all(builder, share), across)
            builder.store(builder.fadd(builder.load(place, align=4), more), place, align=4)
            at = builder.add(at, step)
        return context.get_dummy_value()

    return types.void(target, types.uint32, types.uint32, types.float32, types.float32), generate


@intrinsic
def turn_four(
    typing_context: Any,
    source: Any,
    first: Any,
    second: Any,
    third: Any,
    fourth: Any,
    target: Any,
    at: Any,
    stride: Any,
) -> Any:
    """Three pixels of a row from each of four places, in columns: target[at + k stride + j] = source[place j + k].

    Args:
        source: float32 [pixels], contiguous; one more pixel is read at each place.
        first, second, third, fourth: uint32, the places.
        target: float32, contiguous.
        at: uint32, index of the first float that is written.
        stride: uint32, from the first pixels to the second ones, and on to the third.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, *places, out, begin, step = args
        a, b, c, d = (
            builder.load(_place(context, builder, signature.args[0], array, place), align=4) for place in places
        )
        low, high = _mixed(builder, a, b, (0, 4, 1, 5)), _mixed(builder, c, d, (0, 4, 1, 5))
        last = _mixed(builder, _mixed(builder, a, b, (2, 6, 3, 7)), _mixed(builder, c, d, (2, 6, 3, 7)), (0, 1, 4, 5))
        columns = _mixed(builder, low, high, (0, 1, 4, 5)), _mixed(builder, low, high, (2, 3, 6, 7)), last
        for column in columns:
            builder.store(column, _place(context, builder, signature.args[5], out, begin), align=4)
            begin = builder.add(begin, step)
        return context.get_dummy_value()

    index = types.uint32
    return types.void(source, index, index, index, index, target, index, index), generate


def _spline_across(builder: Any, u: Any) -> Any:
    """Shares of the pixel to the left, the middle one and the one to the right, and zero: polynomials in u."""
    curved = builder.fmul(u, _constant(0.5, -1.0, 0.5, 0.0))
    return builder.fadd(
        _constant(0.125, 0.75, 0.125, 0.0), builder.fmul(u, builder.fadd(_constant(-0.5, 0.0, 0.5, 0.0), curved))
    )


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Pointer to four floats of an array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [builder.zext(index, ir.IntType(64))]), _FOUR.as_pointer())


def _all(builder: Any, value: Any) -> Any:
    """Four times the same."""
    nothing = ir.Constant(_FOUR, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(_INDEX, 0))
    return _mixed(builder, one, nothing, (0, 0, 0, 0))


def _mixed(builder: Any, first: Any, second: Any, chosen: tuple[int, ...]) -> Any:
    """Four of the eight floats of two vectors."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_INDEX, 4), list(chosen)))


def _constant(*values: float) -> Any:
    return ir.Constant(_FOUR, list(values))
