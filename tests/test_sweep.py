"""`adaptvis sweep` through its real command line: our tasks, lmms-eval's, and the user's own."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
from typer.testing import CliRunner

from adaptvis_plugin.cli import app
from adaptvis_plugin.lmms_eval import sweeping
from adaptvis_plugin.lmms_eval.sweeping import check_tasks
from adaptvis_plugin.traces import Row, Trace, read_traces
from tests.data_helpers import jpeg
from tests.test_command_line import BIN, ENVIRONMENT, run
from tests.test_lmms_eval import evaluate, manager

ROWS = 24
MODEL = ("--model-args", "pretrained=demo")
DEMO = (*MODEL, "--tasks", "whatsup_demo", "--batch-size", "8")


def trace(folder: Path, task: str = "whatsup_demo") -> Trace:
    (found,) = read_traces([folder / f"{task}.jsonl"])
    return found


def same(one: Row, other: Row) -> bool:
    """Apart from rounding: a row's numbers depend in the last digits on the rows beside it."""
    exact = {"confidence", "entropy", "top", "options"}
    return one.model_dump(exclude=exact) == other.model_dump(exclude=exact) and one.confidence == pytest.approx(
        other.confidence, abs=1e-4
    )


def sweep(*arguments: object) -> Any:
    """Run the command in this process. lmms-eval's two thousand task files are read once."""
    with pytest.MonkeyPatch.context() as patch:
        if "--include-path" not in arguments:
            patch.setattr(sweeping, "TaskManager", lambda **_: manager())
        return CliRunner().invoke(app, ["sweep", *map(str, arguments)], env={"COLUMNS": "300"})


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of the first rows of the demo, its summary beside it."""
    folder = tmp_path_factory.mktemp("swept")
    done = run("adaptvis", "sweep", *DEMO, "--limit", str(ROWS), "-o", folder / "traces", "--json", folder / "s.json")
    (folder / "shown").write_text(done.stdout)
    assert f"{ROWS}/{ROWS}" in done.stderr, "the progress bar"
    return folder


def test_every_row_has_all_that_a_later_choice_may_need(swept: Path) -> None:
    found = trace(swept / "traces")
    assert found.header is not None
    assert found.header.model == "demo" and found.header.scoring == "whatsup" and found.header.max_new_tokens == 100
    assert found.header.task_version == "1.0" and {"torch", "transformers", "lmms-eval"} < {*found.header.packages}
    assert found.alphas == (1.0, 0.5, 0.8, 1.2, 1.5, 2.0) and found.partial == f"{ROWS} of 400 rows"
    for row in found.rows:
        assert row.question.endswith("ASSISTANT:") and "<image>" in row.question
        assert row.gold.lower() == row.relation and row.set_id is not None and row.pair_id is not None and row.image
        assert row.confidence == pytest.approx(2.718281828 ** row.top[0].log_probability, abs=1e-5)
        assert len(row.top) == 20 and 0 <= (row.entropy or 0) < 7 and row.alpha is None
        assert {*row.generations} == {*row.options} == {*row.metrics} == {*row.output_tokens} == {*found.alphas}
        for alpha, chances in row.options.items():
            assert sum(chances.values()) == pytest.approx(1) and list(chances) == ["left", "right", "on", "under"]
            right = float(row.generations[alpha] == row.gold)
            assert row.metrics[alpha]["individual_acc"] == right == row.metrics[alpha][f"rel_{row.relation}"]
            assert "pair_acc" not in row.metrics[alpha], "it has no meaning for a single row"


def test_the_answers_under_1_are_those_of_plain_decoding(swept: Path) -> None:
    plain = evaluate("vlm_baseline", limit=ROWS)["samples"]["whatsup_demo"]
    for row, sample in zip(trace(swept / "traces").rows, sorted(plain, key=lambda one: one["doc_id"]), strict=True):
        counts = sample["token_counts"][0]
        (answer,) = sample["filtered_resps"]
        assert (row.doc_id, row.generations[1.0], row.gold) == (sample["doc_id"], answer, sample["target"])
        assert (row.input_tokens, row.output_tokens[1.0]) == (counts["input_tokens"], counts["output_tokens"])
        assert row.metrics[1.0]["individual_acc"] == sample["individual_acc"]["score"]
        assert row.confidence == pytest.approx(counts["confidence"], abs=1e-4)


def test_the_summary_is_the_mean_of_the_rows(swept: Path) -> None:
    (summary,) = json.loads((swept / "s.json").read_text())
    rows = trace(swept / "traces").rows
    assert (summary["task"], summary["rows"], summary["of"], summary["metric"]) == (
        "whatsup_demo",
        ROWS,
        400,
        "individual_acc",
    )
    for alpha, mean in summary["mean"].items():
        assert mean == pytest.approx(sum(row.generations[float(alpha)] == row.gold for row in rows) / ROWS)
        assert f"{mean:.3f}" in (swept / "shown").read_text()
    assert f"whatsup_demo: {swept}/traces/whatsup_demo.jsonl" in (swept / "shown").read_text()


def killed(command: list[str], file: Path, rows: int) -> None:
    """Kill a command as soon as so many rows are on disk."""
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") <= rows):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it had ended before"


def test_a_sweep_killed_in_the_middle_of_a_line_is_finished_by_two_processes(swept: Path, tmp_path: Path) -> None:
    """With other batches; an odd number of rows, so that lmms-eval gives one process a row twice, to keep both busy."""
    file = tmp_path / "whatsup_demo.jsonl"
    arguments = ["sweep", *DEMO, "--limit", str(ROWS - 1), "-o", str(tmp_path)]
    killed([str(BIN / "adaptvis"), *arguments, "--batch-size", "2"], file, 5)
    kept = [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 5 < len(kept) < ROWS
    file.write_bytes(b"".join(kept[:-1]) + kept[-1][:-9])
    command = ["torchrun", "--nproc-per-node", "2", "-m", "adaptvis_plugin.cli", *arguments]
    done = run(*command, ACCELERATE_USE_CPU="true")
    found = trace(tmp_path).rows
    assert [row.doc_id for row in found] == list(range(ROWS - 1))
    assert file.read_bytes().startswith(b"".join(kept[:-1])), "what was answered stays as it was"
    assert all(map(same, found, trace(swept / "traces").rows))
    assert done.stdout.count("whatsup_demo: ") == 1, "one process reports"


def test_a_complete_sweep_answers_nothing_again_and_may_go_further(swept: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(swept / "traces" / "whatsup_demo.jsonl", tmp_path))
    whole = file.read_bytes()
    for limit in (ROWS, 4):
        assert sweep(*DEMO, "--limit", limit, "-o", tmp_path).exit_code == 0
        assert file.read_bytes() == whole
    assert sweep(*DEMO, "--limit", ROWS + 2, "--batch-size", 1, "-o", tmp_path).exit_code == 0
    assert file.read_bytes().startswith(whole) and len(trace(tmp_path).rows) == ROWS + 2


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
generation_kwargs: {max_new_tokens: 3}
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
        "unknown": float("nan"), "nothing": {},
    }
"""


def own_task(folder: Path) -> Path:
    """Write a task with two pictures in each row, two filters, and a metric that fails for one row."""
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
        "length,small": len(answer),
        "lower,small": 1.0,
        "score,small": 0.5,
    }


def test_a_metric_that_fails_costs_no_answer(others: Path) -> None:
    failed = trace(others / "traces", "spot").rows[1]
    assert failed.gold == "fails" and failed.metrics == {} and {*failed.generations} == {1.0, 2.0}
    said = (others / "said").read_text()
    assert said.count("its metrics fail for document 1") == 1 and "a metric of the user's own" in said


@pytest.mark.parametrize(
    ("tasks", "gen_kwargs", "words"),
    [
        (["whatsup_dem"], "", ["no task 'whatsup_dem'", "--include-path", "Did you mean whatsup_demo?"]),
        (["mmbench_en_dev", "nowhere*"], "", ["no task 'nowhere*'"]),
        (["whatsup_val"], "do_sample=True", ["'whatsup_controlled_a_val'", "do_sample=True", "greedy"]),
        (["whatsup_demo"], "num_beams=4", ["'whatsup_demo'", "num_beams=4"]),
        (["whatsup_demo"], "max_new_tokens", ["--gen-kwargs", "NAME=VALUE"]),
    ],
)
def test_what_cannot_be_swept_is_named(tasks: list[str], gen_kwargs: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as refused:
        check_tasks(manager(), tasks, gen_kwargs)
    assert [word for word in words if word not in str(refused.value)] == []


def test_only_tasks_with_one_question_and_one_answer_are_swept() -> None:
    kinds = {"generate_until_multi_round": "several rounds", "multiple_choice": "generates none"}
    for kind, reason in kinds.items():
        name = next(
            name
            for name in manager().all_subtasks
            if f"output_type: {kind}\n" in Path(manager().task_index[name]["yaml_path"]).read_text(errors="ignore")
        )
        with pytest.raises(ValueError, match=f"task '{name}' cannot be swept: .*{reason}"):
            check_tasks(manager(), [name], "")


def test_groups_are_swept_as_their_tasks() -> None:
    assert check_tasks(manager(), ["whatsup_val", "vsr_*"], "") == ["whatsup_val", "vsr_test", "vsr_val"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--alphas", "0.5,strong"], ["--alphas='strong'", "finite number >= 0"]),
        (["--alphas=-1"], ["--alphas=-1", "finite number >= 0"]),
        (["--options", "yes,,no"], ["--options 'yes,,no'"]),
        (["--include-path", "/nowhere"], ["--include-path /nowhere", "no such folder"]),
        (["-o", __file__], [__file__, "give a folder"]),
        (["--json", "/tmp"], ["--json /tmp", "give a file"]),
        (["--model-args", "pretrained=demo,trace=x"], ["trace='x'", "-o"]),
        (["--model-args", "pretrained=demo,alpha=0.5"], ["alpha=0.5", "alpha belongs to scalingvis"]),
        (["--model-args", "device=cpu"], ["give the checkpoint"]),
    ],
)
def test_wrong_input_is_named_before_a_model_is_loaded(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    done = sweep(*DEMO, "-o", tmp_path / "new", *arguments)
    assert done.exit_code == 2 and [word for word in words if word not in done.stderr] == []
    assert not (tmp_path / "new").exists()


def test_other_coefficients_do_not_go_into_the_same_folder(swept: Path) -> None:
    before = (swept / "traces" / "whatsup_demo.jsonl").read_bytes()
    done = sweep(*DEMO, "-o", swept / "traces", "--alphas", "0.5")
    assert done.exit_code == 2 and "this run asks for alphas=(1.0, 0.5). Use another folder" in done.stderr
    assert (swept / "traces" / "whatsup_demo.jsonl").read_bytes() == before


def test_the_help_needs_no_torch() -> None:
    shown = "from adaptvis_plugin.cli import app; app(['sweep', '--help'], standalone_mode=False)"
    code = f"import sys; {shown}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
