"""From the image columns of a prompt back to the pictures, for any model.

No family's layout of an image is written down here. Two things are found out by trying, and then joined:

coordinates   which point of a picture each value of the processor's output shows: the processor is given pictures of
              coordinates, so resizing, cropping, padding and tiles are its own
dependence    which of these values each image column is made from: the gradients of what the text decoder is given,
              with the layers of the vision tower that mix patches switched off
mapper        the area of the picture that each column stands for
"""

from adaptvis_plugin.attention.columns.mapper import ColumnMapper

__all__ = ["ColumnMapper"]
