"""`sources.yaml`, and what ``ADAPTVIS_SOURCES`` changes in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from adaptvis_plugin.data.cache import DataError
from adaptvis_plugin.data.files import read_text

SOURCES = Path(__file__).with_name("sources.yaml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Subset(_Strict):
    """What one WhatsUp subset is made of. Without a ``…_sha256``, the file's contents are only counted."""

    subset: str
    rows: int
    questions: str
    questions_sha256: str
    annotations: str
    annotations_id: str
    annotations_sha256: str | None = None
    images: str
    images_id: str
    images_sha256: str | None = None


class Vsr(_Strict):
    """What VSR is made of."""

    rows: int
    hub: str
    file: str
    url: str
    content_sha256: str


class Sources(_Strict):
    """Everything data are fetched from; the comments are in `sources.yaml`."""

    drive_url: str
    questions_url: str
    coco_url: str
    whatsup_hub: list[str]
    whatsup: dict[str, Subset]
    vsr: Vsr


def load_sources() -> Sources:
    """The sources in force now.

    Raises:
        DataError: The file named by ``ADAPTVIS_SOURCES`` is not there or not of the form of `sources.yaml`.
    """
    facts = yaml.safe_load(SOURCES.read_text(encoding="utf-8"))
    own = os.environ.get("ADAPTVIS_SOURCES")
    if not own:
        return Sources.model_validate(facts)
    try:
        return Sources.model_validate(_merge(facts, yaml.safe_load(read_text(Path(own))) or {}))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    except (DataError, ValueError, yaml.YAMLError) as error:
        wrong = str(error)
    raise DataError(f"ADAPTVIS_SOURCES={own} cannot be used: {wrong}. It must be a YAML file with keys of {SOURCES}.")


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(change, dict):
        raise ValueError(f"a mapping is needed, not {change!r}")
    both = {k: _merge(v, change[k]) for k, v in base.items() if isinstance(v, dict) and k in change}
    return {**base, **change, **both}
