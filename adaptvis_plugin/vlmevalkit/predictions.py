"""VLMEvalKit's files of predictions. Imports nothing of VLMEvalKit."""

from pathlib import Path

import pandas as pd


def read_predictions(path: Path) -> pd.DataFrame:
    """Return a file's rows, read as text: to pandas, the answers "None" and "NA" would be missing values."""
    if path.suffix == ".json":
        return pd.read_json(path, dtype=False).astype(str)
    if path.suffix == ".xlsx":
        return pd.read_excel(path, dtype=str, keep_default_na=False)
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
