"""Prompts, verbalizers and the bank that runs any number of them on one frozen unit LM."""
