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

NO_STRENGTH = {
    "baseline": "it is the plain model, whose answers every sweep has",
    "adaptvis": "its answers are in a sweep of scalingvis, from which `adaptvis tune` and replay_adaptvis take them",
    "calibrated": "its answers are in every sweep, to whose rows `adaptvis tune` fits it",
    "constant": "its constant is not a strength: it is the paper's control, and `adaptvis attention --constants` runs "
    "several",
    "dola": "what it subtracts always counts in full; beta and layers say which tokens and layers count",
    "yeshint": "its hint is a text",
}
"""The methods that a sweep cannot vary -> why."""

COEFFICIENTS = ("baseline", "scalingvis", "adaptvis", "calibrated")
"""Those whose strength is a coefficient on the image: below 1 it smooths, above 1 it sharpens."""

PAPER = ("baseline", "scalingvis", "adaptvis", "calibrated", "constant")
"""Those that a model is inspected for if none is named."""


IN_ENGINE = ("baseline", "scalingvis", "adaptvis")
"""Those that a serving engine runs too: coefficients on the image, chosen by the confidence alone."""


def method_class(name: str) -> type["Method"]:
    """Return the class of a method.

    Raises:
        ValueError: If no method has that name.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; there are: {', '.join(METHODS)}")
    found: type[Method] = pkgutil.resolve_name(METHODS[name])
    return found


def name_of(method: "Method") -> str:
    """Return the name of a method.

    Raises:
        ValueError: If it is not one of `METHODS`.
    """
    for name in METHODS:
        if method_class(name) is type(method):
            return name
    raise ValueError(f"{type(method).__name__} is not one of the methods {', '.join(METHODS)}")


def without_strength(name: str) -> str | None:
    """Return why a sweep cannot vary a method; None if it can.

    Raises:
        ValueError: If no method has that name.
    """
    if method_class(name).strength is not None:
        return None
    return NO_STRENGTH.get(name, "none of its hyper-parameters says how much")


def neutral_strength(name: str) -> float | None:
    """Return the strength under which a method's answers are those of the plain model; None if they never are.

    Raises:
        ValueError: If no method has that name.
    """
    from adaptvis_plugin.decoding import Calibrated, Method

    found = method_class(name)
    chooses = issubclass(found, Calibrated) or found.asked is not Method.asked
    return None if chooses else found.neutral


def hyper_parameters(name: str) -> tuple[str, ...]:
    """Return the names of a method's hyper-parameters, in the order of its constructor.

    Raises:
        ValueError: If no method has that name.
    """
    return tuple(field.name for field in dataclasses.fields(method_class(name)))  # type: ignore[arg-type]


def defaults(name: str) -> dict[str, Any]:
    """Return the default values of a method's hyper-parameters; those without one are left out.

    Raises:
        ValueError: If no method has that name.
    """
    fields = dataclasses.fields(method_class(name))  # type: ignore[arg-type]  # every method is a dataclass
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


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
