"""Several pixels at once: what numba's compiler does not find by itself, written down for LLVM.

Each operation is that of a single float, rounded as written, so that results do not depend on the processor. Indices
are not checked: the four (or `LANES`) floats from an index on must be inside of the array.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

from pauca.events.kernels.sums import LANES

intrinsic: Any = _intrinsic  # what it makes has no typing context any more, which it does not say

_FLOAT, _DOUBLE, _INDEX = ir.FloatType(), ir.DoubleType(), ir.IntType(32)
_FOUR, _FOUR_DOUBLE, _FOUR_INDICES = (ir.VectorType(kind, 4) for kind in (_FLOAT, _DOUBLE, _INDEX))
_LANES_FLOAT, _LANES_BITS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INDEX, LANES)


@intrinsic
def any_in_lanes(typing_context: Any, source: Any, first: Any) -> Any:
    """Whether any of `LANES` floats of source (float32, contiguous), from index `first` on (uint32), is not zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.load(_place(context, builder, signature.args[0], *args, vector=_LANES_BITS), align=4)
        found = builder.icmp_unsigned("!=", bits, ir.Constant(_LANES_BITS, [0] * LANES))
        mask = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(found, mask), ir.Constant(mask, 0))

    return types.boolean(source, types.uint32), generate


@intrinsic
def look_up_lanes(
    typing_context: Any, count: Any, at: Any, table: Any, offset: Any, first: Any, slope: Any, sums: Any
) -> Any:
    """Look up the scores of `LANES` pixels, add each to its partial sum, and write their slopes.

    Args:
        count: float32, contiguous.
        at: uint32, index of the first pixel, in count as in slope.
        table: float32 [4 segments], contiguous, see `likelihood.ScoreTable`; a segment is fetched whole.
        offset: float32, its offset.
        first: int32, upper bits of the offset.
        slope: float32, contiguous, written to.
        sums: float32 [LANES], added to.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count, at, table, offset, first, slope, sums = args
        counts, entries, slopes, lanes = (signature.args[i] for i in (0, 2, 5, 6))
        shifted = builder.fadd(
            builder.load(_place(context, builder, counts, count, at, _LANES_FLOAT), align=4),
            _all(builder, offset, _LANES_FLOAT),
        )
        bits = builder.bitcast(shifted, _LANES_BITS)
        segments = builder.sub(_with_all(builder.ashr, bits, 16), _all(builder, first, _LANES_BITS))
        places = _with_all(builder.shl, segments, 2)
        fraction = builder.fmul(
            builder.sitofp(_with_all(builder.and_, bits, 0xFFFF), _LANES_FLOAT),
            ir.Constant(_LANES_FLOAT, [2.0**-16] * LANES),
        )
        fetched = [
            builder.load(
                _place(context, builder, entries, table, builder.extract_element(places, ir.Constant(_INDEX, i))),
                align=4,
            )
            for i in range(LANES)
        ]
        score, score_step, pixel_slope, slope_step = _columns(builder, fetched)
        place = _place(context, builder, slopes, slope, at, _LANES_FLOAT)
        builder.store(builder.fadd(pixel_slope, builder.fmul(fraction, slope_step)), place, align=4)
        place = _place(context, builder, lanes, sums, ir.Constant(_INDEX, 0), _LANES_FLOAT)
        more = builder.fadd(score, builder.fmul(fraction, score_step))
        builder.store(builder.fadd(builder.load(place, align=4), more), place, align=4)
        return context.get_dummy_value()

    index = types.uint32
    return types.void(count, index, table, types.float32, types.int32, slope, sums), generate


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
def add_products(typing_context: Any, target: Any, places: Any, turn: Any, first: Any, u: Any, v: Any, w: Any) -> Any:
    """Add three numbers of each of four events, and their products, to sums: u (u, v, w, 1), then v (u, v, w, 1) and
    w (u, v, w, 1).

    Args:
        target: float64, contiguous.
        places: uint32, contiguous, for each event the index of the first of its twelve sums.
        turn: uint32; sums of the second event of four are so much further, of the third twice as much: none waits
            until another is added.
        first: uint32, index of the first event.
        u, v, w: float32, contiguous; their products are of float64.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, where, turn, first, *numbers = args
        x, y, z = (
            builder.load(_place(context, builder, kind, number, first), align=4)
            for kind, number in zip(signature.args[4:], numbers, strict=True)
        )
        rows = _turned(builder, x, y, z, _constant(1.0, 1.0, 1.0, 1.0))
        begins = builder.load(_place(context, builder, signature.args[1], where, first, _FOUR_INDICES), align=4)
        for i, row in enumerate(rows):
            wide = builder.fpext(row, _FOUR_DOUBLE)
            at = builder.extract_element(begins, ir.Constant(_INDEX, i))
            at = builder.add(at, builder.mul(turn, ir.Constant(_INDEX, i)))
            for number in range(3):
                place = _place(context, builder, signature.args[0], array, at, _FOUR_DOUBLE)
                more = builder.fmul(_mixed(builder, wide, wide, (number,) * 4), wide)
                builder.store(builder.fadd(builder.load(place, align=8), more), place, align=8)
                at = builder.add(at, ir.Constant(_INDEX, 4))
        return context.get_dummy_value()

    return types.void(target, places, types.uint32, types.uint32, u, v, w), generate


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
        columns = _turned(builder, a, b, c, d)[:3]
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


def _columns(builder: Any, rows: list[Any]) -> list[Any]:
    """The four columns of rows of four: each a vector as long as there are rows, which are a power of two."""
    turned = [_turned(builder, *rows[i : i + 4]) for i in range(0, len(rows), 4)]
    columns = []
    for parts in map(list, zip(*turned, strict=True)):
        while len(parts) > 1:
            both = tuple(range(2 * parts[0].type.count))
            parts = [_mixed(builder, *pair, both) for pair in zip(parts[::2], parts[1::2], strict=True)]
        columns.append(parts[0])
    return columns


def _turned(builder: Any, a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any, Any, Any]:
    """The columns of four rows of four."""
    low, high = _mixed(builder, a, b, (0, 4, 1, 5)), _mixed(builder, c, d, (0, 4, 1, 5))
    last, end = _mixed(builder, a, b, (2, 6, 3, 7)), _mixed(builder, c, d, (2, 6, 3, 7))
    first, second = _mixed(builder, low, high, (0, 1, 4, 5)), _mixed(builder, low, high, (2, 3, 6, 7))
    return first, second, _mixed(builder, last, end, (0, 1, 4, 5)), _mixed(builder, last, end, (2, 3, 6, 7))


def _with_all(operation: Any, bits: Any, number: int) -> Any:
    """An operation of integers, with one number for all lanes."""
    return operation(bits, ir.Constant(_LANES_BITS, [number] * LANES))


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any, vector: Any = _FOUR) -> Any:
    """Pointer to four floats of an array, or to another vector."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [builder.zext(index, ir.IntType(64))]), vector.as_pointer())


def _all(builder: Any, value: Any, vector: Any = _FOUR) -> Any:
    """A vector of one value."""
    nothing = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(_INDEX, 0))
    return _mixed(builder, one, nothing, (0,) * vector.count)


def _mixed(builder: Any, first: Any, second: Any, chosen: tuple[int, ...]) -> Any:
    """Some of the elements of two vectors."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_INDEX, len(chosen)), list(chosen)))


def _constant(*values: float) -> Any:
    return ir.Constant(_FOUR, list(values))
