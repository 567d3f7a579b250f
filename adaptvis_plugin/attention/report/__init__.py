"""The report on captured attention, or on a trace alone.

figures    scores and image shares of the runs
sentences  what was found, in words
tables     for the terminal, the page and CSV
plots      by layer and head
overlays   over the pictures
page       one HTML page with a browser of rows
files      all of them on disk
"""

from adaptvis_plugin.attention.report.files import as_json, write
from adaptvis_plugin.attention.report.sentences import sentences
from adaptvis_plugin.attention.report.tables import grids

__all__ = ["as_json", "grids", "sentences", "write"]
