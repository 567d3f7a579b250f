"""A setting scored by lmms-eval's own command from a trace of 2,000 rows, without the model."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from PIL import Image

from adaptvis_plugin.cli import app
from adaptvis_plugin.lmms_eval.results import newest, read_metrics, run_lmms_eval
from adaptvis_plugin.paths import TASK_FOLDER
from benchmarks.measure import Settings

ROWS = 2000
AT_MOST = 60
"""The most seconds that it may take: the project's own limit."""

RELATIONS = ("to the left of", "to the right of", "on", "under")
TASK = """include: _default_template_yaml
task: many
dataset_kwargs: {data_files: {test: tables/many.json}}
metric_list:
  - {metric: individual_acc, aggregation: !function adaptvis_plugin.lmms_eval.tasks.mean_score, higher_is_better: true}
metadata: {version: 1.0, table: many}
"""


def measure(settings: Settings, rows: int = ROWS) -> dict[str, Any]:
    """Sweep rows of a data set of one's own with the demo model, and time a replay. No setting matters."""
    with tempfile.TemporaryDirectory() as name, _cache(Path(name) / "cache"):
        folder = Path(name)
        write_data(folder / "data", rows)
        _adaptvis("data", "prepare", "many", "--from", folder / "data")
        write_task(folder / "tasks")
        own, model = ["--include_path", str(folder / "tasks")], "pretrained=demo,prompt=paper"
        _adaptvis("sweep", "--model-args", model, "--tasks", "many", "-o", folder / "traces", "--alphas", "0.5,1.5",
                  "--batch-size", "16", *own)  # fmt: skip
        values = f"pretrained=demo,trace={folder / 'traces'},alpha_low=0.5,alpha_high=1.5,threshold=0.4"
        arguments = ["--model", "replay_adaptvis", "--model_args", values, "--tasks", "many", *own]
        start = time.perf_counter()
        run_lmms_eval([*arguments, "--log_samples", "--output_path", str(folder / "out")], folder / "log")
        seconds = time.perf_counter() - start
        score = read_metrics(newest(folder / "out", "*_results.json"), "many")["individual_acc"]
    return {"rows": rows, "seconds": seconds, "score": score}


def write_data(folder: Path, rows: int) -> None:
    """Write noise of 640 x 480 pixels with captions: two questions about a picture, four to a set."""
    (folder / "pictures").mkdir(parents=True)
    listed = []
    for row in range(rows):
        picture = folder / "pictures" / f"{row // 2}.jpg"
        if not picture.exists():
            Image.effect_noise((640, 480), 20 + row % 50).convert("RGB").save(picture)
        turned = [*RELATIONS[row % 4 :], *RELATIONS[: row % 4]]
        captions = [f"A mug {row // 4} {relation} a table {row // 4}" for relation in turned]
        listed.append({"image_path": f"pictures/{row // 2}.jpg", "caption_options": captions})
    (folder / "many.json").write_text(json.dumps(listed), encoding="utf-8")


def write_task(folder: Path) -> None:
    """Write the task in the form that `tasks/whatsup/README.md` gives."""
    (folder / "tables").mkdir(parents=True)
    shutil.copy(TASK_FOLDER / "whatsup" / "_default_template_yaml", folder)
    (folder / "tables" / "many.json").write_text('{"table": "many"}', encoding="utf-8")
    (folder / "many.yaml").write_text(TASK, encoding="utf-8")


def _adaptvis(*arguments: str | Path) -> None:
    """Run a command that is not measured in this process, and show only its progress."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with open(os.devnull, "w") as sink, redirect_stdout(sink):
        app([*map(str, arguments)], standalone_mode=False)


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """Keep tables in a folder of their own, for this process and those that it starts."""
    before = os.environ.get("ADAPTVIS_CACHE")
    os.environ["ADAPTVIS_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("ADAPTVIS_CACHE")
        if before is not None:
            os.environ["ADAPTVIS_CACHE"] = before


def markdown(report: dict[str, Any]) -> str:
    """Return the figures as a sentence."""
    return (
        f"`lmms-eval --model replay_adaptvis` scores {report['rows']:,} rows with pictures of 640 x 480 pixels from a "
        f"trace in {report['seconds']:.0f} seconds (at most {AT_MOST}), from the start of the command to its end.\n"
    )
