"""Small random models of the families the decoder supports, each with inputs as its real processor returns them."""

from tests.families import mrope, plain, special
from tests.families.build import Family

FAMILIES: dict[str, Family] = {family.name: family for family in [*plain.FAMILIES, *mrope.FAMILIES, *special.FAMILIES]}
REFUSED: list[Family] = special.REFUSED
