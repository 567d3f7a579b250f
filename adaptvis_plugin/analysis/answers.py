"""A few demo scenes with each method's answer, as a picture."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from adaptvis_plugin.data import load_table
from adaptvis_plugin.scoring import matches

RIGHT, WRONG = "#1b7837", "#b2182b"


def draw_answers(answers: pd.DataFrame, path: Path, per_relation: int = 2) -> None:
    """Draw scenes of every relation, alternately one with different answers and one with the same answer.

    The choice does not depend on which method is right.

    Args:
        answers: The columns method, doc_id, answer, confidence, alpha; the same rows for every method.
        path: The PNG file to write.
        per_relation: The number of scenes of each relation.
    """
    table = load_table("demo")
    by_row = answers.pivot(index="doc_id", columns="method", values="answer")
    rows = pd.DataFrame(
        {"differ": by_row.nunique(axis=1) > 1, "relation": [table[i]["relation"] for i in by_row.index]}
    )
    rows["turn"] = rows.groupby(["relation", "differ"]).cumcount()
    rows = rows.sort_values(["turn", "differ"], ascending=[True, False], kind="stable")
    chosen = rows.groupby("relation").head(per_relation).sort_values("relation", kind="stable").index

    columns = -(-len(chosen) // per_relation)
    figure = Figure(figsize=(3 * columns, 4 * per_relation))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.94, bottom=0.09, wspace=0.05, hspace=0.36)
    axes = figure.subplots(per_relation, columns, squeeze=False).T.flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, doc_id in zip(axes, chosen, strict=False):
        document = table[int(doc_id)]
        axis.imshow(document["image"])
        question, _, options = document["question"].partition("? ")
        axis.set_title(f"{question}?\n{options}", fontsize=8)
        for line, answer in enumerate(answers[answers["doc_id"] == doc_id].to_dict("records")):
            right = matches(answer["answer"], document["answer"])
            axis.text(
                0.5,
                -0.04 - 0.08 * line,
                f"{'✓' if right else '✗'} {answer['method']}: {answer['answer']}  (alpha {answer['alpha']:g})",
                color=RIGHT if right else WRONG,
                transform=axis.transAxes,
                ha="center",
                va="top",
                fontsize=9,
            )
        confidence = answers[answers["doc_id"] == doc_id]["confidence"].iloc[0]
        axis.text(0.02, 0.02, f"confidence {confidence:.2f}", transform=axis.transAxes, fontsize=8, color="white",
                  bbox={"facecolor": "black", "alpha": 0.6, "pad": 2, "linewidth": 0})  # fmt: skip
    figure.savefig(path, dpi=110)
