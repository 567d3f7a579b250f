"""Answer matching and the metrics of WhatsUp and VSR, independent of models and frameworks."""

from adaptvis_plugin.scoring.matching import Rule, matches, named_relations
from adaptvis_plugin.scoring.phrases import SYNONYMS

__all__ = ["SYNONYMS", "Rule", "matches", "named_relations"]
