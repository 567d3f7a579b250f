"""How every subcommand reports an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

console = Console(stderr=True)
"""Standard error, also for progress bars and logs."""


@contextmanager
def reported(*kinds: type[Exception], status: int = 1) -> Iterator[None]:
    """Print expected errors without a traceback, and exit.

    Args:
        *kinds: The classes of the expected errors.
        status: The exit status.

    Raises:
        typer.Exit: If one of them was raised.
    """
    try:
        yield
    except kinds as error:
        tell("error", str(error))
        raise typer.Exit(status) from error


def tell(what: str, message: str) -> None:
    """Print a message to standard error as ``what: message``, in one piece and without markup."""
    console.print(f"[red]{what}:[/red] {escape(printable(message))}", emoji=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Return text of others without what a terminal would obey: every control character but the end of a line."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
