"""``adaptvis demo``: sweep, tune and compare on the embedded model and data set, and a run of lmms-eval as a check."""

import json
import os
import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from adaptvis_plugin.cli.errors import reported
from adaptvis_plugin.lmms_eval.results import RunError, newest, read_metrics, run_lmms_eval

VALIDATION, TEST = "whatsup_demo_val", "whatsup_demo_test"
PUBLISHED = "llava-1.5-7b"
"""The preset with the authors' settings."""

app = typer.Typer()


@app.command()
def demo(
    output_path: Annotated[Path, typer.Option(help="Folder for the traces, the preset, the report and logs.")] = Path(
        "out/demo"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 16,
    trace: Annotated[
        Path | None,
        typer.Option(help="A recorded trace to tune and compare on, in place of a sweep of the embedded model."),
    ] = None,
) -> None:
    """Find settings for the embedded model on the demo's validation rows, and see on its test rows what they bring.

    Runs this package's own commands, offline, and shows each. At the end lmms-eval runs one of the settings itself, and
    its score must be the one that was found without it.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    start = time.perf_counter()
    with reported(RunError):
        if trace is None:
            _embedded(output_path, batch_size)
        else:
            _recorded(trace, output_path)
    typer.echo(f"{time.perf_counter() - start:.0f} seconds in all")


def _embedded(folder: Path, batch_size: int) -> None:
    traces, preset, found, compared = (folder / name for name in ("traces", "tuned.yaml", "tune.json", "compare.json"))
    sweep = ["sweep", "--model-args", "pretrained=demo", "--tasks", f"{VALIDATION},{TEST}"]
    _run(*sweep, "--batch-size", str(batch_size), "-o", str(traces))
    report = str(folder / "tune")
    _run("tune", f"{traces / VALIDATION}.jsonl", "-o", str(preset), "--report", report, "--json", str(found))
    (tuned,) = json.loads(found.read_text(encoding="utf-8"))
    best = tuned["methods"]["adaptvis"]["setting"]
    setting = f"adaptvis:{best['alpha_low']:g}/{best['alpha_high']:g}/{best['threshold']:g}"
    presets = ["--preset", PUBLISHED, "--preset", str(preset), "--setting", setting]
    report = str(folder / "report")
    _run("compare", f"{traces / TEST}.jsonl", *presets, "-o", report, "--json", str(compared))
    (section,) = json.loads(compared.read_text(encoding="utf-8"))["tasks"]
    _check(folder, batch_size, section)
    gain = tuned["methods"]["adaptvis"]["gain"]
    typer.echo(f"\n{_conclusion(section, gain, bool(tuned['beats_plain']['adaptvis']))}")


def _recorded(trace: Path, folder: Path) -> None:
    preset = folder / "tuned.yaml"
    _run("tune", str(trace), "-o", str(preset), "--report", str(folder / "tune"))
    _run("compare", str(trace), "--preset", str(preset), "-o", str(folder / "report"))


def _check(folder: Path, batch_size: int, section: dict[str, Any]) -> None:
    """Let lmms-eval run the authors' AdaptVis, and compare its score with the one from the trace.

    Raises:
        RunError: If the run fails, or has another score.
    """
    output = folder / "llava_adaptvis"
    arguments = ["--model", "llava_adaptvis", "--tasks", TEST, "--model_args", "pretrained=demo"]
    arguments += ["--batch_size", str(batch_size), "--log_samples", "--output_path", str(output)]
    _tell("lmms-eval", *arguments)
    run_lmms_eval(arguments, folder / "llava_adaptvis.log")
    score = read_metrics(newest(output, "*_results.json"), TEST)["individual_acc"]
    expected = next(
        metric["value"]
        for run in section["runs"]
        if run["name"].startswith("adaptvis") and run["name"].endswith(f"({PUBLISHED})")
        for metric in run["metrics"]
        if metric["name"] == "individual_acc"
    )
    if abs(score - expected) > 1e-9:
        raise RunError(f"lmms-eval's run scores {score:.4f}, and the trace says {expected:.4f}: they must be equal")
    typer.echo(f"lmms-eval's own run of it scores {100 * score:.2f}, as the sweep said.")


def _conclusion(section: dict[str, Any], estimate: dict[str, float], kept: bool) -> str:
    """Return what was found, in plain words.

    Args:
        section: What `compare` found on the test rows.
        estimate: The gain over plain decoding that `tune` expects of its setting.
        kept: Whether the preset has this setting, and not alpha 1.
    """
    runs = {run["name"]: run for run in section["runs"]}
    plain = runs[section["baseline"]]["metrics"][0]["value"]
    name, run = next((n, r) for n, r in runs.items() if n.startswith("adaptvis") and not n.endswith(")"))
    against = run["against"]
    change = against["differences"][0]["value"]
    verdict = (
        "not shown to change" if against["p_holm"] >= 0.05 else "shown to improve" if change > 0 else "shown to worsen"
    )
    return (
        f"In short: of the {section['rows']} test rows, plain decoding has {100 * plain:.1f}% right, and {name}, the "
        f"best on the validation rows, {100 * run['metrics'][0]['value']:.1f}% (tune expected "
        f"{100 * estimate['value']:+.1f} points; p = {against['p_holm']:.2f}).\nSo steering is {verdict} what this "
        f"model gets right here, and the tuned preset {'uses it' if kept else 'keeps plain decoding'}."
    )


def _run(*arguments: str) -> None:
    """Run one of this package's commands in this process, which saves the seconds in which torch is imported."""
    from adaptvis_plugin.cli import app as whole

    _tell("adaptvis", *arguments)
    if status := whole(list(arguments), standalone_mode=False):
        raise typer.Exit(status)  # its error is on the screen


def _tell(*command: str) -> None:
    typer.echo(f"\n$ {shlex.join(command)}")
