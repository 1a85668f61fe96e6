"""Whether an ONNX graph keeps weights in another file, read off its bytes: the package onnx need not be there."""

from collections.abc import Iterator

# Of onnx.proto: where messages hold others in which there may be tensors, by the number of the field.
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DATA_LOCATION, _EXTERNAL = 14, 1  # of a tensor
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


def has_weights_elsewhere(graph: bytes) -> bool:
    """Whether a tensor's values are in another file; no, of bytes that are no graph."""
    try:
        return _is_elsewhere(memoryview(graph), "model")
    except (IndexError, ValueError):
        return False


def _is_elsewhere(message: memoryview, kind: str) -> bool:
    if kind == "tensor":
        return (_DATA_LOCATION, _EXTERNAL) in _fields(message)
    return any(
        isinstance(value, memoryview) and number in _INSIDE[kind] and _is_elsewhere(value, _INSIDE[kind][number])
        for number, value in _fields(message)
    )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number of each field of a protobuf message and its value, but for numbers of fixed length."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, value
        elif wire == _BYTES:
            length, place = _varint(message, place)
            yield number, message[place : place + length]
            place += length
        elif wire in (_FIXED_32, _FIXED_64):
            place += 4 if wire == _FIXED_32 else 8
        else:
            raise ValueError(f"no protobuf: a field of the kind {wire}")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number of 64 bits at most, and the place behind it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
    raise ValueError("no protobuf: a number without an end")
