"""An HTML page that needs no network, from a template.

Names, questions and answers come from models and files of others. Jinja escapes them, the rows' data stand in a script
element that holds no markup, and the page's policy lets no script run but its own.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

LONGEST = 600
"""The longest text of an answer or question in a page, in characters; the CSV files have all of it."""


def render(package: str, template: str, scripts: Sequence[str], **values: Any) -> str:
    """Return a page.

    Args:
        package: The package whose folder `templates` has the page's own files; what pages share lies in this one's.
        template: The template's file.
        scripts: The files of its script, joined in this order.
        **values: What the template shows. `script`, `style` and `script_hash` are added.
    """
    loader = ChoiceLoader([PackageLoader(place) for place in (package, "adaptvis_plugin.comparison")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Options stay in their order, and a number that no browser can read is an error here.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}

    def source(name: str) -> str:
        return loader.get_source(environment, name)[0]

    script, style = "\n".join(map(source, scripts)), source("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        script=Markup(script), style=Markup(style), script_hash=digest, **values
    )


def shortened(value: Any) -> str:
    """Return a text of a row as a page shows it."""
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def rounded(value: Any) -> float | None:
    """Return a number as it stands in a page; None if there is none."""
    return None if value is None or math.isnan(value) else round(float(value), 4)


def data_address(jpeg: bytes) -> str:
    """Return a JPEG file as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
