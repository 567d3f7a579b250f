"""What was answered, row by row: files that are written as the answers come, resumed, and read by the tools."""

from adaptvis_plugin.traces.reading import Trace, TraceError, read_traces
from adaptvis_plugin.traces.schema import Header, Row, Sweep
from adaptvis_plugin.traces.store import TraceFile

__all__ = ["Header", "Row", "Sweep", "Trace", "TraceError", "TraceFile", "read_traces"]
