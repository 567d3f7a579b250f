"""The real processors of the families in `special`."""

from tests.families.checkpoint import Processor

PROCESSORS: dict[str, Processor] = {}
