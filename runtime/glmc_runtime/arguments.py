"""Arguments of the Python interface, by kind.

What a caller plainly means becomes a plain Python value: numbers of NumPy and torch, arrays of
integers as token ids, a lone text as one prompt. Anything else is refused by name, with a code.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, TypeVar

from glmc_runtime.errors import GlmcError, RequestError

Kind = TypeVar("Kind")
_LONGEST = 60  # characters of a value that an error shows
_TEXTS = (bytes, bytearray, memoryview)


def shown(value: object) -> str:
    """A value as an error shows it: cut when long, and its kind where that is not plain."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a number of thousands of digits"
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    plain = value is None or isinstance(value, (bool, int, float, str, bytes))
    return text if plain else f"{text} of type {type(value).__name__}"


def integer(
    name: str,
    value: object,
    *,
    least: int | None = None,
    most: int | None = None,
    refuse: type[GlmcError] = RequestError,
) -> int:
    """An integer of any library; a truth value, a fraction and a text are none."""
    number = _index(value)
    if number is None:
        raise refuse(f"{name} is no integer", expected="an integer", found=shown(value))
    if (least is not None and number < least) or (most is not None and number > most):
        bounds = [f"at least {least}"] * (least is not None)
        bounds += [f"at most {most}"] * (most is not None)
        raise refuse(
            f"{name} is out of range",
            expected=", ".join(bounds),
            found=shown(number),
            remedy=f"set {name} to an integer that is {' and '.join(bounds)}",
        )
    return number


def real(name: str, value: object, *, refuse: type[GlmcError] = RequestError) -> float:
    """A finite number of any library, as a float."""
    number: float | None = None
    if isinstance(value, float):
        number = float(value)
    elif (whole := _index(value)) is not None:
        number = float(whole) if abs(whole) < 1 << 1000 else None
    elif _is_scalar(value) and not _is_truth(value):
        item = value.item()  # type: ignore[attr-defined]
        number = item if isinstance(item, float) else None
    if number is None or not math.isfinite(number):
        raise refuse(f"{name} is no finite number", expected="a number", found=shown(value))
    return number


def flag(name: str, value: object, *, refuse: type[GlmcError] = RequestError) -> bool:
    """True or False; a number or a text is neither."""
    if isinstance(value, bool):
        return value
    if _is_scalar(value) and _is_truth(value):
        return bool(value)
    raise refuse(f"{name} is neither True nor False", expected="a bool", found=shown(value))


def text(name: str, value: object, *, refuse: type[GlmcError] = RequestError) -> str:
    """A str."""
    if isinstance(value, str):
        return str(value)
    raise refuse(f"{name} is no text", expected="a str", found=shown(value))


def texts(name: str, value: object, *, refuse: type[GlmcError] = RequestError) -> tuple[str, ...]:
    """Several texts; a lone one is meant as one."""
    if isinstance(value, str):
        return (str(value),)
    items = items_of(name, value, "texts", refuse=refuse)
    return tuple(
        [text(f"{name}[{place}]", item, refuse=refuse) for place, item in enumerate(items)]
    )


def path(name: str, value: object, *, refuse: type[GlmcError] = RequestError) -> str:
    """A file name as a str: a text or a path object that holds one."""
    text = value
    if isinstance(value, os.PathLike):
        text = os.fspath(value)
    if isinstance(text, str) and "\0" not in text:
        return text
    raise refuse(f"{name} is no path", expected="a str or a pathlib.Path", found=shown(value))


def items_of(
    name: str, value: object, kind: str, *, refuse: type[GlmcError] = RequestError
) -> list[Any]:
    """The items of a list or of anything that is gone through in an order of its own."""
    wrong = isinstance(value, (str, *_TEXTS, Mapping, Set))
    if not wrong and hasattr(value, "tolist"):  # an array of NumPy, torch or the standard library
        try:
            value = value.tolist()
        except (RuntimeError, TypeError, ValueError):  # a tensor without values, or a sparse one
            wrong = True
    if wrong or not isinstance(value, Iterable):
        raise refuse(
            f"{name} is no list of {kind}", expected=f"a list of {kind}", found=shown(value)
        )
    return list(value)


def token_ids(name: str, value: object, *, refuse: type[GlmcError] = RequestError) -> list[int]:
    """Token ids as a list of int: a list, a range, or an array of integers with one dimension.

    Floats that are whole numbers count as ids, as a reader of JSON may give them.
    """
    ids = items_of(name, value, "token ids", refuse=refuse)
    if set(map(type, ids)) <= {int}:
        return ids
    return [_token_id(name, place, token, refuse) for place, token in enumerate(ids)]


def prompts_of(value: object) -> list[str | list[int]]:
    """Prompts as a list, each a text or the ids of one. A lone text, and a lone list or array of
    ids, is one prompt."""
    if isinstance(value, str):
        return [value]
    items = items_of("prompts", value, "prompts")
    if items and all([isinstance(item, float) or _index(item) is not None for item in items]):
        return [token_ids("the prompt", items)]
    return [
        str(item) if isinstance(item, str) else token_ids(f"prompt {number}", _prompt(number, item))
        for number, item in enumerate(items)
    ]


def _prompt(number: int, item: object) -> object:
    if isinstance(item, Mapping):
        raise RequestError(
            f"prompt {number} is a mapping",
            expected="a text or a list of token ids",
            found=shown(item),
            remedy="pass a chat as session.text.encode_chat(messages), and of a tokenizer's answer "
            "its input_ids",
        )
    return item


def _token_id(name: str, place: int, token: object, refuse: type[GlmcError]) -> int:
    index = _index(token)
    if index is None and isinstance(token, float) and token.is_integer():
        index = int(token)
    if index is None:
        raise refuse(
            f"{name} holds something that is no token id",
            place=f"item {place}",
            expected="an integer",
            found=shown(token),
        )
    return index


def _index(value: object) -> int | None:
    """The integer that a value is, whatever library made it; None for a truth value too."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    if hasattr(value, "dtype") and (not _is_scalar(value) or _is_truth(value)):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # a float of torch, a tensor without a value
        return None


def _is_scalar(value: object) -> bool:
    """Whether it is one number of an array library."""
    return hasattr(value, "dtype") and hasattr(value, "item") and getattr(value, "ndim", 1) == 0


def _is_truth(value: object) -> bool:
    return str(getattr(value, "dtype", "")).endswith(("bool", "bool_"))


def optional(kind: Callable[..., Kind], name: str, value: object, **how: Any) -> Kind | None:
    """None, or what ``kind`` makes of the value."""
    return None if value is None else kind(name, value, **how)


def device_name(name: str, value: object) -> str:
    """The name of a device: a text, or a torch.device."""
    import torch

    if isinstance(value, torch.device):
        first = value.type == "cpu" and value.index in (None, 0)
        return value.type if first else str(value)
    return text(name, value)


def function(name: str, value: object) -> Callable[..., object]:
    """What can be called."""
    if callable(value):
        return value
    raise RequestError(f"{name} can't be called", expected="a function", found=shown(value))


def tensors(name: str, value: object) -> Mapping[str, Any]:
    """Tensors by their names."""
    import torch

    if not isinstance(value, Mapping):
        raise RequestError(
            f"{name} are no mapping", expected="tensors by their names", found=shown(value)
        )
    for key, item in value.items():
        if not isinstance(item, torch.Tensor):
            raise RequestError(
                f"{name} hold something else than tensors", place=shown(key), found=shown(item)
            )
    return value


def pairs(name: str, value: object) -> Iterable[Any]:
    """Names with what they name, to be gone through once; a mapping has them too."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, Iterable) and not isinstance(value, (str, *_TEXTS)):
        return value
    raise RequestError(
        f"{name} are no pairs", expected="pairs of a name and a tensor", found=shown(value)
    )
