"""An artifact is swapped two hundred times while clients ask: every answer is right, whole, and of one version."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from server.material import TOKEN, clip_bytes, toy_artifact
from server.test_served_artifacts import files_of, zipped

SWAPS, CLIENTS = 200, 3


async def swapped_under_load(app: FastAPI, versions: list[bytes], clips: list[bytes]) -> Any:
    """Swap versions over and over while clients ask; what they were answered, and the revisions put."""
    answers: list[tuple[int, dict[str, Any]]] = []
    revisions: list[str] = []
    done = asyncio.Event()
    transport = httpx2.ASGITransport(app)
    async with (
        app.state.service.running(),
        httpx2.AsyncClient(transport=transport, base_url="http://x") as http,
    ):

        async def ask(which: int) -> None:
            while not done.is_set():
                for number, clip in enumerate(clips):
                    data = {"task": ["word", "length"] if which % 2 else ["word"]}
                    response = await http.post("/v1/classify", files={"file": clip}, data=data)
                    assert response.status_code == 200, response.text
                    answers.append((number, response.json()["predictions"][0]))

        async def swap() -> None:
            for i in range(SWAPS):
                while len(answers) <= i + 1:  # on a slow machine too, an answer comes for every swap
                    await asyncio.sleep(0.001)
                headers = {"authorization": f"Bearer {TOKEN}"}
                response = await http.put("/v1/tasks/word", content=versions[i % 2], headers=headers)
                assert response.status_code == 200, response.text
                revisions.append(response.json()["revision"])
            done.set()

        await asyncio.gather(swap(), *(ask(which) for which in range(CLIENTS)))
    return answers, revisions


def test_swapping_under_load(app: FastAPI, folder: Path, tmp_path: Path) -> None:
    old, new = (
        toy_artifact("word", ["word"], prompt_length=2),
        toy_artifact("word", ["word"], prompt_length=7, seed=1),
    )
    versions = [zipped(files_of(x.save(tmp_path / str(i)))) for i, x in enumerate((new, old))]
    clips = [clip_bytes(0.5, seed) for seed in range(4)]
    answers, revisions = asyncio.run(swapped_under_load(app, versions, clips))
    assert len(revisions) == SWAPS
    assert len(set(revisions)) == 2
    assert len(answers) > SWAPS
    seen: dict[tuple[int, str], list[dict[str, float]]] = {}
    for number, answer in answers:
        seen.setdefault((number, answer["revision"]), []).append(answer["slots"]["word"]["scores"])
    swapped = {key: found for key, found in seen.items() if key[1] in revisions}
    assert len(swapped) == 2 * len(clips)
    for found in swapped.values():
        assert all(scores == pytest.approx(found[0], abs=1e-5) for scores in found)
    for number in range(len(clips)):  # and the two versions do answer differently
        first, second = (swapped[number, revision][0] for revision in sorted(set(revisions)))
        assert first != pytest.approx(second, abs=1e-3)
