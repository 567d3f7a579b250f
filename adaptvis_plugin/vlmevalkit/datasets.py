"""The data set classes. Import this module through `register()`: it imports VLMEvalKit."""

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
from adaptvis_plugin.data.dataset import Scoring
from adaptvis_plugin.data.questions import with_whole_prompt
from adaptvis_plugin.scoring import vsr, whatsup
from adaptvis_plugin.vlmevalkit.names import own_data_sets
from adaptvis_plugin.vlmevalkit.predictions import read_predictions

Answers = Sequence[Mapping[str, Any]]
_COLUMNS = ("question", "prompt", "options", "answer", "relation", "set_id", "pair_id", "split")


class TableDataset(ImageBaseDataset):
    """One of the prepared tables. Every model is asked the paper's question; the images are the source's own files.

    No template can rebuild the wording of the paper's whole prompt, so it travels in the text message. Only this
    plugin's models read it.
    """

    SCORING: Scoring
    SUFFIX: str
    HEADLINE: tuple[str, ...]
    force_use_dataset_prompt = True

    @classmethod
    def supported_datasets(cls) -> list[str]:
        """Return the names of the data sets that are scored this way."""
        return [name for name, own in own_data_sets().items() if own.scoring == cls.SCORING]

    def load_data(self, dataset: str) -> pd.DataFrame:
        """Return the table's rows, each with the path of its image.

        Raises:
            DataError: If the data cannot be had or is not what it should be.
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
        """Return the image, then the question."""
        row = self.data.iloc[line] if isinstance(line, int) else line
        return [
            {"type": "image", "value": row["image_path"]},
            with_whole_prompt({"type": "text", "value": row["question"]}, row["prompt"]),
        ]

    def evaluate(self, eval_file: str, **judge_kwargs: Any) -> pd.DataFrame:
        """Score a prediction file, without any judge model; in percent, also written beside the file.

        Raises:
            ValueError: If the file answers questions that the data set does not have.
        """
        rows = self._answered(eval_file)
        test = [row for row in rows if row["split"] == "test"]
        metrics = {
            **self.totals(rows),
            **self.details(rows),
            **({f"test_{name.lower()}": value for name, value in self.totals(test).items()} if test else {}),
        }
        result = pd.DataFrame([{name: 100 * value for name, value in metrics.items()}])
        path = Path(eval_file)
        result.to_csv(path.with_name(f"{path.stem}_{self.SUFFIX}.csv"), index=False)
        return result

    def totals(self, rows: Answers) -> dict[str, float]:
        """Return the metrics that all rows and the authors' test split have, in 0..1."""
        raise NotImplementedError

    def details(self, rows: Answers) -> dict[str, float]:
        """Return the metrics that only all rows have, in 0..1."""
        raise NotImplementedError

    @classmethod
    def report_primary_metric(cls, metrics: dict[str, Any] | None) -> dict[str, Any]:
        """Return the metrics in the runner's summary."""
        return {name: metrics[name] for name in cls.HEADLINE if name in metrics} if metrics else {}

    def _answered(self, eval_file: str) -> list[dict[str, Any]]:
        known = {str(row["index"]): row for row in self.data.to_dict("records")}
        frame = read_predictions(Path(eval_file))
        answers = dict(zip(frame["index"], frame["prediction"], strict=True))
        strange = [index for index in answers if index not in known]
        if strange:
            raise ValueError(
                f"{eval_file} answers questions {', '.join(strange[:5])} that {self.dataset_name} does not have; it "
                "was made with other data. Delete it, or use another --work-dir"
            )
        # The truth is the table's; the file was through a spreadsheet.
        return [{**known[index], "generation": text} for index, text in answers.items()]


class WhatsUpDataset(TableDataset):
    """The WhatsUp subsets and the demo scenes: accuracy, pairs, sets and strict accuracy; accuracy by relation."""

    SCORING = "whatsup"
    TYPE = "VQA"
    SUFFIX = "acc"
    HEADLINE = ("Overall", "pair_acc", "set_acc", "strict_acc")

    def totals(self, rows: Answers) -> dict[str, float]:
        """Return accuracy under both rules, and of pairs and sets if the data has them."""
        judged = whatsup.outcomes(rows)
        found = {
            "Overall": whatsup.accuracy(judged),
            "strict_acc": whatsup.accuracy(whatsup.outcomes(rows, "strict")),
        }
        if all(outcome["pair_id"] is not None for outcome in judged):
            found["pair_acc"] = whatsup.group_accuracy(judged, "pair_id", "authors")
            found["set_acc"] = whatsup.group_accuracy(judged, "set_id", "authors")
        return found

    def details(self, rows: Answers) -> dict[str, float]:
        """Return the accuracy of each relation."""
        relations = whatsup.accuracy_by_relation(whatsup.outcomes(rows))
        return {f"rel_{name}": value for name, value in relations.items()}


class VSRDataset(TableDataset):
    """VSR in question form: accuracy and both F1s; accuracy by category and by relation."""

    SCORING = "vsr"
    TYPE = "Y/N"
    SUFFIX = "score"
    HEADLINE = ("Overall", "standard_f1", "authors_f1")

    def totals(self, rows: Answers) -> dict[str, float]:
        """Return all metrics of `adaptvis_plugin.scoring.vsr.score`."""
        return {name: float(value) for name, value in vsr.score(rows).items()}  # type: ignore[arg-type]

    def details(self, rows: Answers) -> dict[str, float]:
        """Return the accuracy by the name that the runner shows first, and that of each category and relation."""
        return {
            "Overall": vsr.score(rows)["accuracy"],
            **{f"cat_{name}": value for name, value in vsr.accuracy_by_category(rows).items()},
            **{f"rel_{name}": value for name, value in vsr.accuracy_by_relation(rows).items()},
        }


CLASSES = (WhatsUpDataset, VSRDataset)
"""One class for each way of scoring."""


def _image_file(folder: Path, data: bytes) -> Path:
    """Return the file with an image's own bytes.

    It is named by its content, so it is never stale, it is complete or missing, and rows with the same image share it.
    """
    with Image.open(io.BytesIO(data)) as image:
        kind = str(image.format).lower()
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.{kind}"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(data)
        os.replace(part, path)
    return path


def _fingerprint(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of all that a model is asked, to tell answers to other questions or pictures from these."""
    digest = hashlib.sha256()
    for row in rows:
        asked = (str(row["index"]), row["question"], row["prompt"], Path(row["image_path"]).name)
        digest.update("\0".join(asked).encode())
    return digest.hexdigest()[:16]
