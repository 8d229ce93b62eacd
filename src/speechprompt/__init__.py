"""speechprompt: one frozen spoken language model, many small trained prompts, one speech classifier per prompt."""

__version__ = "0.1.0"
