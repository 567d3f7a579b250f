"""The data sets. Import them through `register()`: this module imports VLMEvalKit."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
from PIL import Image
from vlmeval.dataset.image_base import ImageBaseDataset

from adaptvis_plugin.data import load_table
from adaptvis_plugin.data.questions import with_whole_prompt
from adaptvis_plugin.scoring import vsr, whatsup
from adaptvis_plugin.vlmevalkit.names import own_data_sets

Rows = Sequence[Mapping[str, Any]]
_COLUMNS = ("question", "prompt", "options", "answer", "relation", "set_id", "pair_id", "split")


class TableDataset(ImageBaseDataset):
    """One of the prepared tables. Every model is asked the paper's question; the images are the source's own files.

    The paper's whole prompt, whose wording no template can rebuild, travels in the text message; only this plugin's
    models read it.
    """

    force_use_dataset_prompt = True
    HEADLINE: tuple[str, ...]

    def load_data(self, dataset: str) -> pd.DataFrame:
        """The table's rows, each with the path of its image.

        Raises:
            DataError: if the data cannot be had or is not what it should be.
        """
        table = load_table(own_data_sets()[dataset].name).cast_column("image", datasets.Image(decode=False))
        folder = Path(self.img_root)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for row in table:
            path = _image_file(folder, row["image"]["bytes"])
            rows.append({"index": row["id"], **{name: row[name] for name in _COLUMNS}, "image_path": str(path)})
        # A missing id stays None: as a float column the ids of other rows would change their type.
        frame = pd.DataFrame(rows).astype({"set_id": object, "pair_id": object})
        self.fingerprint = _fingerprint(rows)
        return frame

    def build_prompt(self, line: int | Mapping[str, Any]) -> list[dict[str, Any]]:
        """The image, then the question."""
        row = self.data.iloc[line] if isinstance(line, int) else line
        return [
            {"type": "image", "value": row["image_path"]},
            with_whole_prompt({"type": "text", "value": row["question"]}, row["prompt"]),
        ]

    def evaluate(self, eval_file: str, **judge_kwargs: Any) -> pd.DataFrame:
        """Score a prediction file, without any judge model; in percent, also written beside the file.

        Raises:
            ValueError: if the file answers questions that the data set does not have.
        """
        metrics = {name: 100 * value for name, value in self.scores(self._answered(eval_file)).items()}
        result = pd.DataFrame([metrics])
        path = Path(eval_file)
        result.to_csv(path.with_name(f"{path.stem}_{self.SUFFIX}.csv"), index=False)
        return result

    def scores(self, rows: Rows) -> dict[str, float]:
        """All metrics of rows with a `generation` each, in 0..1; the one named `Overall` leads."""
        raise NotImplementedError

    @classmethod
    def report_primary_metric(cls, metrics: dict[str, Any] | None) -> dict[str, Any]:
        """The metrics in the runner's summary."""
        return {name: metrics[name] for name in cls.HEADLINE if name in metrics} if metrics else {}

    def _answered(self, eval_file: str) -> list[dict[str, Any]]:
        known = {str(row["index"]): row for row in self.data.to_dict("records")}
        answers = _predictions(Path(eval_file))
        strange = [index for index in answers if index not in known]
        if strange:
            raise ValueError(
                f"{eval_file} answers questions {', '.join(strange[:5])} that {self.dataset_name} does not have; it "
                "was made with other data. Delete it, or use another --work-dir"
            )
        # The truth is the table's; the file was through a spreadsheet.
        return [{**known[index], "generation": text} for index, text in answers.items()]


class WhatsUpDataset(TableDataset):
    """The WhatsUp subsets and the demo scenes."""

    TYPE = "VQA"
    SUFFIX = "acc"
    DATASET_URL = {name: "" for name, own in own_data_sets().items() if own.scoring == "whatsup"}  # noqa: RUF012
    HEADLINE = ("Overall", "pair_acc", "set_acc", "strict_acc")

    def scores(self, rows: Rows) -> dict[str, float]:
        """Accuracy, pairs, sets and strict accuracy of all rows and of the authors' test split, and by relation."""
        test = [row for row in rows if row["split"] == "test"]
        relations = whatsup.accuracy_by_relation(whatsup.outcomes(rows))
        return {
            **_accuracies(rows),
            **{f"rel_{name}": value for name, value in relations.items()},
            **({f"test_{name.lower()}": value for name, value in _accuracies(test).items()} if test else {}),
        }


class VSRDataset(TableDataset):
    """VSR in question form: is the caption true of the picture?"""

    TYPE = "Y/N"
    SUFFIX = "score"
    DATASET_URL = {name: "" for name, own in own_data_sets().items() if own.scoring == "vsr"}  # noqa: RUF012
    HEADLINE = ("Overall", "standard_f1", "authors_f1")

    def scores(self, rows: Rows) -> dict[str, float]:
        """Accuracy, both F1s of all rows and of the authors' test split, by category and by relation."""
        test = [row for row in rows if row["split"] == "test"]
        return {
            "Overall": vsr.score(rows)["accuracy"],
            **_vsr_scores(rows),
            **({f"test_{name}": value for name, value in _vsr_scores(test).items()} if test else {}),
            **{f"cat_{name}": value for name, value in vsr.accuracy_by_category(rows).items()},
            **{f"rel_{name}": value for name, value in vsr.accuracy_by_relation(rows).items()},
        }


def _accuracies(rows: Rows) -> dict[str, float]:
    judged = whatsup.outcomes(rows)
    found = {
        "Overall": whatsup.accuracy(judged),
        "strict_acc": whatsup.accuracy(whatsup.outcomes(rows, "strict")),
    }
    if all(outcome["pair_id"] is not None for outcome in judged):
        found["pair_acc"] = whatsup.group_accuracy(judged, "pair_id", "authors")
        found["set_acc"] = whatsup.group_accuracy(judged, "set_id", "authors")
    return found


def _vsr_scores(rows: Rows) -> dict[str, float]:
    return {name: float(value) for name, value in vsr.score(rows).items()}  # type: ignore[arg-type]


def _image_file(folder: Path, data: bytes) -> Path:
    """The file with an image's own bytes, named by them: never stale, whole or absent, one for rows that share it."""
    with Image.open(io.BytesIO(data)) as image:
        kind = str(image.format).lower()
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.{kind}"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(data)
        os.replace(part, path)
    return path


def _fingerprint(rows: Rows) -> str:
    """What a model is asked, in short: answers to other questions or pictures must not be taken for these."""
    digest = hashlib.sha256()
    for row in rows:
        asked = (str(row["index"]), row["question"], row["prompt"], Path(row["image_path"]).name)
        digest.update("\0".join(asked).encode())
    return digest.hexdigest()[:16]


def _predictions(path: Path) -> dict[str, str]:
    """Index -> prediction. Read as text: to pandas the answers "None" and "NA" would be missing values."""
    if path.suffix == ".json":
        frame = pd.read_json(path, dtype=False)
    else:
        read: Any = pd.read_excel if path.suffix == ".xlsx" else pd.read_csv
        options = {} if path.suffix == ".xlsx" else {"sep": "\t"}
        frame = read(path, dtype=str, keep_default_na=False, **options)
    return {str(index): str(text) for index, text in zip(frame["index"], frame["prediction"], strict=True)}
