"""`adaptvis leaderboard` on real runs of both frameworks, and on failed and partial ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.framework_runs import adaptvis, environment, lmms_eval, run_all, vlmeval
from tests.trace_files import write_sweep


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with complete runs of both frameworks, a partial one, and a failed one."""
    folder = tmp_path_factory.mktemp("runs")
    own = environment(tmp_path_factory.mktemp("home"))
    both = "whatsup_demo,whatsup_demo_val"
    commands = [
        lmms_eval(folder / "plain", "baseline", both),
        lmms_eval(folder / "weaker", "scalingvis", "whatsup_demo_val", "--limit", "8"),
        vlmeval(folder / "vlm", ("baseline", "adaptvis")),
    ]
    run_all(commands, own)
    (folder / "failed").mkdir()
    return folder


@pytest.fixture(scope="module")
def board(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """What the command wrote as JSON, the folder with its files, and what it printed."""
    folder = tmp_path_factory.mktemp("board")
    done = adaptvis("leaderboard", runs, "-o", folder, "--json", folder / "board.json")
    assert done.exit_code == 0, done.output
    return json.loads((folder / "board.json").read_text()), folder, done.output


def test_a_row_for_each_model_and_method_and_a_column_for_each_task(
    board: tuple[dict[str, Any], Path, str], runs: Path
) -> None:
    rows = board[0]["rows"]
    assert [(row["method"], row["framework"]) for row in rows] == [
        ("baseline", "lmms-eval"),
        ("adaptvis", "VLMEvalKit"),
        ("baseline", "VLMEvalKit"),
    ]
    assert {row["model"] for row in rows} == {"demo"} and rows[1]["settings"] == "0.5/1.5/0.4"
    [results] = runs.glob("plain/*/*_results.json")
    theirs = json.loads(results.read_text())["results"]
    expected = {task: 100 * theirs[task]["individual_acc,none"] for task in ("whatsup_demo", "whatsup_demo_val")}
    assert {task: rows[0][task] for task in expected} == pytest.approx(expected)
    assert rows[0]["average"] == pytest.approx(sum(expected.values()) / 2) and rows[0]["rank"] == 1
    assert rows[2]["whatsup_demo"] == pytest.approx(rows[0]["whatsup_demo"]), "both frameworks give the same score"
    assert rows[2]["whatsup_demo_val"] is rows[2]["average"] is rows[2]["rank"] is None


def test_partial_and_failed_runs_are_listed_with_the_reason(board: tuple[dict[str, Any], Path, str]) -> None:
    found, folder, printed = board
    reasons = {one["what"]: one["reason"] for one in found["left_out"]}
    assert reasons == {
        "llava_scalingvis on whatsup_demo_val": "only 8 of 80 rows",
        "failed": "no results: if it is of a run, that failed or has only begun",
    }
    for text in (printed, (folder / "leaderboard.md").read_text()):
        assert "only 8 of 80 rows" in " ".join(text.split())


def test_markdown_and_csv_hold_the_table(board: tuple[dict[str, Any], Path, str]) -> None:
    found, folder, _ = board
    lines = (folder / "leaderboard.md").read_text().splitlines()
    assert lines[0] == "| rank | model | method | settings | framework | average | whatsup_demo | whatsup_demo_val |"
    assert len({line.count("|") for line in lines[:5]}) == 1
    table = pd.read_csv(folder / "leaderboard.csv")
    assert table["whatsup_demo"].tolist() == pytest.approx([row["whatsup_demo"] for row in found["rows"]])


def test_the_columns_may_be_chosen(runs: Path, tmp_path: Path) -> None:
    done = adaptvis("leaderboard", runs, "--tasks", "whatsup_demo", "--json", tmp_path / "b.json")
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert done.exit_code == 0 and [row["rank"] for row in rows] == [1, 1, 3]
    averages = [row["average"] for row in rows]
    assert averages == sorted(averages, reverse=True)
    done = adaptvis("leaderboard", runs, "--tasks", "pope")
    assert (
        done.exit_code == 1 and "has no score for pope; it has some for whatsup_demo, whatsup_demo_val" in done.output
    )


def test_the_newest_run_counts_and_the_older_is_named(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "plain", tmp_path / "plain")
    [results] = tmp_path.glob("plain/*/*_results.json")
    content = json.loads(results.read_text())
    content["date"] = "29991231_000000"
    content["results"]["whatsup_demo"]["individual_acc,none"] = 0.5
    results.with_name("29991231_000000_results.json").write_text(json.dumps(content))
    done = adaptvis("leaderboard", tmp_path, "--json", tmp_path / "b.json")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "b.json").read_text())
    assert [row["whatsup_demo"] for row in found["rows"]] == [50.0]
    assert {one["reason"] for one in found["left_out"]} == {"the run of 29991231_000000 is newer"}


def test_equal_averages_share_a_rank_and_zero_is_a_score(runs: Path, tmp_path: Path) -> None:
    for name, score in (("one", 0.0), ("two", 0.5), ("three", 0.5)):
        shutil.copytree(runs / "plain", tmp_path / name)
        [results] = tmp_path.glob(f"{name}/*/*_results.json")
        content = json.loads(results.read_text().replace("pretrained=demo", f"pretrained={name}"))
        for task in content["results"].values():
            task["individual_acc,none"] = score
        if name == "three":
            del content["results"]["whatsup_demo_val"]
        results.write_text(json.dumps(content))
    shutil.copytree(runs / "vlm", tmp_path / "vlm")

    def ranks(*arguments: str) -> list[tuple[Any, ...]]:
        done = adaptvis("leaderboard", tmp_path, *arguments, "--json", tmp_path / "b.json")
        assert done.exit_code == 0, done.output
        rows = json.loads((tmp_path / "b.json").read_text())["rows"]
        return [(row["model"], row["rank"]) for row in rows if row["framework"] == "lmms-eval"]

    assert ranks() == [("two", 1), ("one", 2), ("three", None)]
    assert ranks("--tasks", "whatsup_demo") == [("three", 3), ("two", 3), ("one", 5)]


def test_two_settings_of_a_model_are_two_lines(runs: Path, tmp_path: Path) -> None:
    for low in (0.5, 0.8):
        folder = tmp_path / str(low) / "demo_adaptvis"
        shutil.copytree(runs / "vlm" / "demo_adaptvis", folder)
        [settings] = folder.glob("*_settings.json")
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "alpha_low": low}))
    done = adaptvis("leaderboard", tmp_path, "--json", tmp_path / "b.json")
    found = json.loads((tmp_path / "b.json").read_text())
    assert done.exit_code == 0 and found["left_out"] == []
    assert {row["settings"] for row in found["rows"]} == {"0.5/1.5/0.4", "0.8/1.5/0.4"}


def test_a_replay_has_the_model_of_its_trace(runs: Path, tmp_path: Path) -> None:
    write_sweep(tmp_path / "traces" / "whatsup_demo.jsonl", lambda doc, alpha: "Left", model="some/checkpoint")
    shutil.copytree(runs / "plain", tmp_path / "replay")
    [results] = tmp_path.glob("replay/*/*_results.json")
    content = json.loads(results.read_text())
    content["config"] |= {"model": "replay_scalingvis", "model_args": f"trace={tmp_path / 'traces'},alpha=0.5"}
    results.write_text(json.dumps(content))
    done = adaptvis("leaderboard", tmp_path, "--tasks", "whatsup_demo", "--json", tmp_path / "b.json")
    [row] = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert done.exit_code == 0
    assert (row["model"], row["method"], row["settings"]) == ("some/checkpoint", "scalingvis", "0.5")


def test_broken_files_and_answers_without_scores_are_listed(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "vlm" / "demo_baseline", tmp_path / "good")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1_results.json").write_text("{")
    shutil.copytree(runs / "vlm" / "demo_adaptvis", tmp_path / "killed" / "demo_adaptvis")
    (tmp_path / "killed" / "demo_adaptvis" / "status.json").unlink()
    state = json.loads((tmp_path / "good" / "status.json").read_text())
    state["datasets"]["VSR_QA"] = {"status": "infer", "eval_error": "out of\nmemory"}
    (tmp_path / "good" / "status.json").write_text(json.dumps(state))
    done = adaptvis("leaderboard", tmp_path)
    printed = " ".join(done.output.split())
    assert done.exit_code == 0
    assert "cannot be read" in printed and "demo_baseline on VSR_QA: memory" in printed
    assert "demo_adaptvis_WhatsUp_Demo_trace.jsonl: answers without a status.json: the run did not end" in printed


def test_a_folder_without_a_finished_run_is_an_error(tmp_path: Path) -> None:
    done = adaptvis("leaderboard", tmp_path)
    assert done.exit_code == 1 and "holds no finished run of lmms-eval or VLMEvalKit" in " ".join(done.output.split())
    done = adaptvis("leaderboard", tmp_path / "nowhere")
    assert done.exit_code == 1 and "there is no such folder" in done.output
