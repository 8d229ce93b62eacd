"""HTTP: one spoken LM in memory, any number of prompts, mixed batches. `app.create_app` builds it."""
