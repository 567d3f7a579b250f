"""The boxes of the objects that a question names, in pixels of the picture as it was given to the model.

opening      what the option `--boxes` says, as a source; the entry: `open_source`
box          what a source is asked and what it finds; the rows that are left out
labelled     boxes from `labels`
annotations  labels from the files of COCO and Visual Genome, read with `stream`
yolo         labels from a folder in YOLO's form
detector     boxes from an open-vocabulary detector
names        which objects a question names, and which labels mean the same
pictures     which picture of a label file is that of a row
"""

from adaptvis_plugin.attention.boxes.box import Asked, Box, BoxSource, Found, LeftOut, Reason
from adaptvis_plugin.attention.boxes.opening import FORMS, open_source

__all__ = ["FORMS", "Asked", "Box", "BoxSource", "Found", "LeftOut", "Reason", "open_source"]
