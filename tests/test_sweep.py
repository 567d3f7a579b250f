"""`adaptvis sweep` through its real command line: what it writes, resumes, and refuses."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adaptvis_plugin.cli import app
from adaptvis_plugin.data import load_table
from adaptvis_plugin.lmms_eval import sweeping
from adaptvis_plugin.lmms_eval.selection import check_tasks
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.traces import Row, Trace, read_traces
from tests import forked
from tests.test_command_line import BIN, ENVIRONMENT, run
from tests.test_lmms_eval import evaluate, manager

ROWS = 24
RELATIONS = ("left", "right", "on", "under")
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
    command: list[str | Path] = ["adaptvis", "sweep", *DEMO, "--limit", str(ROWS)]
    command += ["-o", folder / "traces", "--json", folder / "s.json"]
    done = forked.run(command, {**ENVIRONMENT, **forked.IMPORTED})
    assert done.returncode == 0, done.stderr[-3000:]
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
            assert sum(chances.values()) == pytest.approx(1) and tuple(chances) == RELATIONS
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


def test_what_is_recorded_of_the_first_token_is_what_the_decoder_says(swept: Path) -> None:
    found, table = trace(swept / "traces"), load_table("demo")
    runner = Runner(ModelArguments(method="baseline", pretrained="demo", device="cpu"))
    prompts = [Prompt(row.question, (table[row.doc_id]["image"].convert("RGB"),)) for row in found.rows]
    by_hand = runner.decoder.sweep(runner.encode(prompts).inputs, found.alphas)
    words = [text.strip().lower() for text in map(runner.processor.decode, range(by_hand[1.0].first_logits.shape[1]))]
    for place, row in enumerate(found.rows):
        for alpha, out in by_hand.items():
            chances = out.first_logits[place].double().softmax(-1)
            said = {option: sum(chances[n] for n, word in enumerate(words) if word == option) for option in RELATIONS}
            expected = {option: float(chance / sum(said.values())) for option, chance in said.items()}
            assert row.options[alpha] == pytest.approx(expected, abs=1e-4)
        plain = by_hand[1.0].first_logits[place].double().softmax(-1)
        assert row.entropy == pytest.approx(-float((plain * plain.log()).sum()), abs=1e-3)
        assert [2.718281828**token.log_probability for token in row.top] == pytest.approx(
            plain.topk(20).values.tolist(), abs=1e-4
        )


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


def test_options_may_be_spelled_as_lmms_eval_s(tmp_path: Path) -> None:
    done = sweep("--model_args", "pretrained=demo", "--tasks", "whatsup_demo", "-o", tmp_path, "--gen_kwargs", "seed")
    assert done.exit_code == 2 and "'seed' is not NAME=VALUE" in done.stderr


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
        (["--alphas", "0.5,strong"], ["--alphas 0.5,strong: alpha='strong'", "finite number >= 0"]),
        (["--alphas=-1"], ["--alphas -1: alpha=-1", "finite number >= 0"]),
        (["--options", "yes,,no"], ["--options 'yes,,no'"]),
        (["--include-path", "/nowhere"], ["--include-path /nowhere", "no such folder"]),
        (["-o", __file__], [__file__, "give a folder"]),
        (["--json", "/tmp"], ["--json /tmp", "give a file"]),
        (["--model-args", "pretrained=demo,trace=x"], ["trace='x'", "-o"]),
        (["--model-args", "pretrained=demo,alpha=0.5"], ["alpha=0.5", "give them by --alphas"]),
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
