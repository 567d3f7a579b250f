"""Scoring: answer matching and the metrics of WhatsUp and VSR. Knows no model and no framework."""

from adaptvis_plugin.scoring.matching import SYNONYMS, Rule, matches, named_relations

__all__ = ["SYNONYMS", "Rule", "matches", "named_relations"]
