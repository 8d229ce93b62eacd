"""The OpenAPI document against the server, by generated requests: no 5xx, and answers as they are described."""

from __future__ import annotations

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.material import TOKEN

EXAMPLES = int(os.environ.get("SPEECHPROMPT_EXAMPLES", "6"))
"""Generated requests for each operation, mode and caller; set the variable for a long run."""
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


def check(operation: APIOperation, mode: GenerationMode, headers: dict[str, str]) -> int:
    """Send generated requests and return how many."""
    sent = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Case) -> None:
        nonlocal sent
        sent += 1
        if _is_short(case.query.get("deadline_seconds")):
            del case.query["deadline_seconds"]  # a busy machine may miss it, which a 504 would rightly say
        case.call_and_validate(checks=CHECKS, headers=headers)

    try:
        send()
    except Unsatisfiable:  # not every operation can be called wrongly
        assert mode is GenerationMode.NEGATIVE
    return sent


def _is_short(deadline: object) -> bool:
    return isinstance(deadline, int | float) and 0.1 <= deadline < 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("headers", [{}, {"authorization": f"Bearer {TOKEN}"}], ids=["anybody", "token"])
def test_the_description_holds(address: str, mode: GenerationMode, headers: dict[str, str]) -> None:
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 8
    generate = [
        operation for operation in operations if mode is GenerationMode.POSITIVE or takes_anything(operation)
    ]
    assert sum(check(operation, mode, headers) for operation in generate) >= len(generate) >= 4


def takes_anything(operation: APIOperation) -> bool:
    """Whether there is something to get wrong."""
    return bool(operation.body or len(operation.path_parameters) or len(operation.query))
