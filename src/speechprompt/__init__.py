"""speechprompt: one frozen spoken language model, many small trained prompts, one speech classifier per prompt.

    lm = SpokenLM.load("tiny")
    artifact = train(Corpus.from_folder("clips/"), lm)
    artifact.save("prompts/colour")
    Predictor(lm, ["prompts/colour"]).predict("a.wav")

Names load when they are first used: importing the package costs nothing and loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from speechprompt.encoding import encode_corpus
    from speechprompt.errors import SpeechPromptError, UsageError, WorkError
    from speechprompt.evaluation.evaluate import Evaluation, compare, evaluate
    from speechprompt.prompting.artifact import Artifact
    from speechprompt.prompting.predictor import Prediction, Predictor
    from speechprompt.prompting.recipes import TrainingOptions
    from speechprompt.prompting.train import train, train_many
    from speechprompt.speech.manifest import Corpus, Utterance, write_manifest
    from speechprompt.speech.units import Units
    from speechprompt.spoken_lm import SpokenLM

_HOMES = {
    "Artifact": "prompting.artifact",
    "Corpus": "speech.manifest",
    "Evaluation": "evaluation.evaluate",
    "Prediction": "prompting.predictor",
    "Predictor": "prompting.predictor",
    "SpeechPromptError": "errors",
    "SpokenLM": "spoken_lm",
    "TrainingOptions": "prompting.recipes",
    "Units": "speech.units",
    "UsageError": "errors",
    "Utterance": "speech.manifest",
    "WorkError": "errors",
    "compare": "evaluation.evaluate",
    "encode_corpus": "encoding",
    "evaluate": "evaluation.evaluate",
    "train": "prompting.train",
    "train_many": "prompting.train",
    "write_manifest": "speech.manifest",
}

__all__ = [
    "Artifact",
    "Corpus",
    "Evaluation",
    "Prediction",
    "Predictor",
    "SpeechPromptError",
    "SpokenLM",
    "TrainingOptions",
    "Units",
    "UsageError",
    "Utterance",
    "WorkError",
    "__version__",
    "compare",
    "encode_corpus",
    "evaluate",
    "train",
    "train_many",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    """Import a name's home at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'speechprompt' has no attribute '{name}'")
    found = getattr(import_module(f"speechprompt.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
