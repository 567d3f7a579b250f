"""Which methods an engine can run."""

from adaptvis_plugin.decoding import Method
from adaptvis_plugin.methods import IN_ENGINE, name_of


def check_method(method: Method) -> None:
    """Check that an engine can decode under a method.

    Raises:
        ValueError: If it cannot.
    """
    name = name_of(method)
    if name not in IN_ENGINE:
        raise ValueError(
            f"{name} needs more of the model than an engine gives; there are {', '.join(IN_ENGINE)}. Use it without "
            f"the engine: vlm_{name}"
        )
    check_gate(getattr(method, "gate", None))


def check_gate(gate: str | None) -> None:
    """Raise ValueError unless an engine can decide by a gate of AdaptVis."""
    if gate not in (None, "confidence"):
        raise ValueError(
            f"gate={gate!r} needs all logits of the first token, and the engine gives that of the likeliest one; use "
            "gate=confidence, or the method without the engine (vlm_adaptvis)"
        )
