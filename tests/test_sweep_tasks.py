"""`adaptvis sweep` of tasks that are not this package's: lmms-eval's and the user's own."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from lmms_eval.api.task import ConfigurableTask

from tests.data_helpers import jpeg
from tests.test_sweep import MODEL, sweep, trace


def pope(folder: Path) -> None:
    """Write lmms-eval's POPE as the hub has it, where `datasets` looks first: in the folder it is run from."""
    rows = [
        {
            "id": str(number),
            "question_id": str(number),
            "question": f"Is there a {thing} in the image?",
            "answer": answer,
            "image_source": f"COCO_val2014_{number:012d}",
            "image": {"bytes": jpeg(number // 2, (96, 64)), "path": None},
            "category": "adversarial",
        }
        for number, (thing, answer) in enumerate([("snowboard", "yes"), ("car", "no"), ("chair", "yes"), ("cup", "no")])
    ]
    write_rows(folder / "lmms-lab-encoder" / "POPE" / "data" / "test-00000-of-00001.parquet", rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table as the hub has it: text, and pictures as the bytes of their files."""
    kinds = {
        name: datasets.Image() if isinstance(value, dict) else datasets.Value("string")
        for name, value in rows[0].items()
    }
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=datasets.Features(kinds)).to_parquet(str(path))


OWN = """
task: spot
dataset_path: parquet
dataset_kwargs: {data_files: {test: rows.parquet}}
test_split: test
output_type: generate_until
doc_to_visual: !function own.visuals
doc_to_text: "{{question}}"
doc_to_target: target
process_results: !function own.results
generation_kwargs: {max_new_tokens: 3, image_aspect_ratio: original, seed: 0}
filter_list:
  - {name: plain, filter: [{function: take_first}]}
  - {name: small, filter: [{function: lowercase}, {function: take_first}]}
metric_list:
  - {metric: length, aggregation: mean, higher_is_better: true}
metadata: {version: 2.5}
"""
OWN_CODE = """
import numpy as np

def visuals(doc):
    return [doc["one"].convert("RGB"), doc["two"].convert("RGB")]

def results(doc, results):
    if doc["target"] == "fails":
        raise KeyError("a metric of the user's own")
    text = results[0]
    return {
        "length": np.int64(len(text)), "lower": text.islower(), "said": text, "score": {"score": 0.5, "text": text},
        "unknown": float("nan"), "nothing": {}, "wide": doc["one"].width > 9,
    }
"""


def own_task(folder: Path) -> Path:
    """Write a task with two pictures in each row, two filters, and metrics that see a picture or fail for a row."""
    pictures = [{"bytes": jpeg(number), "path": None} for number in range(4)]
    rows = [
        {"question": "Which one is lighter?", "target": target, "one": pictures[place], "two": pictures[place + 1]}
        for place, target in enumerate(("first", "fails", "second"))
    ]
    write_rows(folder / "rows.parquet", rows)
    (folder / "spot.yaml").write_text(OWN)
    (folder / "own.py").write_text(OWN_CODE)
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sweep of a task of lmms-eval's and one of the user's own."""
    folder = tmp_path_factory.mktemp("others")
    pope(folder)
    arguments = ["--model-args", "pretrained=demo,prompt=chat", "--tasks", "pope,spot", "-o", "traces"]
    arguments += ["--options", "yes,no", "--alphas", "2", "--gen-kwargs", "max_new_tokens=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = sweep(*arguments, "--include-path", own_task(folder / "tasks"))
    assert done.exit_code == 0, done.stderr[-3000:]
    (folder / "said").write_text(done.stderr)
    return folder


def test_a_task_of_lmms_eval_s_own_has_its_own_metrics(others: Path) -> None:
    found = trace(others / "traces", "pope")
    assert found.header is not None
    assert (found.header.scoring, found.header.rows, found.partial) == (None, 4, None)
    assert found.header.max_new_tokens == 2 and found.alphas == (1.0, 2.0)
    assert [row.gold for row in found.rows] == ["yes", "no", "yes", "no"]
    for row in found.rows:
        assert "in the image?\nAnswer the question using a single word or phrase." in row.question
        for alpha, chances in row.options.items():
            assert list(chances) == ["yes", "no"] and sum(chances.values()) == pytest.approx(1)
            assert row.metrics[alpha]["pope_accuracy"] == float(row.generations[alpha].lower() == row.gold)
    assert len({row.asked for row in found.rows}) == 4


def test_a_task_of_the_user_s_own_with_several_pictures(others: Path) -> None:
    found = trace(others / "traces", "spot")
    assert found.header is not None and found.header.task_version == "2.5"
    assert [row.question.count("<image>") for row in found.rows] == [2, 2, 2]
    answer = found.rows[0].generations[1.0]
    assert found.rows[0].metrics[1.0] == {
        "length": len(answer),
        "lower": answer.islower(),
        "score": 0.5,
        "wide": 1.0,
        "length,small": len(answer),
        "lower,small": 1.0,
        "score,small": 0.5,
        "wide,small": 1.0,
    }


def test_a_metric_that_fails_costs_no_answer(others: Path) -> None:
    failed = trace(others / "traces", "spot").rows[1]
    assert failed.gold == "fails" and failed.metrics == {} and {*failed.generations} == {1.0, 2.0}
    said = (others / "said").read_text()
    assert said.count("its metrics fail for document 1") == 1 and "a metric of the user's own" in said


def test_data_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own_task(tmp_path / "tasks")
    (folder / "rows.parquet").unlink()
    monkeypatch.setattr(ConfigurableTask.download.retry, "sleep", lambda seconds: None)  # before each further try
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    done = sweep(*MODEL, "--tasks", "spot", "--include-path", folder, "-o", tmp_path / "traces")
    assert done.exit_code == 2
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: lmms-eval cannot read the data of spot: FileNotFoundError: ")
    assert "rows.parquet" in said
