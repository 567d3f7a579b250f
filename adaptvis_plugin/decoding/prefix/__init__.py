"""Rows that ask about the same image compute it once.

Many benchmarks ask several questions about one image. If the image comes first, its vision features and its part of the
prefill are the same for all of them. In a causal decoder they do not depend on what follows. Rows of a batch, and of
later batches, therefore share the keys and values of their prefix: everything up to the last image token. Two prefixes
are the same if their tokens and their pixels are the same, byte by byte, and the model has not changed.

sharing      the protocol: when prefixes may be shared, and the prefill that shares them
batch        a batch cut into prefixes and the rest, and the batch that continues cached prefixes
store        the most recently used prefixes
fingerprint  whether the model has changed
"""

from adaptvis_plugin.decoding.prefix.sharing import SharedPrefixes

__all__ = ["SharedPrefixes"]
