"""Where the attention of the last prompt token goes: captured, measured, laid over the picture.

record        what is captured of one row
familiarity/  relations and confidence, from a trace alone
"""
