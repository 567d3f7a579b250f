"""Training-free attention steering for vision-language models, and the benchmarks it was made for.

The parts, from the inside out:

- `adaptvis_plugin.decoding`: the methods and the one-prefill decoder (torch and transformers only);
- `adaptvis_plugin.models`: loading Hugging Face VLMs, prompts, presets, the embedded demo model;
- `adaptvis_plugin.data` and `adaptvis_plugin.scoring`: WhatsUp, VSR, the demo scenes, and their metrics;
- `adaptvis_plugin.lmms_eval` and `adaptvis_plugin.vlmevalkit`: the adapters to the two frameworks;
- `adaptvis_plugin.analysis`: statistics and pictures of runs;
- `adaptvis_plugin.cli`: the `adaptvis` command.
"""

__version__ = "0.1.0"
