"""Where the attention of the last prompt token goes: captured, measured, laid over the picture.

record    what is captured of one row
columns   from the image columns of a prompt back to its pictures, for any model
"""
