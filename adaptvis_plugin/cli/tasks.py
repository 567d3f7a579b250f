"""``adaptvis tasks``: the lmms-eval tasks of this package."""

from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adaptvis_plugin.data.splits import whole_task
from adaptvis_plugin.paths import TASK_FOLDER

app = typer.Typer()


@app.command()
def tasks(
    path: Annotated[
        bool, typer.Option("--path", help="Print only the folder with the task files, for use in other commands.")
    ] = False,
) -> None:
    """List the lmms-eval tasks of this package and the folder with their files."""
    if path:
        typer.echo(TASK_FOLDER)
        return
    table = Table(caption="Each also as NAME_val and NAME_test: the authors' 20/80 split.", caption_justify="left")
    table.add_column("task")
    table.add_column("what", overflow="fold")
    for name, description in task_descriptions().items():
        table.add_row(name, escape(description))
    Console().print(table)
    typer.echo(f"Folder: {TASK_FOLDER}")


def task_descriptions() -> dict[str, str]:
    """Return what each task or group is, by its name, as its file says; without those of a split."""
    files = [yaml.load(file.read_text(encoding="utf-8"), _TaskFile) for file in sorted(TASK_FOLDER.glob("*/*.yaml"))]
    named = {file.get("group") or file.get("task"): file.get("metadata") for file in files}
    return {
        name: metadata["description"] for name, metadata in named.items() if metadata and whole_task(name)[1] is None
    }


class _TaskFile(yaml.SafeLoader):
    """Reads lmms-eval's task files without importing what their functions need."""


_TaskFile.add_constructor("!function", lambda _, node: node.value)
