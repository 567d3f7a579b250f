"""``python -m adaptvis_plugin.cli``."""

from adaptvis_plugin.cli import app

app()
