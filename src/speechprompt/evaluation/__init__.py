"""How good a prompt is: evaluation, baselines on the same utterances, and the report to look at."""
