"""Answer matching and the metrics, on invented answers."""

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptvis_plugin.data import authors_split
from adaptvis_plugin.scoring import SYNONYMS, matches, named_relations, vsr, whatsup

LABELS = ["Left", "Right", "On", "Under", "Front", "Behind", "Top", "Bottom", "Above", "Below"]


# --- matching


@pytest.mark.parametrize(
    ("generation", "label", "authors", "strict"),
    [
        ("Left", "Left", True, True),
        ("left.", "Left", True, True),
        ("Right", "Left", False, False),
        ("", "Left", False, False),
        ("The cap is on the floor, under the table.", "On", True, False),
        ("The cap is on the floor, under the table.", "Under", True, True),
        ("The bottle is on the armchair.", "On", True, True),
        ("The bottle is in front of the armchair.", "On", False, False),
        ("The bottle is in front of the armchair.", "Front", True, True),
        ("Front", "On", False, False),
        ("The mug is on the left side of the table.", "Left", True, True),
        ("The mug is on the left side of the table.", "On", True, False),
        ("The mug is on the left-hand side.", "Left", True, True),
        ("It is to the left of the lamp.", "Left", True, True),
        ("It is to the\nleft of the lamp.", "Left", True, True),
        ("On top of the table", "On", True, True),
        ("on top of the table", "Top", True, True),
        ("On top of the table", "Above", False, True),
        ("over the bench", "Above", False, True),
        ("above the bench", "Top", False, True),
        ("above the table", "On", False, False),
        ("The bottom of the photo", "Below", False, True),
        ("on the bottom", "Bottom", True, True),
        ("on the bottom", "On", True, False),
        ("beneath the chair", "Under", False, True),
        ("underneath the chair", "Under", True, True),
        ("underneath the chair", "Below", False, True),
        ("The laptop", "Top", True, False),
        ("The lemon is behind the cup", "On", True, False),
        ("The lemon is behind the cup", "Behind", True, True),
        ("It is right behind the couch", "Behind", True, True),
        ("It is right behind the couch", "Right", True, False),
        ("It is right in front of the couch", "Front", True, True),
        ("The mug is on the right in front of the plate", "Right", True, False),
        ("in the bottom right corner of the photo", "Bottom", True, False),
        ("in the bottom right corner of the photo", "Right", True, False),
        ("It is not on the left.", "Left", True, False),
        ("It isn't left of the cup", "Left", True, False),
        ("not left but right", "Right", True, True),
        ("Left or right", "Left", True, False),
        ("No, it is on the left", "Left", True, True),
        ("Based on the image, it is to the left.", "Left", True, True),
        ("next to the plate", "Left", False, False),
        ("on the left, next to the plate", "Left", True, True),
        ("left, on the left", "Left", True, True),
    ],
)
def test_both_rules(generation: str, label: str, authors: bool, strict: bool) -> None:
    assert matches(generation, label) is authors
    assert matches(generation, label, "strict") is strict


def test_the_strict_rule_counts_what_the_question_offers() -> None:
    answer = "The cup is on the table, to the left of the plate."
    assert not matches(answer, "Left", "strict")
    assert matches(answer, "Left", "strict", ["left", "right", "front", "behind"])
    assert not matches(answer, "Left", "strict", ["left", "right", "on", "under"])
    row = {"generation": answer, "answer": "Left", "options": ["left", "right", "front", "behind"]}
    assert whatsup.judge(row, "strict")["correct"]


def test_a_wrong_request_is_refused() -> None:
    with pytest.raises(ValueError, match="'lenient'"):
        matches("left", "left", "lenient")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="inside"):
        matches("inside", "inside", "strict")
    with pytest.raises(ValueError, match="empty"):
        matches("left", " ")


@given(st.text(), st.sampled_from(LABELS))
def test_the_authors_rule_is_theirs(generation: str, label: str) -> None:
    contained = label in generation or label.lower() in generation.lower()
    theirs = contained and not (label.lower() == "on" and "front" in generation.strip().lower())
    assert matches(generation, label) == theirs


WORDS = st.lists(
    st.sampled_from([*SYNONYMS, "not", "the", "cup", "is", "of", "laptop", "in", "to", ",", "side"]),
    max_size=8,
).map(" ".join)


@given(WORDS, st.sampled_from(LABELS))
def test_strict_ignores_case_and_spacing_and_needs_the_right_name(generation: str, label: str) -> None:
    strict = matches(generation, label, "strict")
    assert matches(generation.upper().replace(" ", "  \n"), label.lower(), "strict") == strict
    if strict:
        assert named_relations(generation)


@given(WORDS)
def test_strict_never_credits_two_opposite_labels(generation: str) -> None:
    for one, other in [("Left", "Right"), ("On", "Under"), ("Front", "Behind"), ("Top", "Bottom")]:
        assert not (matches(generation, one, "strict") and matches(generation, other, "strict"))


# --- splits


@pytest.mark.parametrize(("n", "test"), [(412, 330), (408, 327), (2247, 1798), (440, 352), (1160, 928), (291, 233)])
def test_split_sizes_are_the_published_ones(n: int, test: int) -> None:
    assert len(authors_split(n)[1]) == test


@given(st.integers(0, 3000))
def test_split_is_a_sorted_partition(n: int) -> None:
    validation, test = authors_split(n)
    assert sorted(validation + test) == list(range(n))
    assert validation == sorted(validation) and test == sorted(test)
    assert len(validation) == int(0.2 * n)


def test_split_refuses_a_negative_size() -> None:
    with pytest.raises(ValueError, match="-1"):
        authors_split(-1)


# --- WhatsUp metrics


def make_sets(right: list[bool]) -> list[dict[str, Any]]:
    labels = ["Left", "Right", "On", "Under"]
    return [
        {
            "answer": labels[i % 4],
            "generation": labels[i % 4] if ok else "",
            "relation": labels[i % 4].lower(),
            "set_id": i // 4,
            "pair_id": i // 2,
        }
        for i, ok in enumerate(right)
    ]


def test_whatsup_metrics_of_a_small_example() -> None:
    rows = make_sets([True, True, True, True, True, True, True, False])
    for table in (rows, pd.DataFrame(rows)):
        judged = whatsup.outcomes(table)
        assert whatsup.accuracy(judged) == 7 / 8
        assert whatsup.group_accuracy(judged, "pair_id") == 3 / 4
        assert whatsup.group_accuracy(judged, "set_id") == 1 / 2
        assert whatsup.accuracy_by_relation(judged) == {"left": 1.0, "on": 1.0, "right": 1.0, "under": 0.5}


def test_broken_groups() -> None:
    judged = whatsup.outcomes(make_sets([True] * 8)[:-1])
    assert whatsup.group_accuracy(judged, "set_id") == 1.0
    assert whatsup.group_accuracy(judged, "set_id", "authors") == whatsup.ceiling(judged, "set_id") == 4 / 7


def test_rows_without_groups() -> None:
    rows = pd.DataFrame([{"answer": "Left", "generation": "Left", "pair_id": None, "set_id": float("nan")}])
    judged = whatsup.outcomes(rows)
    assert math.isnan(whatsup.group_accuracy(judged, "pair_id"))
    assert math.isnan(whatsup.accuracy([]))
    assert judged[0]["relation"] == "left"


def test_a_group_cannot_grow() -> None:
    rows = make_sets([True] * 4)
    with pytest.raises(ValueError, match="pair_id 0 has 4 rows"):
        whatsup.group_accuracy(whatsup.outcomes(rows + rows), "pair_id")


@given(st.lists(st.booleans(), min_size=1, max_size=10).flatmap(lambda sets: st.tuples(
    st.just(len(sets)), st.lists(st.booleans(), min_size=4 * len(sets), max_size=4 * len(sets))
)), st.randoms(use_true_random=False))  # fmt: skip
def test_group_accuracy_properties(made: tuple[int, list[bool]], order: Any) -> None:
    rows = make_sets(made[1])
    judged = whatsup.outcomes(rows)
    individual = whatsup.accuracy(judged)
    pair = whatsup.group_accuracy(judged, "pair_id")
    whole = whatsup.group_accuracy(judged, "set_id")
    assert whole <= pair <= individual
    assert pair == whatsup.group_accuracy(judged, "pair_id", "authors")
    order.shuffle(judged)
    assert whatsup.group_accuracy(judged, "pair_id") == pair
    assert whatsup.ceiling(judged, "set_id") == 1.0


# --- VSR metrics


def vsr_row(answer: str, generation: str, relation: str = "on") -> dict[str, Any]:
    return {"answer": answer, "generation": generation, "relation": relation}


def test_vsr_metrics_of_a_small_example() -> None:
    scores = vsr.score(
        [
            vsr_row("Yes", "Yes"),
            vsr_row("Yes", "No, it is behind."),
            vsr_row("Yes", "yes"),  # lower case: wrong for the authors
            vsr_row("No", "Yes"),
            vsr_row("No", "None of it"),  # contains "No": right for the authors
            vsr_row("No", "No."),
        ]
    )
    assert scores["accuracy"] == 3 / 6
    assert scores["precision"] == 2 / 3
    assert scores["recall"] == 2 / 3
    assert scores["standard_f1"] == pytest.approx(2 / 3)
    assert scores["authors_acc"] == 3 / 6
    assert scores["authors_f1"] == pytest.approx(2 * (1 / 3) * (2 / 3))
    assert scores["neither"] == 1 / 6


@pytest.mark.parametrize(
    ("generation", "said"),
    [("Yes", True), ("no.", False), ("yes and no", None), ("", None), ("None", None), ("yesterday", None)],
)
def test_yes_or_no(generation: str, said: bool | None) -> None:
    assert vsr.yes_or_no(generation) is said


def test_vsr_without_answers_or_rows() -> None:
    assert vsr.score([vsr_row("Yes", "?"), vsr_row("No", "?")])["standard_f1"] == 0
    with pytest.raises(ValueError, match="No rows"):
        vsr.score([])
    with pytest.raises(ValueError, match="'maybe'"):
        vsr.score([vsr_row("maybe", "Yes")])


@given(st.lists(st.tuples(st.sampled_from(["Yes", "No"]), st.sampled_from(["Yes", "No"])), min_size=1))
def test_f1_is_the_textbook_one(pairs: list[tuple[str, str]]) -> None:
    scores = vsr.score(vsr_row(*pair) for pair in pairs)
    hits = pairs.count(("Yes", "Yes"))
    errors = pairs.count(("Yes", "No")) + pairs.count(("No", "Yes"))
    assert scores["standard_f1"] == pytest.approx(2 * hits / (2 * hits + errors) if hits else 0)
    assert scores["accuracy"] == scores["authors_acc"] == pytest.approx(1 - errors / len(pairs))


def test_vsr_categories() -> None:
    rows = [vsr_row("Yes", "Yes", "on"), vsr_row("Yes", "No", "in"), vsr_row("No", "No", "next to")]
    assert vsr.accuracy_by_relation(rows) == {"in": 0.0, "next to": 1.0, "on": 1.0}
    assert vsr.accuracy_by_category(rows) == {"topological": 0.5, "unallocated": 1.0}
    with pytest.raises(ValueError, match="'orbiting'"):
        vsr.category("orbiting")


def test_no_relation_has_two_categories() -> None:
    relations = [relation for group in vsr.CATEGORIES.values() for relation in group]
    assert len(relations) == len(set(relations))
    assert len(vsr.CATEGORIES) == 7
