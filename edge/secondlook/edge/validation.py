"""How settings are checked: by their types, when they are made, with one way to say what is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .errors import SecondLookError, SettingsError

__all__ = ["from_json", "told", "validated"]

ValueT = TypeVar("ValueT")

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    @dataclass_transform()
    def validated(
        *, frozen: Literal[True], raises: type[SecondLookError] = SettingsError
    ) -> Callable[[type[ValueT]], type[ValueT]]: ...

else:

    def validated(*, frozen, raises=SettingsError):
        """A dataclass decorator: what is made of the class is checked by its types, and never changes.

        Args:
            raises: for a value of another type or out of its range; it shows the value unless the field's own
                `repr` does not (a secret). Rules that span several fields are for `__post_init__`, which
                raises it too.
        """

        def decorate(cls):
            made = dataclass(cls, frozen=frozen, config=_STRICT)
            check = made.__init__
            secret = {name for name, field in made.__dataclass_fields__.items() if not field.repr}

            @wraps(check)
            def init(self, *args, **kwargs):
                try:
                    check(self, *args, **kwargs)
                except ValidationError as error:
                    raise raises(told(error, made.__dataclass_fields__, secret)) from None

            made.__init__ = init
            return made

        return decorate


def from_json(kind: type[ValueT], text: str | bytes) -> ValueT:
    """A dataclass or model of pydantic's from JSON.

    Raises:
        SettingsError: it is no JSON, or not of this kind; the message names every field that is wrong.
    """
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise SettingsError(told(error, inspect.signature(kind).parameters)) from error


def told(error: ValidationError, names: Iterable[str], secret: Container[str] = ()) -> str:
    """What is wrong, in one line: each field with its value and what is possible.

    Args:
        names: of the fields, in the order of positional arguments.
        secret: those whose values are not shown.
    """
    known = list(names)
    return "; ".join(_told(one, known, secret) for one in error.errors(include_url=False))


def _told(one: Any, known: list[str], secret: Container[str]) -> str:
    first, *others = one["loc"] or ("",)
    if isinstance(first, int) and first < len(known):
        first = known[first]
    name, message = ".".join(map(str, (first, *others))), one["msg"].removeprefix("Value error, ")
    if "missing" in one["type"]:
        return f"{name} is missing"
    if one["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"unknown key {name}" + ("" if others else f"; known are {', '.join(known)}")
    if not name:  # of the whole
        return str(message)
    ours = f"{name}{message[5:]}" if message.startswith("Input ") else f"{name}: {message}"
    return ours if first in secret else f"{ours}, not {one['input']!r}"
