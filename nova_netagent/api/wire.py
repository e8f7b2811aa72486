"""JSON to model and back: the one place where what a sender wrote is judged.

Whatever the bytes are, either a valid object comes out or one ``BadRequest`` that names
the field and says what is allowed there. What came over RPC goes the same way from
builtins on.
"""

import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import msgspec

from nova_netagent.api.fields import Path, allowed, fields_at, shown
from nova_netagent.explain.question import Question
from nova_netagent.model import KINDS, FloatingIP, Invalid, Object, State, document, values
from nova_netagent.status import Status

T = TypeVar("T", bound=Object | State | Question)

_MISSING = "Object missing required field "
_UNKNOWN = "Object contains unknown field "

_CANONICAL: dict[str, Callable[[str], str]] = {FloatingIP.KIND: values.host_ipv4}
"""What an id is, where it is not a UUID."""


class BadRequest(Exception):
    """What was sent cannot be meant.

    :ivar field: the field at fault, dotted and indexed below the body (``rules[3].protocol``), or a query
        parameter; ``None`` when it is the request as a whole.
    :ivar message: the reason, for a person.
    :ivar code: the HTTP status.
    """

    def __init__(self, field: str | None, message: str, code: int = 400) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message
        self.code = code


def decode_object(kind: str, id_: str, data: bytes) -> Object:
    """The object that a PUT describes.

    :param kind: a key of ``model.KINDS``.
    :param id_: the path's id; the body may leave its own out, and must not contradict.
    :raises BadRequest: the bytes are no JSON, or not a valid object of the kind.
    """
    return convert_object(kind, parse(data), id_)


def decode_state(data: bytes) -> State:
    """The whole desired state.

    :raises BadRequest: the bytes are no JSON, or one of the objects is not valid.
    """
    return convert_state(parse(data))


def decode_question(data: bytes) -> Question:
    """The packet that is asked about.

    :raises BadRequest: the bytes are no JSON, or say no packet.
    """
    return _convert(parse(data), Question)


def convert_object(kind: str, value: object, id_: str | None = None) -> Object:
    """As ``decode_object``, from builtins. Without ``id_`` the body has to bring its own."""
    if id_ is not None:
        id_ = canonical_id(kind, id_)
        if isinstance(value, dict):
            value = _with_id(kind, value, id_)
    return _convert(value, KINDS[kind])


def convert_state(value: object) -> State:
    """As ``decode_state``, from builtins."""
    return _convert(value, State)


def canonical_id(kind: str, id_: str) -> str:
    """An id as objects of the kind carry it.

    :raises BadRequest: no object of the kind can have it.
    """
    try:
        return _CANONICAL.get(kind, values.uuid)(id_)
    except ValueError as error:
        raise BadRequest("id", str(error)) from None


def described(item: Object, status: Status | None) -> dict[str, Any]:
    """An object as it is answered: its document and how it fares."""
    body = document(item)
    assert isinstance(body, dict)
    return body if status is None else {**body, "status": status}


encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
"""An answer as JSON."""


def _with_id(kind: str, body: dict[Any, Any], id_: str) -> dict[Any, Any]:
    given = body.get("id", id_)
    if not isinstance(given, str):
        return body  # the model says what is wrong with it
    if canonical_id(kind, given) != id_:
        raise BadRequest("id", f"{shown(given)} is not the id in the path, {shown(id_)}")
    return {**body, "id": given}


# --- JSON


def parse(data: bytes) -> object:
    """Strict JSON as builtins: UTF-8, no key twice, no NaN, no lone surrogate.

    :raises BadRequest: it is not that.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(None, f"the body is not UTF-8: byte 0x{data[error.start]:02x} at {error.start}") from None
    try:
        return _parse(text)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise BadRequest(None, "the body is empty") from None
        where = f"line {error.lineno}, column {error.colno}"
        raise BadRequest(None, f"the body is not JSON: {error.msg}, at {where}") from None
    except RecursionError:
        raise BadRequest(None, "the body is nested too deeply") from None
    except ValueError:  # CPython's limit to the digits of an int; no field takes more than 19
        raise BadRequest(None, "the body has a number of more than 4300 digits") from None


def _parse(text: str) -> object:
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except _TwiceError:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
        where = _given_twice(pairs, Path())
        raise BadRequest(where and where[: values.SHOWN], "the key is given twice in one object") from None
    if "\\u" in text:
        _refuse_surrogates(value)
    return value


class _TwiceError(Exception):
    """A key stands twice in one object."""


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written, repeated keys and all."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


def _given_twice(value: object, path: Path) -> str | None:
    """Where the first repeated key stands."""
    if isinstance(value, _Pairs):
        seen = set()
        for key, each in value:
            if key in seen:
                return str(path / key)
            seen.add(key)
            found = _given_twice(each, path / key)
            if found is not None:
                return found
    elif isinstance(value, list):
        for index, each in enumerate(value):
            found = _given_twice(each, path / index)
            if found is not None:
                return found
    return None


def _no_constant(name: str) -> NoReturn:
    raise BadRequest(None, f"the body is not JSON: {name} is no number of JSON's")


def _refuse_surrogates(value: object) -> None:
    """Half of a UTF-16 pair is no character: it could be neither stored nor answered."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRequest(None, "the body has an unpaired surrogate (\\ud800 to \\udfff) in a string") from None


# --- model


def _convert(value: object, cls: type[T]) -> T:
    try:
        return msgspec.convert(value, cls)
    except msgspec.ValidationError as error:
        raise _refusal(error, value, cls) from None
    except (UnicodeError, RecursionError, OverflowError) as error:
        raise BadRequest(None, f"the body cannot be read: {error}") from None


def _refusal(error: msgspec.ValidationError, value: object, cls: type) -> BadRequest:
    """One of msgspec's errors in our words."""
    text, path = _split(str(error))
    cause = error.__cause__
    if isinstance(cause, Invalid):
        return BadRequest(str(path / cause.field), cause.reason)
    if text.startswith(_MISSING):
        return BadRequest(str(path / text.removeprefix(_MISSING).strip("`")), "is required")
    if text.startswith(_UNKNOWN):
        name = text.removeprefix(_UNKNOWN).strip("`")
        known = ", ".join(fields_at(cls, path))
        return BadRequest(str(path / name)[: values.SHOWN], f"is not a field here; these are: {known}")
    if not path:
        return BadRequest(None, f"the body is {shown(value)}, not {allowed(cls, path)}")
    return BadRequest(str(path), f"{shown(path.of(value))} is not {allowed(cls, path)}")


def _split(text: str) -> tuple[str, Path]:
    """Msgspec's reason and its path, which it writes as ``- at `$.rules[1].id```."""
    reason, found, where = text.rpartition(" - at `$")
    return (reason, Path.parse(where)) if found else (text, Path())
