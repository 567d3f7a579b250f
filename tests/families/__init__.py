"""Small random models of the supported families, each with inputs as its real processor returns them."""

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
