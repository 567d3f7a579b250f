"""Scoring: answer matching and the metrics of WhatsUp and VSR. Knows no model and no framework."""

from adaptvis_plugin.scoring.matching import Rule, matches, named_relations
from adaptvis_plugin.scoring.phrases import SYNONYMS

__all__ = ["SYNONYMS", "Rule", "matches", "named_relations"]
