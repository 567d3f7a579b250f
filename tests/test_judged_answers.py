"""The strict rule, and the reading of yes and no, compared with answers that were judged by reading.

`data/judged_answers.csv` was labelled by reading each answer, before the rules were written. For WhatsUp, does the
answer give the label's relation, and no other, as the relation that the question asks for? For VSR, does the answer
say that the caption is true, that it is false, or neither?

The parts `held_out_1`, `_2` and `_3` were each labelled after a version of the rules was written and before that
version was run on them. They then led to further entries in the tables. On the first run, the rules agreed with 63 of
81, 69 of 75 and 53 of 61 answers (VSR: 27 of 32, 28 of 30 and 19 of 22). The rules before these tables agree with 48,
56 and 37 (VSR: 14, 19 and 10).
"""

import csv
from pathlib import Path

import pytest

from adaptvis_plugin.scoring import matches, vsr

with (Path(__file__).parent / "data" / "judged_answers.csv").open(newline="", encoding="utf-8") as file:
    JUDGED = list(csv.DictReader(file))

KNOWN = {
    # a name counts for whichever thing it is said of
    ("On", "The mug is on the table, and the plate is to the left."),
    ("Under", "The table is under the mug."),
    ("Behind", "The woman on the left is behind the car."),
    ("Right", "The woman is to the right of the left car."),
    ("Front", "The plate is in the back and the cup in the front."),
    ("Top", "There is a laptop on top of the desk."),
    ("Top", "The dog is on top of the car."),
    ("Top", "At the top of the hill."),
    # "above" is not an option there, so it does not count
    ("Left", "top left"),
    # cut off there, it looks like "The answer is on"
    ("On", "The mug is on"),
    # no entry of the tables covers it
    ("Front", "The cup is placed before the plate."),
    ("Left", "Left foreground"),
    ("Left", "After the guests left, nobody cleaned the table."),
    ("Left", "It is on the opposite side from right, i.e. left."),
    ("Right", "You have the right to know: I cannot see it."),
}
"""The answers on which the rules and the reader are known to differ."""


def verdict(row: dict[str, str], options: list[str] | None) -> str:
    if row["options"] == "yes/no":
        return {True: "yes", False: "no", None: "neither"}[vsr.yes_or_no(row["answer"])]
    return "credited" if matches(row["answer"], row["label"], "strict", options) else "rejected"


def rows(kind: str, part: str) -> list[dict[str, str]]:
    return [row for row in JUDGED if (row["options"] == "yes/no") == (kind == "VSR") and row["part"] == part]


def test_the_rules_judge_as_the_reader_did_but_for_what_is_known() -> None:
    differ = {
        (row["label"], row["answer"]) for row in JUDGED if verdict(row, row["options"].split("/")) != row["verdict"]
    }
    assert differ == KNOWN


@pytest.mark.parametrize(
    ("kind", "part", "agree", "agree_without_options", "total"),
    [
        ("WhatsUp", "listed", 411, 401, 417),
        ("VSR", "listed", 109, 109, 109),
        ("WhatsUp", "held_out_1", 79, 77, 81),
        ("VSR", "held_out_1", 32, 32, 32),
        ("WhatsUp", "held_out_2", 74, 71, 75),
        ("VSR", "held_out_2", 30, 30, 30),
        ("WhatsUp", "held_out_3", 55, 51, 61),
        ("VSR", "held_out_3", 22, 22, 22),
    ],
)
def test_agreement(kind: str, part: str, agree: int, agree_without_options: int, total: int) -> None:
    judged = rows(kind, part)
    assert len(judged) == total
    assert sum(verdict(row, row["options"].split("/")) == row["verdict"] for row in judged) == agree
    assert sum(verdict(row, None) == row["verdict"] for row in judged) == agree_without_options
