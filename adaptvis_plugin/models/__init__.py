"""Hugging Face vision-language models: their arguments, loading and prompts, and the presets of the methods."""

from adaptvis_plugin.models.presets import Preset, find_preset, load_preset

__all__ = ["Preset", "find_preset", "load_preset"]
