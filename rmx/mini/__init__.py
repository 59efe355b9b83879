"""The bundled miniature reasoner: its task, tokenizer, pretraining, figures and problem sets, all reproducible."""
