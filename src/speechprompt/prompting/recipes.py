"""Named sets of training options: `default` trains best, `few` on few clips, `paper` is the reference's arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from speechprompt.errors import UnknownName, UsageError
from speechprompt.prompting.kinds import (
    LARGEST_SEED,
    MOST_BUCKETS,
    MOST_MEMBERS,
    Decoding,
    Method,
    NgramKind,
    VerbalizerName,
)
from speechprompt.speech.speeds import AnswerCopies, SpeedCopies

PROMPT_BUDGET = 135_000
"""Most parameters that a default prompt and its separator train: 0.15 M less a tenth for the verbalizer."""
MOST_TRAINED = 149_999
"""Most parameters of a default prompt, its separator and its verbalizer together."""
LONGEST_DEFAULT_PROMPT = 20

RecipeName = Literal["default", "few", "paper"]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainingOptions(BaseModel):
    """Everything that decides how one prompt is trained; what `default` means is written here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: RecipeName = "default"
    method: Method = Field(
        "after_projection", description="where the prompt enters; the paper: before_projection"
    )
    prompt_length: int | None = Field(
        None,
        ge=0,
        le=512,
        description="vectors a layer; by default the most, up to 20, within 0.15 M parameters with the verbalizer "
        "(those of all prompts of an ensemble)",
    )
    shifts_positions: bool = Field(
        False, description="move unit positions by the prompt's length, as peft does"
    )
    verbalizer: VerbalizerName = Field("learnable", description="how LM outputs become labels")
    streams: Literal["utterance", "pace", "state", "mean", "counts", "units", "all"] | None = Field(
        None,
        description="what a learnable verbalizer reads: by default 'utterance' (the last state, the mean of all units' "
        "states and counts of units), or 'state' where that takes over half of 0.15 M; 'pace' also reads how long "
        "units last; the paper: logits of 'units'",
    )
    ngrams: int = Field(
        0,
        ge=0,
        le=MOST_BUCKETS,
        description="n-grams of units beside what is read: so many hash buckets, a weight each and label, fitted once "
        "the prompt has learnt; 0: none, 8192 suits a handful of labels",
    )
    ngram_kind: NgramKind = Field(
        "ngrams",
        description="which: 1- to 3-grams, or 'pairs': units and pairs of them one, two and three places apart, "
        "of which there are fewer to hash",
    )
    refit_ngrams: bool = Field(
        False,
        description="once validation has chosen, fit the weights of n-grams again, to its clips as well",
    )
    decoding: Decoding = Field("parallel", description="slots at once, or one after another")
    initialisation: Literal["units", "normal"] = Field(
        "units", description="start from states of real training units, or from N(0,1)"
    )
    loss: Literal["labels", "published"] = Field("labels", description="over the labels, or the reference's")
    optimiser: Literal["adamw", "published"] = Field("adamw", description="AdamW, or the reference's Adam")
    learning_rate: Rate | Literal["find"] = Field(
        2e-2, description="of prompt and separator; 'find' runs a range test"
    )
    verbalizer_learning_rate: Rate | None = Field(
        None, description="of the verbalizer; by default the prompt's, less for a large vocabulary"
    )
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="after the warm-up")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    batch_size: int = Field(32, ge=1)
    steps: int = Field(2000, ge=1, description="most updates")
    evaluations: int = Field(10, ge=1, description="how often validation runs within `steps`")
    by_epoch: bool = Field(False, description="evaluate after every epoch instead")
    patience: int = Field(4, ge=1, description="evaluations without a gain before stopping")
    select_by: Literal["accuracy", "loss"] = Field("accuracy", description="what makes a checkpoint the best")
    clip_norm: float | None = Field(1.0, gt=0)
    prompt_dropout: float = Field(0.1, ge=0, lt=1)
    verbalizer_dropout: float = Field(0.0, ge=0, lt=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    unit_masking: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of training units replaced by others of the batch, anew every step",
    )
    unit_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of training units left out, anew every step"
    )
    span_dropout: float = Field(
        0.0, ge=0, lt=1, description="longest share of a training utterance that one random span takes away"
    )
    unit_jitter: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="by how much the speed of a training utterance may change; needs durations",
    )
    speed_copies: int = Field(
        0,
        ge=0,
        le=16,
        description="so many copies of every training clip, played at other speeds; needs audio",
    )
    speed_range: float = Field(
        0.15, gt=0, le=0.5, description="speed copies run at 1 minus to 1 plus this, drawn by the clip's id"
    )
    answer_copies: int = Field(
        0,
        description="copies at other speeds that answers are heard over as well, an even number; validation is "
        "calibrated over them; needs audio",
    )
    weight_decay: float = Field(0.0, ge=0)
    balanced: bool = Field(False, description="draw every label equally often")
    answer_coverage: float | None = Field(
        None, gt=0, le=1, description="share of validation that is answered; the prompt abstains on the rest"
    )
    answer_error: float | None = Field(
        None, ge=0, lt=1, description="most errors among answers on validation; the prompt abstains on others"
    )
    ensemble: int = Field(
        1, ge=1, le=MOST_MEMBERS, description="so many prompts, trained in one run, answer together as one"
    )
    rotate_validation: bool = Field(
        False,
        description="each prompt of an ensemble validates on other clips, so that every clip teaches most of them",
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED)

    @classmethod
    def of_recipe(cls, recipe: str = "default", changes: Mapping[str, Any] | None = None) -> Self:
        """A recipe's options with changes. UnknownName or UsageError when a name or a value is wrong."""
        if recipe not in get_args(RecipeName):
            raise UnknownName("recipe", recipe, get_args(RecipeName))
        values = {"recipe": recipe, **RECIPES[recipe], **(changes or {})}
        for name in values:
            if name not in cls.model_fields:
                raise UnknownName("training option", name, cls.model_fields)
        if values.get("answer_coverage") is not None and values.get("answer_error") is not None:
            raise UsageError("a threshold keeps to one bound: --answer-coverage or --answer-error, not both")
        try:
            options = cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"][:1])
            raise UsageError(f"training option '{place}': {first['msg']} (got {first['input']!r})") from None
        if options.rotate_validation and options.ensemble == 1:
            raise UsageError(
                "prompts validate in turn where there are several; ask for --ensemble 3, or for --no-rotate-validation"
            )
        if options.refit_ngrams and not options.ngrams:
            raise UsageError(
                "there are no n-grams to fit again; ask for --ngrams 8192, or leave --refit-ngrams out"
            )
        asked = (changes or {}).get("streams")
        if options.verbalizer != "learnable" or options.recipe == "paper":
            if asked not in (None, "units"):
                raise UsageError(f"streams '{asked}' needs the learnable verbalizer of the recipe 'default'")
            if options.ngrams:
                raise UsageError("n-grams need the learnable verbalizer of the recipe 'default'")
        elif options.loss == "published":
            raise UsageError(
                "the published loss also trains the separator and the end, which the learnable verbalizer of the "
                "recipe 'default' has no outputs for; take --recipe paper, or --verbalizer random or frequency"
            )
        return options

    @field_validator("answer_copies")
    @classmethod
    def _can_be_heard(cls, copies: int) -> int:
        """UsageError for an odd number of copies, or too many."""
        AnswerCopies(copies).speeds()
        return copies

    @property
    def copying(self) -> SpeedCopies:
        """The copies of training clips at other speeds that these options ask for."""
        return SpeedCopies(self.speed_copies, self.speed_range)

    @property
    def taught_splits(self) -> tuple[str, ...]:
        """The splits whose clips some prompt trains on."""
        return ("train", "valid") if self.rotate_validation else ("train",)

    @property
    def validated_splits(self) -> tuple[str, ...]:
        """The splits whose clips some prompt is validated on."""
        return ("train", "valid") if self.rotate_validation else ("valid",)

    @property
    def divisions(self) -> int:
        """In how many ways clips are divided into those to train on and to validate on; 1 where all share one."""
        return self.ensemble if self.rotate_validation else 1

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Copies, n-grams and ensembles are written where there are any: other trainings keep their hashes."""
        values: dict[str, Any] = dump(self)
        if self.ensemble == 1:
            values.pop("ensemble", None)
            values.pop("rotate_validation", None)
        if not self.ngrams:
            values.pop("ngrams", None)
        if self.ngram_kind == "ngrams":
            values.pop("ngram_kind", None)
        if not self.refit_ngrams:
            values.pop("refit_ngrams", None)
        if not self.speed_copies:
            values.pop("speed_copies", None)
            values.pop("speed_range", None)
        if not self.answer_copies:
            values.pop("answer_copies", None)
        return values

    def given(self) -> dict[str, Any]:
        """The options that were set, not left to their defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def length_for(self, layers: int, width: int, verbalizer: int = 0, ngrams: int = 0) -> int:
        """P for an LM of so many layers and such a width, beside a verbalizer and n-grams of so many parameters.

        Prompts of an ensemble share the budget, and the n-grams. A verbalizer that takes more than half of what may be
        trained, as labels by the hundred do, counts apart.
        """
        if self.prompt_length is not None:
            return self.prompt_length
        each = width if self.method == "input" else 2 * layers * width
        budget, most, ngrams = PROMPT_BUDGET // self.ensemble, self.most_trained, -(-ngrams // self.ensemble)
        beside = most - verbalizer if verbalizer <= most // 2 else budget
        return max(1, min(LONGEST_DEFAULT_PROMPT, (min(budget, beside - ngrams) - width) // each))

    @property
    def most_trained(self) -> int:
        """Most parameters of one default prompt: all that may be trained, or its share in an ensemble."""
        return MOST_TRAINED // self.ensemble


PUBLISHED: dict[str, Any] = {
    "method": "before_projection",
    "prompt_length": 5,
    "streams": "units",
    "decoding": "autoregressive",
    "initialisation": "normal",
    "loss": "published",
    "optimiser": "published",
    "learning_rate": 5e-3,
    "schedule": "constant",
    "warmup": 0.0,
    "batch_size": 32,
    "steps": 1_000_000,
    "by_epoch": True,
    "patience": 1,
    "select_by": "loss",
    "prompt_dropout": 0.1,
    "verbalizer_dropout": 0.1,
    "label_smoothing": 0.0,
    "unit_masking": 0.0,
    "seed": 100501,
}
"""The reference's options where they differ from `default`. Source: its training script; facts of its code."""
SHORTEST_MEMBER = 5
"""Vectors a layer below which prompts of an ensemble were never measured."""
FEW_CLIPS = 2000
"""Clips to train on, and to validate on, up to which `few` is worth its steps (docs/decisions/0025)."""
FEW: dict[str, Any] = {"ensemble": 3, "rotate_validation": True, "steps": 300, "answer_copies": 4}
"""What differs from `default` where clips are few: every clip teaches most prompts, steps for so many, and copies."""
RECIPES: dict[str, dict[str, Any]] = {"default": {}, "few": FEW, "paper": PUBLISHED}
