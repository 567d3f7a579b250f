"""Where the attention of the last prompt token goes: captured, measured, laid over the picture.

record      what is captured of one row
form        how captured rows are stored: the header, the tensors
store       writes them as they come, resumes, reads one at a time
measures    how much attention goes to the image, how it is spread there, and its sinks
areas       parts of image columns inside boxes, and attention laid over pixels
overlap     how much of it is on the named objects
prediction  how well that, or another number, tells right answers from wrong ones
resampling  draws of groups of rows
"""
