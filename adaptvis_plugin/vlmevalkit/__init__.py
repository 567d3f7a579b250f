"""The adapter to VLMEvalKit. Importing this package imports nothing of VLMEvalKit, which has side effects.

A script of your own needs one line, `register()`, before it builds models or data sets by name.
"""

from adaptvis_plugin.vlmevalkit.framework import Framework, FrameworkError
from adaptvis_plugin.vlmevalkit.registration import register

__all__ = ["Framework", "FrameworkError", "register"]
