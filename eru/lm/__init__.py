"""The language model: corpora, tokenizers, batches, model, recipes, training, evaluation, generation."""
