"""`adaptvis demo` and `adaptvis tasks`: what this package brings to lmms-eval, run and listed."""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
import yaml
from rich.console import Console
from rich.table import Table

from adaptvis_plugin.methods import METHODS
from adaptvis_plugin.paths import TASKS

TASK = "whatsup_demo"


def demo(
    output_path: Annotated[Path, typer.Option(help="Folder for lmms-eval's results, samples and logs.")] = Path(
        "out/demo"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows, for a quick look.")] = None,
) -> None:
    """Score plain decoding, ScalingVis and AdaptVis on the embedded model and demo scenes, offline."""
    if importlib.util.find_spec("lmms_eval") is None:
        typer.echo("adaptvis demo runs lmms-eval, which is not installed: pip install lmms-eval", err=True)
        raise typer.Exit(1)
    from adaptvis_plugin.analysis.answers import draw_answers

    console = Console()
    runs, answers = [], []
    for method in METHODS:
        model = f"llava_{method}"
        command = ["lmms-eval", "--model", model, "--tasks", TASK, "--model_args", "pretrained=demo"]
        command += ["--batch_size", str(batch_size), "--log_samples", "--output_path", str(output_path / model)]
        command += [] if limit is None else ["--limit", str(limit)]
        console.print(f"[dim]$ {shlex.join(command)}[/dim]", soft_wrap=True)
        with console.status(f"{model}: running lmms-eval"):
            start = time.perf_counter()
            run_lmms_eval(command[1:], output_path / f"{model}.log")
        traces = samples(newest(output_path / model, f"*_samples_{TASK}.jsonl")).assign(method=method)
        scores = newest(output_path / model, "*_results.json")
        runs.append({"method": method, **summary(scores, traces), "seconds": time.perf_counter() - start})
        answers.append(traces)
    console.print(comparison(pd.DataFrame(runs)))
    picture = output_path / "answers.png"
    draw_answers(pd.concat(answers, ignore_index=True), picture)
    console.print(f"Some scenes and their answers: {picture}", soft_wrap=True)
    console.print(
        f"Every row's answer, confidence and alpha: {output_path}/llava_*/*/*_samples_{TASK}.jsonl", soft_wrap=True
    )


def tasks(
    path: Annotated[
        bool, typer.Option("--path", help="Print only the folder with the task files, for use in other commands.")
    ] = False,
) -> None:
    """List the lmms-eval tasks of this package and the folder with their files."""
    if path:
        typer.echo(TASKS)
        return
    table = Table(caption="Each also as NAME_val and NAME_test: the authors' 20/80 split.", caption_justify="left")
    table.add_column("task")
    table.add_column("what", overflow="fold")
    for name, description in task_descriptions().items():
        table.add_row(name, description)
    Console().print(table)
    typer.echo(f"Folder: {TASKS}")


def task_descriptions() -> dict[str, str]:
    """Task or group -> what it is, by the files of the task folder; without the split ones."""
    files = [yaml.load(file.read_text(encoding="utf-8"), _TaskFile) for file in sorted(TASKS.glob("*/*.yaml"))]
    named = {file.get("task" if "group" not in file else "group"): file.get("metadata") for file in files}
    return {
        name: metadata["description"]
        for name, metadata in named.items()
        if metadata and not name.endswith(("_val", "_test"))
    }


class _TaskFile(yaml.SafeLoader):
    """Reads lmms-eval's task files without importing what their functions need."""


_TaskFile.add_constructor("!function", lambda _, node: node.value)


def run_lmms_eval(arguments: list[str], log: Path) -> None:
    """Run lmms-eval's command line with its output in a log file.

    Raises:
        typer.Exit: with status 1, the end of the log printed, if it failed. Its own exit status is 0 even then
            unless it is verbose, so it is run so.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "lmms_eval", *arguments, "--verbosity", "DEBUG"]
    with log.open("w", encoding="utf-8") as sink:
        done = subprocess.run(
            command, stdout=sink, stderr=subprocess.STDOUT, env={"HF_HUB_OFFLINE": "1", **os.environ}, check=False
        )
    if done.returncode:
        end = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-20:])
        typer.echo(f"{end}\nlmms-eval failed (exit status {done.returncode}); its whole output is in {log}", err=True)
        raise typer.Exit(1)


def newest(folder: Path, pattern: str) -> Path:
    """The latest result file of a run.

    Raises:
        FileNotFoundError: if the run left none.
    """
    found = sorted(folder.glob(f"*/{pattern}"))
    if not found:
        raise FileNotFoundError(f"{folder}: lmms-eval left no {pattern} there")
    return found[-1]


def summary(scores: Path, traces: pd.DataFrame) -> dict[str, float]:
    """One line of the comparison: lmms-eval's metrics, and what the method did to the rows."""
    metrics = json.loads(scores.read_text(encoding="utf-8"))["results"][TASK]
    line = {
        key.removesuffix(",none"): metrics[key] for key in metrics if key.endswith(",none") and "_stderr" not in key
    }
    line["confidence"] = traces["confidence"].mean()
    line["smoothed"], line["sharpened"] = (traces["alpha"] < 1).mean(), (traces["alpha"] > 1).mean()
    return line


def samples(path: Path) -> pd.DataFrame:
    """Each row's doc_id, answer, confidence and alpha from a samples file."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return pd.DataFrame(
        {"doc_id": line["doc_id"], "answer": line["filtered_resps"], **line["token_counts"][0]} for line in lines
    )


def comparison(runs: pd.DataFrame) -> Table:
    """The runs side by side, one column each; shares in percent."""
    titles = {
        "individual_acc": "accuracy",
        "strict_acc": "accuracy, strict rule",
        "pair_acc": "pairs all right",
        "set_acc": "sets of four all right",
        **{name: name.removeprefix("rel_") for name in runs.columns if name.startswith("rel_")},
        "confidence": "mean confidence",
        "smoothed": "rows smoothed (alpha < 1)",
        "sharpened": "rows sharpened (alpha > 1)",
    }
    table = Table(title=f"{TASK} on the embedded model, percent")
    table.add_column()
    for method in runs["method"]:
        table.add_column(method, justify="right")
    for name, title in titles.items():
        table.add_row(
            title, *(f"{100 * share:.1f}" for share in runs[name]), end_section=name in ("set_acc", "rel_under")
        )
    table.add_row("wall time, seconds", *(f"{seconds:.0f}" for seconds in runs["seconds"]))
    return table
