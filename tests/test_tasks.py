"""The lmms-eval tasks: what they ask, what they score, and the real command on data in the published layouts."""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from adaptvis_plugin.data import DataError, load_table, prepare
from adaptvis_plugin.data.registry import data_sets
from adaptvis_plugin.lmms_eval import tasks
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.paths import DEMO_MODEL, TASK_FOLDER
from adaptvis_plugin.scoring import whatsup
from tests.data_helpers import ROWS, official, serve, sources

OWN = {data_set.task: data_set for data_set in data_sets().values()}
PUBLISHED = [data_sets()[name] for name in ROWS]
SPLITS = ("", "_val", "_test")


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All data sets, tiny, from the official folder; the demo in full."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTVIS_CACHE", str(folder / "cache"))
        patch.setenv("ADAPTVIS_SOURCES", str(sources(folder)))
        prepare(["whatsup", "vsr"], official(folder / "official"))
        prepare(["demo"])
        yield folder


class Answering(lmms):
    """A chat model that answers by a function of the row."""

    is_simple = False

    def __init__(self, answer: Callable[[dict[str, Any]], str], simple: bool = False) -> None:
        super().__init__()
        self.answer = answer
        self.is_simple = simple
        self.requests: list[Any] = []

    def generate_until(self, requests: list[Any]) -> list[str]:
        self.requests += requests
        return [self.answer(self.task_dict[r.args[-2]][r.args[-1]][r.args[-3]]) for r in requests]

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError


def evaluate(model: lmms | str, *names: str, **options: Any) -> dict[str, Any]:
    results = simple_evaluate(
        model=model,
        tasks=list(names),
        task_manager=TaskManager(include_path=str(TASK_FOLDER), include_defaults=False),
        cli_args=argparse.Namespace(process_with_media=False, reasoning_tags=None),
        **options,
    )
    assert isinstance(results, dict)
    return results


def perfect(row: dict[str, Any]) -> str:
    return str(row["answer"])


def test_every_task_is_there() -> None:
    manager = TaskManager(include_path=str(TASK_FOLDER), include_defaults=False)
    assert set(manager.all_subtasks) == {name + split for name in OWN for split in SPLITS}
    assert set(manager.all_groups) == {"whatsup" + split for split in SPLITS}


@pytest.mark.parametrize("name", OWN)
def test_each_task_is_as_its_data_set_says(name: str) -> None:
    manager = TaskManager(include_path=str(TASK_FOLDER), include_defaults=False)
    for split in SPLITS:
        config = manager._get_config(name + split)
        metadata = config["metadata"]
        assert (metadata["version"], metadata["table"]) == (1.0, OWN[name].name)
        assert json.loads(Path(config["dataset_kwargs"]["data_files"]["test"]).read_text()) == {"table": OWN[name].name}
        metrics = [metric["metric"] for metric in config["metric_list"]]
        assert not [(a, b) for a, b in combinations(metrics, 2) if a in b or b in a], "groups match by substring"
        assert config["generation_kwargs"]["do_sample"] is False
        assert config["generation_kwargs"]["max_new_tokens"] == OWN[name].max_new_tokens
        assert config["process_results"] is getattr(tasks, f"{OWN[name].scoring}_results")
    assert ("pair_acc" in metrics) == (name in ("whatsup_controlled_a", "whatsup_controlled_b", "whatsup_demo"))


@pytest.mark.parametrize("simple", [False, True], ids=["chat", "simple"])
def test_what_a_model_is_asked(simple: bool) -> None:
    model = Answering(perfect, simple)
    evaluate(model, "whatsup_controlled_a", "vsr", limit=1)
    asked = {request.args[-2]: request.args for request in model.requests}
    text = "Where is the left shoe in relation to the chair? Answer with left, right, on or under."
    assert asked["whatsup_controlled_a"][0] == text
    task = "Determine whether the description about the spatial relationship is correct or not."
    assert asked["vsr"][0] == f"{task} Answer with yes or no: The cat is under the bed."
    options = asked["whatsup_controlled_a"][1 if simple else 2]
    assert options == {"max_new_tokens": 100, "temperature": 0.0, "do_sample": False, "until": []}
    row = model.task_dict["whatsup_controlled_a"]["test"][0]
    assert row["prompt"] == f"<image>\nUSER: {text}\nASSISTANT:"
    if simple:
        [image] = asked["whatsup_controlled_a"][2](row)
    else:
        [turn] = asked["whatsup_controlled_a"][1](row)
        assert turn["role"] == "user"
        assert [part["type"] for part in turn["content"]] == ["image", "text"]
        assert turn["content"][1]["text"] == text
        image = turn["content"][0]["url"]
    assert (image.mode, image.size) == ("RGB", (24, 18))


def test_a_model_may_give_the_longest_answer_of_each_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_vlmevalkit_input` holds VLMEvalKit to the same limits."""
    limits = []
    answer = Runner.answer

    def recorded(*arguments: Any, **options: Any) -> Any:
        limits.append(options["max_new_tokens"])
        return answer(*arguments, **options)

    monkeypatch.setattr(Runner, "answer", recorded)
    evaluate("llava_baseline", *OWN, model_args="pretrained=demo", limit=1)
    assert sorted(limits) == sorted(own.max_new_tokens for own in OWN.values())
    assert set(limits) == {100}, "the authors' limit"


def test_a_perfect_model_gets_everything() -> None:
    results = evaluate(Answering(perfect), "whatsup", "vsr")
    for own in PUBLISHED:
        scores = results["results"][own.task]
        assert results["n-samples"][own.task]["effective"] == ROWS[own.name]
        values = {k: v for k, v in scores.items() if k.endswith(",none") and "stderr" not in k and v is not None}
        assert values.pop("neither,none", 0.0) == 0.0
        assert set(values.values()) == {1.0}, own.task
    group = results["groups"]["whatsup"]
    assert {group[f"{m}_acc,none"] for m in ("individual", "strict", "pair", "set")} == {1.0}


def test_splits_and_ceilings() -> None:
    """On a split the authors divide by n/2 and n/4, so a perfect model stays below one."""
    results = evaluate(Answering(perfect), "whatsup_demo_val", "whatsup_demo_test", "vsr_val", "vsr_test")
    counts = {name: count["effective"] for name, count in results["n-samples"].items()}
    assert counts == {"whatsup_demo_val": 80, "whatsup_demo_test": 320, "vsr_val": 2, "vsr_test": 8}
    docs = [sample["doc"] for sample in results["samples"]["whatsup_demo_test"]]
    judged = whatsup.outcomes([{**doc, "generation": doc["answer"]} for doc in docs])
    scores = results["results"]["whatsup_demo_test"]
    assert scores["individual_acc,none"] == 1.0
    assert scores["pair_acc,none"] == pytest.approx(whatsup.ceiling(judged, "pair_id"))
    assert scores["set_acc,none"] == pytest.approx(whatsup.ceiling(judged, "set_id"))
    assert scores["set_acc,none"] < 0.7


def test_standard_errors_count_pairs_and_sets() -> None:
    """A pair is one observation, so the error is that of 200 pairs, not of 400 rows."""

    def half_right(row: dict[str, Any]) -> str:
        return "" if row["set_id"] % 2 or (row["pair_id"] % 4 == 0 and row["relation"] == "left") else row["answer"]

    results = evaluate(Answering(half_right), "whatsup_demo", "whatsup_demo_test")
    scores = results["results"]["whatsup_demo"]
    for metric, count, share in (("pair", 200, 0.25), ("set", 100, 0.0)):
        assert scores[f"{metric}_acc,none"] == share
        error = math.sqrt(share * (1 - share) / (count - 1))
        assert scores[f"{metric}_acc_stderr_clt,none"] == pytest.approx(error)
    # rows of a set stand or fall together, which only the clustered error knows
    assert scores["individual_acc_stderr_clustered,none"] > 1.5 * scores["individual_acc_stderr_clt,none"]
    items = [sample["pair_acc"] for sample in results["samples"]["whatsup_demo_test"]]
    observed = [item["score"] for item in items if "score" in item]
    assert len(observed) == len(whatsup.whole_groups(items, "pair_id"))
    assert sum(observed) / len(observed) == pytest.approx(results["results"]["whatsup_demo_test"]["pair_acc,none"])


def test_both_rules_and_relations() -> None:
    answers = {
        "left": "left or right",
        "right": "Right, behind it",
        "on": "on the floor, under it",
        "under": "beneath it",
    }
    scores = evaluate(Answering(lambda row: answers[row["relation"]]), "whatsup_demo")["results"]["whatsup_demo"]
    assert scores["individual_acc,none"] == 3 / 4
    assert scores["strict_acc,none"] == 2 / 4
    assert [scores[f"rel_{r},none"] for r in ("left", "right", "on", "under")] == [1, 1, 1, 0]


def test_vsr_scores() -> None:
    scores = evaluate(Answering(lambda row: "yes, it is" if row["id"] % 3 else "unclear"), "vsr")["results"]["vsr"]
    assert scores["neither,none"] == 0.4
    assert (scores["accuracy,none"], scores["authors_acc,none"]) == (0.3, 0.0)
    assert (scores["precision,none"], scores["recall,none"]) == (3 / 6, 3 / 5)
    assert scores["standard_f1,none"] == pytest.approx(6 / 11)
    assert scores["cat_adjacency,none"] is None
    assert scores["rel[facing],none"] == pytest.approx(1 / 3)


def test_data_that_fail_end_the_run_at_once_in_their_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lmms-eval asks five times, two seconds apart, and ends with RetryError; for data there is nothing to wait for."""
    calls: list[str] = []

    def load(name: str) -> Any:
        calls.append(name)
        return load_table(name)

    monkeypatch.setattr(tasks, "load_table", load)
    for file in ("_default_template_yaml", "whatsup_coco_two.yaml"):
        shutil.copy(TASK_FOLDER / "whatsup" / file, tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "coco_two.json").write_text('{"table": "nowhere"}')
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with pytest.raises(DataError, match="'nowhere' is not a data set") as caught:
        simple_evaluate(model=Answering(perfect), tasks=["whatsup_coco_two"], task_manager=manager)
    assert caught.value.__cause__ is None and calls == ["nowhere"]


def test_a_label_that_cannot_be_scored_ends_the_run_before_it_begins() -> None:
    """Found while scoring, it would end the run after the last answer, and lmms-eval would write none of them."""
    table = load_table("coco_two").select(range(2))
    relabelled = table.remove_columns("answer").add_column("answer", ["Left", "Inside"])
    with pytest.raises(DataError, match=r"coco_two holds a label that cannot be scored: .*'inside'"):
        tasks._check_labels("coco_two", relabelled)
    with pytest.raises(DataError, match=r"vsr holds a label that cannot be scored: .*'Left'"):
        tasks._check_labels("vsr", table)


def test_a_metric_that_fails_loses_no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pictures cannot make a pair, which the metric says by raising."""
    [row] = [{"correct": True, "relation": "left", "pair_id": 1, "set_id": 1}]
    with pytest.raises(ValueError, match="pair_id 1 has 3 rows"):
        whatsup.group_accuracy([row] * 3, "pair_id")  # type: ignore[list-item]
    assert math.isnan(tasks.pair_accuracy([row] * 3) or 0)

    def fails(*_: object) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(whatsup, "group_accuracy", fails)
    results = evaluate(Answering(perfect), "whatsup", limit=8)
    assert {sample["filtered_resps"][0] for sample in results["samples"]["whatsup_controlled_a"]} >= {"Left", "Right"}
    scores = results["results"]["whatsup_controlled_a"]
    assert math.isnan(scores["pair_acc,none"]) and scores["individual_acc,none"] == 1


@pytest.mark.skipif(not (DEMO_MODEL / "config.json").exists(), reason="needs the embedded model")
def test_the_real_command_fetches_verifies_and_scores(tmp_path: Path) -> None:
    """`lmms-eval --tasks whatsup,vsr` from nothing but a server with the published layout."""
    with serve() as site:
        site.fill()
        environment = {
            **os.environ,
            "ADAPTVIS_CACHE": str(tmp_path / "cache"),
            "ADAPTVIS_SOURCES": str(sources(tmp_path, site.host)),
            "HF_ENDPOINT": site.host.rstrip("/"),
            "HF_HUB_OFFLINE": "0",
        }
        options = {
            "--model": "llava_adaptvis",
            "--model_args": "pretrained=demo",
            "--tasks": "whatsup,vsr",
            "--batch_size": "10",
            "--gen_kwargs": "max_new_tokens=4",
            "--output_path": str(tmp_path / "out"),
        }
        program = str(Path(sys.executable).parent / "lmms-eval")
        command = [program, *(word for option in options.items() for word in option), "--log_samples"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    files = list((tmp_path / "out").glob("*/*_results.json"))
    assert len(files) == 1, done.stdout[-3000:] + done.stderr[-3000:]
    written = json.loads(files[0].read_text())
    for own in PUBLISHED:
        assert written["n-samples"][own.task]["effective"] == ROWS[own.name]
    assert 0 <= written["results"]["whatsup"]["individual_acc,none"] <= 1
    assert {path.parent.name for path in (tmp_path / "cache").glob("*/table.arrow")} == {own.name for own in PUBLISHED}
