"""A trained model that adapts to the text which it predicts: dynamic evaluation, neural cache, and their search."""
