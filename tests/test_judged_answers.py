"""The strict rule and the reading of yes and no, against answers that a person judged.

`data/judged_answers.csv` was labelled by reading, before the rules were written: is the answer's relation the
label's, and no other, as the relation asked for? For VSR: does the answer say that the caption is true, that it
is false, or neither? The parts `held_out_1`, `_2` and `_3` were each labelled after a version of the rules was
written and before it was run on them, and then led to further entries. At first sight the rules agreed with 63 of 81,
69 of 75 and 53 of 61 (VSR: 27 of 32, 28 of 30 and 19 of 22); the rules before this list agree with 48, 56 and 37
(14, 19 and 10).
"""

import csv
from pathlib import Path

import pytest

from adaptvis_plugin.scoring import matches, vsr

with (Path(__file__).parent / "data" / "judged_answers.csv").open(newline="", encoding="utf-8") as file:
    JUDGED = list(csv.DictReader(file))

KNOWN = {
    # a name counts whatever it is said of
    ("On", "The mug is on the table, and the plate is to the left."),
    ("Under", "The table is under the mug."),
    ("Behind", "The woman on the left is behind the car."),
    ("Right", "The woman is to the right of the left car."),
    ("Front", "The plate is in the back and the cup in the front."),
    ("Top", "There is a laptop on top of the desk."),
    ("Top", "The dog is on top of the car."),
    ("Top", "At the top of the hill."),
    # "above" is not on offer there, and so is not counted
    ("Left", "top left"),
    # where it is cut off, it looks like "The answer is on"
    ("On", "The mug is on"),
    # no entry covers what it says
    ("Front", "The cup is placed before the plate."),
    ("Left", "Left foreground"),
    ("Left", "After the guests left, nobody cleaned the table."),
    ("Left", "It is on the opposite side from right, i.e. left."),
    ("Right", "You have the right to know: I cannot see it."),
}
"""Where the rules and the person differ, and stay so."""


def verdict(row: dict[str, str], options: list[str] | None) -> str:
    if row["options"] == "yes/no":
        return {True: "yes", False: "no", None: "neither"}[vsr.yes_or_no(row["answer"])]
    return "credited" if matches(row["answer"], row["label"], "strict", options) else "rejected"


def rows(kind: str, part: str) -> list[dict[str, str]]:
    return [row for row in JUDGED if (row["options"] == "yes/no") == (kind == "VSR") and row["part"] == part]


def test_the_rules_judge_as_a_person_does_but_for_what_is_known() -> None:
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
