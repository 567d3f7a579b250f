"""The strict rule and the reading of yes and no, against answers that a person judged.

`data/judged_answers.csv` was labelled by reading, before the rules were written: is the answer's relation the
label's, and no other, as the relation asked for? For VSR: does the answer say that the caption is true, that it
is false, or neither?
"""

import csv
from pathlib import Path

from adaptvis_plugin.scoring import matches, vsr

with (Path(__file__).parent / "data" / "judged_answers.csv").open(newline="", encoding="utf-8") as file:
    JUDGED = list(csv.DictReader(file))


def verdict(row: dict[str, str]) -> str:
    if row["options"] == "yes/no":
        return {True: "yes", False: "no", None: "neither"}[vsr.yes_or_no(row["answer"])]
    return "credited" if matches(row["answer"], row["label"], "strict") else "rejected"


def agreement(kind: str) -> tuple[int, int]:
    rows = [row for row in JUDGED if (row["options"] == "yes/no") == (kind == "VSR")]
    return sum(verdict(row) == row["verdict"] for row in rows), len(rows)


def test_agreement() -> None:
    assert {kind: agreement(kind) for kind in ("WhatsUp", "VSR")} == {"WhatsUp": (240, 417), "VSR": (54, 109)}
