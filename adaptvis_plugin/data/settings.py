"""What ``ADAPTVIS_SOURCES`` changes in the published facts of the data sets.

The variable names a YAML file with the keys of the models in `whatsup.facts` and `vsr`, for example::

    drive_url: http://mirror.example/drive/
    whatsup: {vg_one: {images_sha256: null}}
    vsr: {url: http://mirror.example/vsr/test.jsonl}

Each value replaces the published one; everything else stays. The Hub's own address is ``HF_ENDPOINT``, as everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError, create_model

from adaptvis_plugin.data.cache import DataError
from adaptvis_plugin.data.dataset import Facts
from adaptvis_plugin.data.files import read_text
from adaptvis_plugin.data.registry import data_sets

F = TypeVar("F", bound=Facts)


def load_facts(kind: type[F]) -> F:
    """Return the facts of a data set with the user's changes.

    Args:
        kind: The data set's model; `Facts` stands for all of them.

    Raises:
        DataError: If the file named by ``ADAPTVIS_SOURCES`` is missing, is not YAML, or has unknown keys or wrong
            values, for whichever data set.
    """
    kinds = dict.fromkeys(data_set.facts for data_set in data_sets().values() if data_set.facts)
    everything = create_model("Sources", __base__=tuple(kinds))  # inherits the fields of all the models
    published = everything()
    own = os.environ.get("ADAPTVIS_SOURCES")
    if not own:
        return cast(F, published)
    try:
        changes = yaml.safe_load(read_text(Path(own))) or {}
        return cast(F, everything.model_validate(_merge(published.model_dump(), changes)))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    except (DataError, ValueError, yaml.YAMLError) as error:
        wrong = str(error)
    keys = ", ".join(sorted(everything.model_fields))
    raise DataError(f"ADAPTVIS_SOURCES={own} cannot be used: {wrong}. It must be a YAML file with keys among {keys}.")


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(changes, dict):
        raise ValueError(f"a mapping is needed, not {changes!r}")
    both = {k: _merge(v, changes[k]) for k, v in base.items() if isinstance(v, dict) and k in changes}
    return {**base, **changes, **both}
