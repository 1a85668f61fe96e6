"""Several bytes of an array at once, from any place: numba's views of slices cost more than what they would save.

No bound is checked here. That is left to those who call, who know how far they may go.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _loading(width: int) -> Callable[..., Any]:
    @intrinsic
    def load(typingctx, data, at):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            place = _place(context, builder, signature.args[0], arguments[0], arguments[1], width)
            number = builder.load(place, align=1)
            return number if width == 8 else builder.zext(number, ir.IntType(64))

        return types.int64(data, types.int64), generate

    return load


load1, load2, load4, load8 = _loading(1), _loading(2), _loading(4), _loading(8)  # so many bytes as int64: (data, at)


def _copying(width: int) -> Callable[..., Any]:
    @intrinsic
    def copy(typingctx, out, to, data, at):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            source = _place(context, builder, signature.args[2], arguments[2], arguments[3], width)
            target = _place(context, builder, signature.args[0], arguments[0], arguments[1], width)
            builder.store(builder.load(source, align=1), target, align=1)
            return context.get_dummy_value()

        return types.void(out, types.int64, data, types.int64), generate

    return copy


copy8, copy16 = _copying(8), _copying(16)  # of so many bytes: (out, to, data, at)


def _place(context, builder, kind, array, at, width: int):
    start = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(start, [at]), ir.IntType(8 * width).as_pointer())
