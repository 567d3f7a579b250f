"""Values as a user writes them, and what the user reads where one is wrong."""

import contextlib
import difflib
from collections.abc import Iterable, Mapping
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def parse_value(text: str) -> Any:
    """Return a number or a truth value for a text that looks like one, else the text.

    Not by YAML's rules: to them `no` is false, `1:30` is 90 and `1e-1` is text.
    """
    known = {"true": True, "True": True, "false": False, "False": False, "None": None}
    if text in known:
        return known[text]
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def parse_texts(value: Any) -> Any:
    """Return a value with every text in it replaced as `parse_value` does, in mappings at any depth."""
    if isinstance(value, Mapping):
        return {name: parse_texts(one) for name, one in value.items()}
    return parse_value(value) if isinstance(value, str) else value


def positive(name: str, value: Any) -> int:
    """Return a whole number of at least 1, given as a number or as text.

    Raises:
        ValueError: If it is not one.
    """
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or str(number) != str(value):
        raise ValueError(f"{name}={value!r}: give a whole number of at least 1")
    return number


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the known one that is most like it, if any is."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f". Did you mean {near[0]}?" if near else ""


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return what is wrong with each wrong value: the value, and its field's description as the rule.

    Args:
        error: What pydantic found.
        model: The class it was found in. Every field has a description that can follow the word "give".
    """
    found = [_explain(one, model) for one in error.errors() if one["type"] != "default_factory_not_called"]
    return "; ".join(dict.fromkeys(found))


def _explain(error: "ErrorDetails", model: type[BaseModel]) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])  # from a validator of ours, which names the value itself
    fields = ", ".join(model.model_fields)
    given = shorten(repr(error["input"]), 60)
    if not error["loc"]:
        return f"{given} is not a mapping; give {fields}"
    field, place = str(error["loc"][0]), ".".join(map(str, error["loc"]))
    if field not in model.model_fields:
        return f"unknown key {field}={given}; there are {fields}{did_you_mean(field, model.model_fields)}"
    rule = str(model.model_fields[field].description).replace("`", "")
    return f"give {field}: {rule}" if error["type"] == "missing" else f"{place}={given}: give {rule}"
