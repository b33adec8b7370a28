"""Native values and machinery's 29 types.

What Python has of its own goes as it is:

    bool        bool            list of bool    []bool
    int         int64           list of int     []int64
    float       float64         list of float   []float64
    str         string          list of str     []string
    bytes       []byte

An int over int64's range that fits uint64 goes as that, and so does a list with
such a one. For any other type, and for an empty list, there is typed(). Results
come back as bool, int, float, str, bytes and lists of these.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Iterable

from penstock.v1 import messages_pb2 as pb

_INT64 = range(-(2**63), 2**63)
_UINT64 = range(0, 2**64)

_INTS = ("int", "int8", "int16", "int32", "int64")
_UINTS = ("uint", "uint8", "uint16", "uint32", "uint64")
_FLOATS = ("float32", "float64")
_SCALARS = ("bool", *_INTS, *_UINTS, *_FLOATS, "string")
_BYTES = ("[]byte", "[]uint8")

TYPES = (*_SCALARS, *("[]" + name for name in _SCALARS), "[]byte")


@dataclasses.dataclass(frozen=True)
class Typed:
    """A value of one of machinery's types; typed() makes it."""

    type: str
    value: Any


def typed(type: str, value: Any) -> Typed:  # pylint: disable=redefined-builtin
    """`value` as one of machinery's types, such as "int8" or "[]float32".

    Raises ValueError for a name that is none of the 29 or a whole number that no
    64 bits hold, and TypeError for a value of another kind. Whether an int8 is one
    is for the gateway to say, which names the argument.
    """
    result = Typed(type, value)
    to_message(result)
    return result


def to_message(value: Any) -> pb.Value:
    """The message of an argument. Raises TypeError or ValueError, see above."""
    if isinstance(value, Typed):
        return _typed_message(value.type, value.value)
    if isinstance(value, (list, tuple)):
        return _list_message(list(value))
    if isinstance(value, bool):
        return pb.Value(bool_value=value)
    if isinstance(value, int):
        if value in _INT64:
            return pb.Value(int_value=value)
        return pb.Value(uint_value=_in_range(value, _UINT64))
    if isinstance(value, float):
        return pb.Value(float_value=value)
    if isinstance(value, str):
        return pb.Value(string_value=value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return pb.Value(bytes_value=bytes(value))
    raise TypeError(
        f"{_shown(value)} cannot be an argument: it is a {type(value).__name__}, "
        "not a bool, int, float, str, bytes, or a list of one of these")


def from_message(value: pb.Value) -> Any:
    """The native value of a result."""
    kind = value.WhichOneof("kind")
    if kind is None:
        return None
    content = getattr(value, kind)
    return list(content.values) if kind in _LISTS else content


def result_of(results: Iterable[pb.Value]) -> Any:
    """What a task returned: None, the one value, or a tuple of several."""
    values = tuple(map(from_message, results))
    if not values:
        return None
    return values[0] if len(values) == 1 else values


_LISTS = {
    "bools": pb.BoolList,
    "ints": pb.IntList,
    "uints": pb.UintList,
    "floats": pb.FloatList,
    "strings": pb.StringList,
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _in_range(value: int, allowed: range) -> int:
    if value not in allowed:
        raise ValueError(
            f"{_shown(value)} is not between {allowed.start} and {allowed.stop - 1}")
    return value


def _list_message(values: list[Any]) -> pb.Value:
    if not values:
        raise ValueError(
            "an empty list has no type: say typed(\"[]int64\", []), or []string, ...")
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"the elements of {_shown(values)} are of several types: {names}")
    first = values[0]
    if isinstance(first, bool):
        return _typed_message("[]bool", values)
    if isinstance(first, int):
        fits = all(value in _INT64 for value in values)
        return _typed_message("[]int64" if fits else "[]uint64", values)
    if isinstance(first, float):
        return _typed_message("[]float64", values)
    if isinstance(first, str):
        return _typed_message("[]string", values)
    raise TypeError(f"a list of {type(first).__name__} cannot be an argument")


def _typed_message(name: str, value: Any) -> pb.Value:
    if name not in TYPES:
        raise ValueError(f"{name!r} is none of machinery's types: {', '.join(TYPES)}")
    if name in _BYTES:
        # A str would be turned down, a number would be so many zeroes.
        if isinstance(value, int):
            raise TypeError(f"{_shown(value)} is not bytes, as {name} wants")
        return pb.Value(type=name, bytes_value=bytes(value))
    if name.startswith("[]"):
        if isinstance(value, (str, bytes)):
            raise TypeError(f"{_shown(value)} is not a list, as {name} wants")
        kind, read = _SCALAR_KINDS[name[2:]]
        values = [read(element, name[2:]) for element in value]
        field = kind[: -len("_value")] + "s"
        return pb.Value(type=name, **{field: _LISTS[field](values=values)})
    kind, read = _SCALAR_KINDS[name]
    return pb.Value(type=name, **{kind: read(value, name)})


def _read_bool(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{_shown(value)} is not a bool, as {name} wants")
    return value


def _read_int(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{_shown(value)} is not an int, as {name} wants")
    return _in_range(value, _INT64 if name in _INTS else _UINT64)


def _read_float(value: Any, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{_shown(value)} is not a number, as {name} wants")
    return float(value)


def _read_str(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{_shown(value)} is not a str, as {name} wants")
    return value


_SCALAR_KINDS: dict[str, tuple[str, Any]] = {
    "bool": ("bool_value", _read_bool),
    "string": ("string_value", _read_str),
    **{name: ("int_value", _read_int) for name in _INTS},
    **{name: ("uint_value", _read_int) for name in _UINTS},
    **{name: ("float_value", _read_float) for name in _FLOATS},
}
