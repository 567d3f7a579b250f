"""The hooks that act on the first forward pass of a `generate` call, and leave other threads' passes alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel


def in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Restrict a hook to the current thread: a model calls its hooks in every thread that uses it."""
    owner = threading.get_ident()

    def restricted(*arguments: Any) -> Any:
        return hook(*arguments) if threading.get_ident() == owner else None

    return restricted


@contextmanager
def around_first_pass(
    model: PreTrainedModel,
    before: Callable[[dict[str, Any]], dict[str, Any] | None],
    after: Callable[[Any], None] = lambda output: None,
    later: Callable[[Any], None] = lambda output: None,
) -> Iterator[None]:
    """Call functions around the model's forward passes that this thread makes inside the block.

    Args:
        model: The model.
        before: Called before the first pass, with its keyword arguments. May return others.
        after: Called after the first pass, with its output, or None if the pass raised.
        later: Called after every later pass, as `after`.
    """
    passes = 0

    @in_this_thread
    def enter(module: Any, arguments: Any, options: dict[str, Any]) -> Any:
        nonlocal passes
        passes += 1
        changed = before(options) if passes == 1 else None
        return None if changed is None else (arguments, changed)

    @in_this_thread
    def leave(module: Any, arguments: Any, output: Any) -> None:
        if passes == 1:
            after(output)
        else:
            later(output)

    hooks = [
        model.register_forward_pre_hook(enter, with_kwargs=True),
        model.register_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
