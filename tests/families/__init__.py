"""Small random models of the supported families, each with inputs as its real processor returns them."""

import transformers
from packaging.version import Version

from tests.families import mrope, processors_mrope, processors_special, processors_standard, special, standard
from tests.families.build import Family
from tests.families.checkpoint import Processor

FAMILIES: dict[str, Family] = {
    family.name: family for family in [*standard.FAMILIES, *mrope.FAMILIES, *special.FAMILIES]
}
REFUSED: list[Family] = special.REFUSED
PROCESSORS: dict[str, Processor] = {
    **processors_standard.PROCESSORS,
    **processors_mrope.PROCESSORS,
    **processors_special.PROCESSORS,
}
LACKING = {
    name: f"transformers {transformers.__version__} has no {family.architecture}"
    for name, family in FAMILIES.items()
    if not hasattr(transformers, family.architecture)
}
"""Why a family's tests are skipped with an older transformers."""

if Version(transformers.__version__) < Version("5.20"):
    LACKING["got_ocr2"] = f"got_ocr2's processor in transformers {transformers.__version__} takes no images by row"
