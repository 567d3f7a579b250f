"""Speed and memory, always as ratios of things measured in turn in one run.

Each of `decoding`, `decoders`, `sharing`, `growth`, `sweep`, `replay` and `end_to_end` measures one part; `report`
writes each part as it ends.
"""
