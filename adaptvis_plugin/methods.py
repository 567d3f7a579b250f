"""The list of methods by name, without importing torch: a new one is a file in `decoding/methods/` and a line here."""

import dataclasses
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptvis_plugin.decoding import Method

METHODS = {
    "baseline": "adaptvis_plugin.decoding.methods.baseline:Baseline",
    "scalingvis": "adaptvis_plugin.decoding.methods.scaling_vis:ScalingVis",
    "adaptvis": "adaptvis_plugin.decoding.methods.adaptvis:AdaptVis",
    "calibrated": "adaptvis_plugin.decoding.methods.calibrated:Calibrated",
    "constant": "adaptvis_plugin.decoding.methods.added_constant:AddedConstant",
    "vcd": "adaptvis_plugin.decoding.methods.vcd:VCD",
    "icd": "adaptvis_plugin.decoding.methods.icd:ICD",
    "m3id": "adaptvis_plugin.decoding.methods.m3id:M3ID",
    "pai": "adaptvis_plugin.decoding.methods.pai:PAI",
    "vaf": "adaptvis_plugin.decoding.methods.vaf:VAF",
    "headsguided": "adaptvis_plugin.decoding.methods.heads_guided:HeadsGuided",
    "dola": "adaptvis_plugin.decoding.methods.dola:DoLa",
    "deco": "adaptvis_plugin.decoding.methods.deco:DeCo",
    "sla": "adaptvis_plugin.decoding.methods.sla:SLA",
    "yeshint": "adaptvis_plugin.decoding.methods.yes_hint:YesHint",
    "yesbias": "adaptvis_plugin.decoding.methods.yes_bias:YesBias",
}

PAPER = ("baseline", "scalingvis", "adaptvis", "calibrated", "constant")
"""Those that a model is inspected for if none is named."""


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


def only_in_presets(name: str) -> tuple[str, ...]:
    """Return those hyper-parameters of a method that are mappings: a preset can hold them, a command line cannot.

    Raises:
        ValueError: If no method has that name.
    """
    fields = dataclasses.fields(method_class(name))  # type: ignore[arg-type]  # every method is a dataclass
    return tuple(field.name for field in fields if field.default_factory is dict)


def build_method(name: str, values: Mapping[str, Any]) -> "Method":
    """Return a method from its name and all the hyper-parameters that it needs.

    Raises:
        ValueError: If the name is unknown, a hyper-parameter is missing or unknown, or the method refuses a value.
    """
    wanted, lacking = hyper_parameters(name), method_class(name).lacking(values)
    if lacking or not set(values) <= set(wanted):
        given = ", ".join(values) or "none"
        more = f"; give {', '.join(lacking)}" if lacking else ""
        raise ValueError(f"{name} takes {', '.join(wanted) or 'no hyper-parameters'}; got {given}{more}")
    return method_class(name)(**values)
