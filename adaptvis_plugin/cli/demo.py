"""``adaptvis demo``: the three methods on the embedded model and data set, side by side."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adaptvis_plugin.cli.errors import reported
from adaptvis_plugin.lmms_eval.results import RunError, newest, read_metrics, read_samples, run_lmms_eval

TASK = "whatsup_demo"

METHODS = ("baseline", "scalingvis", "adaptvis")
"""Those that need nothing fitted to the demo model."""

app = typer.Typer()


@app.command()
def demo(
    output_path: Annotated[Path, typer.Option(help="Folder for lmms-eval's results, samples and logs.")] = Path(
        "out/demo"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows, for a quick look.")] = None,
) -> None:
    """Score plain decoding, ScalingVis and AdaptVis on the embedded model and demo scenes, offline."""
    console = Console()
    runs, answers = [], []
    with reported(RunError):
        for method in METHODS:
            model = f"llava_{method}"
            arguments = ["--model", model, "--tasks", TASK, "--model_args", "pretrained=demo"]
            arguments += ["--batch_size", str(batch_size), "--log_samples", "--output_path", str(output_path / model)]
            arguments += [] if limit is None else ["--limit", str(limit)]
            console.print(f"[dim]$ {escape(shlex.join(['lmms-eval', *arguments]))}[/dim]", soft_wrap=True)
            with console.status(f"{model}: running lmms-eval"):
                start = time.perf_counter()
                run_lmms_eval(arguments, output_path / f"{model}.log")
                seconds = time.perf_counter() - start
            samples = read_samples(newest(output_path / model, f"*_samples_{TASK}.jsonl"))
            metrics = read_metrics(newest(output_path / model, "*_results.json"), TASK)
            runs.append({"method": method, **metrics, **steering(samples), "seconds": seconds})
            answers.append(samples.assign(method=method))
    console.print(comparison(pd.DataFrame(runs)))

    from adaptvis_plugin.analysis.answers import draw_answers

    picture = output_path / "answers.png"
    draw_answers(pd.concat(answers, ignore_index=True), picture)
    rows = output_path / "llava_*" / "*" / f"*_samples_{TASK}.jsonl"
    typer.echo(f"Some scenes and their answers: {picture}\nEvery row's answer, confidence and alpha: {rows}")


def steering(samples: pd.DataFrame) -> dict[str, float]:
    """Return what a method did to the rows: the mean confidence, and the shares of rows smoothed and sharpened."""
    alpha = samples["alpha"]
    return {
        "confidence": samples["confidence"].mean(),
        "smoothed": (alpha < 1).mean(),
        "sharpened": (alpha > 1).mean(),
    }


def comparison(runs: pd.DataFrame) -> Table:
    """Return the runs side by side, one column each; shares in percent."""
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
