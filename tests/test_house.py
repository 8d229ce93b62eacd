"""The shape of the house: imports point one way, and what needs no torch loads none."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import speechprompt

PACKAGE = Path(speechprompt.__file__).parent
FLOORS = (
    ("errors",),
    ("metrics", "downloads", "checkpoints", "packed_linear", "filesystem"),
    ("speech",),
    ("corpora", "tokenizers", "lms"),
    ("spoken_lm", "spoken_lm_folder"),
    ("engines",),
    ("encoding", "prompting"),
    ("evaluation", "pretraining"),
    ("experiments",),
    ("benchmarking",),
    ("server",),
    ("cli",),
)
"""A room imports from its own floor's own room and from floors above it in this list."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
EXEMPT = {"testing", "__main__", "__init__"}
"""`testing` is for users' tests and reaches everywhere; the others only name what they export."""
SAME_FLOOR = {("prompting", "encoding"), ("spoken_lm_folder", "spoken_lm")}
"""Neighbours that may see each other, in this direction only."""
TORCH_FREE = (
    "speechprompt",
    "speechprompt.errors",
    "speechprompt.metrics",
    "speechprompt.downloads",
    "speechprompt.speech.readers",
    "speechprompt.speech.doctor",
    "speechprompt.speech.unit_store",
    "speechprompt.speech.splits",
    "speechprompt.corpora",
    "speechprompt.spoken_lm",
    "speechprompt.prompting.recipes",
    "speechprompt.evaluation.reports",
    "speechprompt.evaluation.summary",
    "speechprompt.evaluation.baselines",
    "speechprompt.cli.application",
)


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> Iterator[tuple[str, int]]:
    """Rooms that a module imports, lazily or not, with the line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "speechprompt" and len(parts) > 1:
                yield parts[1], node.lineno


def allowed(room: str, other: str) -> bool:
    if other == room or other.startswith("__") or (room, other) in SAME_FLOOR:
        return True
    return other in FLOOR_OF and FLOOR_OF[other] < FLOOR_OF[room]


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) not in EXEMPT)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(module: Path) -> None:
    room = room_of(module)
    assert room in FLOOR_OF, f"{room} has no place in the house"
    wrong = [
        f"line {line}: {room} imports {other}"
        for other, line in imported_rooms(module.read_text(encoding="utf-8"))
        if not allowed(room, other)
    ]
    assert not wrong


def test_the_graph_would_notice() -> None:
    assert list(imported_rooms("def f():\n    from speechprompt.cli import main\n")) == [("cli", 2)]
    assert not allowed("speech", "lms")
    assert not allowed("experiments", "cli")
    assert not allowed("encoding", "prompting")
    assert allowed("cli", "experiments")


def fresh(code: str) -> str:
    """What a new process prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip()


HEAVY = "[name for name in ('torch', 'transformers', 'sklearn', 'matplotlib') if name in sys.modules]"


def test_torch_free_rooms_load_no_torch() -> None:
    """One process imports them all; which one is to blame is found only when something is wrong."""
    lines = [f"import {name}; print('{name}', {HEAVY})" for name in TORCH_FREE]
    found = fresh("import sys\n" + "\n".join(lines)).splitlines()
    assert found == [f"{name} []" for name in TORCH_FREE]


def test_help_loads_nothing_heavy() -> None:
    lines = ("import sys", "from speechprompt.cli import main", "code = main(['--help'])")
    code = "\n".join([*lines, f"print(code, {HEAVY}, {{'pydantic', 'numpy'}} & {{*sys.modules}})"])
    assert fresh(code).splitlines()[-1] == "0 [] set()"


def test_answers_of_the_bundled_lm_need_no_transformers() -> None:
    """Its import costs more CPU seconds than all else that one answer needs."""
    lines = (
        "import sys",
        "import speechprompt.cli.predict, speechprompt.prompting.predictor as predictor",
        "from speechprompt import SpokenLM",
        "lm = SpokenLM.load('tiny'); lm.lm; lm.tokenizer",
        "print([m for m in ('transformers', 'torch._dynamo', 'scipy', 'sklearn') if m in sys.modules])",
    )
    assert fresh("\n".join(lines)) == "[]"


@pytest.mark.parametrize("name", speechprompt.__all__)
def test_exports_exist(name: str) -> None:
    assert getattr(speechprompt, name) is not None
    assert name in dir(speechprompt)


def test_exports_are_one_list() -> None:
    homes = vars(speechprompt)["_HOMES"]
    assert {*homes, "__version__"} == set(speechprompt.__all__)
    assert sorted(speechprompt.__all__) == list(speechprompt.__all__)
    for name, home in homes.items():
        assert hasattr(importlib.import_module(f"speechprompt.{home}"), name)
    with pytest.raises(AttributeError, match="trian"):
        _ = speechprompt.trian
