"""What was answered, row by row: files that are written as the answers come, resumed, and read by the tools."""

from adaptvis_plugin.traces.reading import Trace, TraceError, read_traces
from adaptvis_plugin.traces.schema import Header, Row
from adaptvis_plugin.traces.store import TraceFile

__all__ = ["Header", "Row", "Trace", "TraceError", "TraceFile", "read_traces"]
