"""A text, from its files to token ids: corpora, tokenizers, and the cache of what was encoded."""
