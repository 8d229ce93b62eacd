"""Making spoken LMs: a tokenizer without labels, its k-means centres, and a unit LM. Knows no task."""
