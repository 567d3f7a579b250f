"""What runs say: statistics of scores, and where a model's attention goes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptvis_plugin.attention.loaded import Attention, attention

__all__ = ["Attention", "attention"]


def __getattr__(name: str) -> Any:
    # On first use: it imports torch, and the statistics of traces need none.
    if name in __all__:
        from adaptvis_plugin.attention import loaded

        return getattr(loaded, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
