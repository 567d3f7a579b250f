"""The real processors of the families in `mrope`."""

from tests.families.checkpoint import Processor

PROCESSORS: dict[str, Processor] = {}
