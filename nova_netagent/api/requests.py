"""What a request brings: its body within limits, its parameters known and single."""

from collections.abc import Callable, Mapping
from typing import Any

import falcon

from nova_netagent.api.wire import BadRequest
from nova_netagent.model.values import shown

Parse = Callable[[str], Any]

REVISION_MAX = 2**63 - 1


def read_body(req: falcon.Request, limit: int) -> bytes:
    """The body of a request, refused unread when it is too large.

    :param limit: the most bytes.
    :raises BadRequest: 411, 413 or 415, or it did not come whole; the caller's connection ends with the answer.
    """
    if req.get_header("Transfer-Encoding") is not None or req.content_length is None:
        raise BadRequest(None, "send the body with a Content-Length, not in chunks", 411)
    if req.content_length > limit:
        raise BadRequest(None, f"the body has {req.content_length} bytes, at most {limit} are taken here", 413)
    _require_json(req.content_type)
    coding = req.get_header("Content-Encoding")
    if coding is not None and coding.lower() != "identity":
        raise BadRequest(None, f"the body is said to be in {coding}; it is taken as it is, without an encoding", 415)
    try:
        data: bytes = req.bounded_stream.read(req.content_length)
    except TimeoutError:
        raise BadRequest(None, "the body did not come in time", 408) from None
    if len(data) < req.content_length:
        raise BadRequest(None, f"the body ended after {len(data)} of {req.content_length} bytes")
    return data


def _require_json(content_type: str | None) -> None:
    kind = (content_type or falcon.MEDIA_JSON).partition(";")[0].strip().lower()
    if kind != falcon.MEDIA_JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        raise BadRequest(None, f"the body is said to be {kind}; only {falcon.MEDIA_JSON} is taken", 415)


def parameters(req: falcon.Request, allowed: Mapping[str, Parse] | None = None) -> dict[str, Any]:
    """The query parameters, parsed.

    :param allowed: the known ones, each with its parser, which raises ``ValueError`` with what is allowed.
    :raises BadRequest: one is unknown, given twice or wrong.
    """
    allowed = allowed or {}
    found = {}
    for name, text in req.params.items():
        if name not in allowed:
            takes = f"takes {', '.join(sorted(allowed))}" if allowed else "takes none"
            raise BadRequest(name, f"is not a parameter of this call, which {takes}")
        if not isinstance(text, str):
            raise BadRequest(name, "is given twice")
        try:
            found[name] = allowed[name](text)
        except ValueError as error:
            raise BadRequest(name, str(error)) from None
    return found


def boolean(text: str) -> bool:
    """``true`` or ``false``."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{shown(text)} is not true or false")
    return text.lower() == "true"


def integer(low: int, high: int) -> Callable[[str], int]:
    """A parser of decimal integers within bounds."""

    def parse(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else -1
        if not low <= value <= high:
            raise ValueError(f"{shown(text)} is not an integer from {low} to {high}")
        return value

    return parse


def one_of(*values: str) -> Callable[[str], str]:
    """A parser that takes one of some words."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"{shown(text)} is not one of {', '.join(values)}")
        return text

    return parse
