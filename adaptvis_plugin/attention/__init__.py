"""Where the attention of the last prompt token goes: captured, measured, laid over the picture.

record       what is captured of one row
form         how it is kept on disk
store        writing it as it comes, and reading it again
columns/     where the image columns lie in the picture
measures     how much attention goes to the image, and how it is spread there
areas        boxes, and maps in pixels
boxes/       the boxes of the objects that a question names
overlap      how much attention is on them
prediction   whether that tells right answers from wrong ones
resampling   draws of whole groups of rows
familiarity/ what confidence is worth: from a trace alone
study        all of that together, from files
plan         what is captured of which task, and how a folder is read again
report/      tables, plots, overlays and one page
loaded       the same of a model that is loaded, in memory
"""
