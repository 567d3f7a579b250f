"""The list of methods by name, without importing torch: a new method is one file in `decoding/` and one line here."""

import dataclasses
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptvis_plugin.decoding import Method

METHODS = {
    "baseline": "adaptvis_plugin.decoding.baseline:Baseline",
    "scalingvis": "adaptvis_plugin.decoding.scaling_vis:ScalingVis",
    "adaptvis": "adaptvis_plugin.decoding.adaptvis:AdaptVis",
}


def method_class(name: str) -> type["Method"]:
    """Return the class of a method.

    Raises:
        ValueError: If no method has that name.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; there are: {', '.join(METHODS)}")
    found: type[Method] = pkgutil.resolve_name(METHODS[name])
    return found


def hyper_parameters(name: str) -> tuple[str, ...]:
    """Return the names of a method's hyper-parameters, in the order of its constructor.

    Raises:
        ValueError: If no method has that name.
    """
    return tuple(field.name for field in dataclasses.fields(method_class(name)))  # type: ignore[arg-type]


def build_method(name: str, values: Mapping[str, Any]) -> "Method":
    """Return a method from its name and all its hyper-parameters.

    Raises:
        ValueError: If the name is unknown, a hyper-parameter is missing or unknown, or the method refuses a value.
    """
    wanted = hyper_parameters(name)
    if set(values) != set(wanted):
        given = ", ".join(values) or "none"
        raise ValueError(f"{name} takes {', '.join(wanted) or 'no hyper-parameters'}; got {given}")
    return method_class(name)(**values)
