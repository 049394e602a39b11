"""Strict JSON to frozen dataclasses and back. Errors name the field and never repeat its value."""

import dataclasses
import json
import math
import types
from collections.abc import Hashable
from functools import cache
from typing import Any, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from .errors import invalid

T = TypeVar("T")
Scalar = str | int | float | bool
_SCALARS = (str, int, float, bool)


def loads(body: bytes) -> Any:
    """Parse a JSON body: UTF-8, finite numbers only, bounded nesting.

    Raises:
        QuarryError: `invalid_request`, saying which of these it breaks.
    """
    if not body.strip():
        raise invalid("the body is empty: send a JSON object")
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise invalid("the body is not UTF-8") from None
    except RecursionError:
        raise invalid("the body is nested too deeply") from None
    except ValueError:
        raise invalid("the body is not valid JSON") from None


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("not JSON")


def decode(cls: type[T], data: Any, path: str = "") -> T:
    """Build dataclass `cls` from a JSON object, checking every name and type.

    Raises:
        QuarryError: `invalid_request`, naming the field.
    """
    if not isinstance(data, dict):
        raise invalid(f"{path or 'the body'} must be a JSON object")
    known = _fields(cast(Hashable, cls))
    if len(data) > len(known) or not data.keys() <= known.keys():
        raise invalid(f"{path or 'the body'} has an unknown field: it takes {', '.join(known)}")
    values = {}
    for name, (hint, required) in known.items():
        where = f"{path}.{name}" if path else name
        if name in data:
            values[name] = _value(hint, data[name], where)
        elif required:
            raise invalid(f"{where} is missing")
    return cls(**values)


@cache
def _fields(cls: Any) -> dict[str, tuple[Any, bool]]:
    """Field name -> (type, required)."""
    hints = get_type_hints(cls)
    missing = dataclasses.MISSING
    return {f.name: (hints[f.name], f.default is missing and f.default_factory is missing) for f in dataclasses.fields(cls)}


@cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Its origin and arguments, as typing tells them, which takes longer than all else here."""
    return get_origin(hint), get_args(hint)


def _value(hint: Any, value: Any, path: str) -> Any:
    if hint in _SCALARS:
        return _scalar(hint, value, path)
    origin, arguments = _parts(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _union(arguments, value, path)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise invalid(f"{path} must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise invalid(f"{path} must be a list")
        return tuple(_value(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise invalid(f"{path} must be an object")
        return {text(key, f"{path} key"): _value(arguments[1], item, f"{path} value") for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, value, path)
    return _scalar(hint, value, path)


def _union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(o for o in options if o is not type(None))
    for option in options:
        plain = _parts(option)[0] or option
        wanted = list if plain is tuple else dict if dataclasses.is_dataclass(plain) else plain
        if type(value) is wanted or (wanted is float and type(value) is int and int not in options):
            return _value(option, value, path)
    raise invalid(f"{path} has the wrong type")


def _scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is str:
        return text(value, path)
    if hint is bool:
        if not isinstance(value, bool):
            raise invalid(f"{path} must be true or false")
        return value
    # JSON has one kind of number, and SeldonClient sends them all as doubles: 3.0 is a whole number.
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (hint is int and not isinstance(value, int)):
        raise invalid(f"{path} must be {'a whole number' if hint is int else 'a number'}")
    try:
        if not math.isfinite(value):
            raise invalid(f"{path} must be finite")
        return hint(value)
    except OverflowError:
        raise invalid(f"{path} is too large") from None


def text(value: Any, path: str) -> str:
    """A string that can be sent as UTF-8 (no lone surrogates)."""
    if not isinstance(value, str):
        raise invalid(f"{path} must be a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise invalid(f"{path} is not valid Unicode (a lone surrogate)") from None
    return value


def encode(message: Any) -> dict[str, Any]:
    """The JSON object of a dataclass, without fields that are None."""
    return {name: _plain(v) for name in _names(message.__class__) if (v := getattr(message, name)) is not None}


@cache
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


def _plain(value: Any) -> Any:
    if type(value) in _SCALARS:  # most are: asked first, as whether it is a dataclass takes longer
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return encode(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


class Message:
    """Base of every message: `from_dict` is strict, `to_dict` leaves out what is None."""

    @classmethod
    def from_dict(cls: type[T], data: Any) -> T:
        """Decode and check; raises QuarryError (`invalid_request`)."""
        return decode(cls, data)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return encode(self)
