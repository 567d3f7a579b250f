"""Scores of the authors' recorded answers: every published number, exactly."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from adaptvis_plugin.data import authors_split
from adaptvis_plugin.scoring import vsr, whatsup

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the recorded runs")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


TRACES = {
    "Controlled_Images_A": ("Controlled_Images_A_with_answer_four_options", (0.5, 1.5, 0.4)),
    "COCO_QA_two_obj": ("COCO_QA_two_obj_with_answer_four_options", (0.5, 1.2, 0.3)),
    "VG_QA_one_obj": ("VG_QA_one_obj_with_answer_six_options", (0.5, 2.0, 0.2)),
}


def recorded(name: str, alpha: str) -> list[dict[str, Any]]:
    low, high, threshold = TRACES[name][1]

    def answer(row: dict[str, Any]) -> str:
        chosen = alpha if alpha != "adaptvis" else str(low if round(row["confidence"], 2) < threshold else high)
        return str(row["generations"][chosen])

    rows = lines(REFERENCE / "traces" / f"{name}.jsonl")
    return [{"answer": row["gold"], "generation": answer(row), "options": offered(row["question"])} for row in rows]


def offered(question: str) -> list[str]:
    return re.findall(r"\w+", question.split("Answer with ")[1].split(".")[0].replace(" or ", " "))


@pytest.mark.parametrize(
    ("name", "alpha", "published"),
    [
        ("Controlled_Images_A", "1.0", 60.30),
        ("Controlled_Images_A", "0.5", 58.18),
        ("Controlled_Images_A", "0.8", 64.55),
        ("Controlled_Images_A", "1.2", 57.58),
        ("Controlled_Images_A", "1.5", 56.06),
        ("Controlled_Images_A", "2.0", 54.55),
        ("Controlled_Images_A", "adaptvis", 84.85),
        ("COCO_QA_two_obj", "1.0", 58.24),
        ("COCO_QA_two_obj", "1.2", 59.09),
        ("COCO_QA_two_obj", "adaptvis", 59.94),
        ("VG_QA_one_obj", "1.0", 35.88),
        ("VG_QA_one_obj", "2.0", 42.67),
        ("VG_QA_one_obj", "adaptvis", 42.67),
    ],
)
def test_recorded_runs_are_reproduced(name: str, alpha: str, published: float) -> None:
    judged = whatsup.outcomes(recorded(name, alpha))
    assert round(100 * whatsup.accuracy(judged), 2) == published
    strict = whatsup.outcomes(recorded(name, alpha), "strict")
    assert round(100 * whatsup.accuracy(strict), 2) == published  # no answer here names two


def test_a_recorded_answer_that_names_two_relations_is_right_by_the_published_rule_only() -> None:
    rows = recorded("VG_QA_one_obj", "0.5")
    published, strict = whatsup.outcomes(rows), whatsup.outcomes(rows, "strict")
    differ = {r["generation"] for r, p, s in zip(rows, published, strict, strict=True) if p["correct"] != s["correct"]}
    assert differ == {
        f"The {thing} in the bottom right corner of the photo." for thing in ("chairs are", "coffee table is")
    }


@pytest.mark.parametrize("name", TRACES)
def test_recorded_runs_are_the_test_split(name: str) -> None:
    questions = lines(REFERENCE / "prompts" / f"{TRACES[name][0]}.jsonl")
    trace = lines(REFERENCE / "traces" / f"{name}.jsonl")
    _, test = authors_split(len(questions))
    assert [questions[i]["question"] for i in test] == [row["question"] for row in trace]
    assert [questions[i]["answer"][0] for i in test] == [row["gold"] for row in trace]


@pytest.mark.parametrize(("alpha", "pairs", "sets"), [("1.0", 40.6, 0.0), ("adaptvis", 61.2, 30.3)])
def test_published_pair_and_set_accuracy(alpha: str, pairs: float, sets: float) -> None:
    questions = lines(REFERENCE / "prompts" / f"{TRACES['Controlled_Images_A'][0]}.jsonl")
    objects = [row["question"].replace("on, or", "on or") for row in questions]
    number = {text: i for i, text in enumerate(dict.fromkeys(objects))}
    _, test = authors_split(len(questions))
    rows = []
    for index, row in zip(test, recorded("Controlled_Images_A", alpha), strict=True):
        set_id = number[objects[index]]
        pair_id = 2 * set_id + (row["answer"].lower() in ("on", "under"))
        rows.append({**row, "set_id": set_id, "pair_id": pair_id})
    judged = whatsup.outcomes(rows)
    assert round(100 * whatsup.group_accuracy(judged, "pair_id", "authors"), 1) == pairs
    assert round(100 * whatsup.group_accuracy(judged, "set_id", "authors"), 1) == sets
    assert round(100 * whatsup.ceiling(judged, "pair_id"), 1) == 80.0
    assert round(100 * whatsup.ceiling(judged, "set_id"), 1) == 58.2


def test_every_relation_of_vsr_has_a_category() -> None:
    rows = lines(REFERENCE / "vsr" / "test.jsonl") + lines(REFERENCE / "vsr" / "dev.jsonl")
    assert {vsr.category(row["relation"]) for row in rows} == set(vsr.CATEGORIES)
