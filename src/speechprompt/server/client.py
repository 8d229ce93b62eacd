"""A typed client of a server: `Client().classify("clip.wav", ["command"])`. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import httpx2

from speechprompt.errors import Overloaded, WorkError
from speechprompt.server.schemas import Answers, Tasks, UnitsAnswer


class Client:
    """Asks one server. Overloaded says when to try again, WorkError says what the server said.

    Connections stay open between calls, until `close` or the end of a `with`.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", timeout_seconds: float = 130.0) -> None:
        self._http = httpx2.Client(base_url=url, timeout=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def classify(
        self,
        file: str | Path | bytes,
        tasks: Sequence[str] = ("*",),
        top_k: int = 10_000,
        copies: int | None = None,
    ) -> Answers:
        """Every task's answer to one clip, a path or its bytes.

        It is heard at so many other speeds (`copies`) too; by default at as many as each task was trained to.
        """
        form = {"task": list(tasks), "top_k": str(top_k)}
        if copies is not None:
            form["copies"] = str(copies)
        return Answers.model_validate_json(self._send("POST", "/v1/classify", files=_files(file), data=form))

    def units(self, file: str | Path | bytes) -> UnitsAnswer:
        """The units of one clip."""
        return UnitsAnswer.model_validate_json(self._send("POST", "/v1/units", files=_files(file)))

    def tasks(self) -> Tasks:
        """What the server can be asked."""
        return Tasks.model_validate_json(self._send("GET", "/v1/tasks"))

    def _send(self, method: str, path: str, **options: object) -> bytes:
        try:
            response = self._http.request(method, path, **options)  # type: ignore[arg-type]
        except httpx2.HTTPError as error:
            raise WorkError(
                f"{self._http.base_url} gave no answer: {error or type(error).__name__}"
            ) from None
        if response.status_code < 400:
            return response.content
        said = _detail(response)
        if response.status_code in (429, 503):
            raise Overloaded(said, _seconds(response))
        raise WorkError(said)


def _detail(response: httpx2.Response) -> str:
    """What the server, or a proxy that is no JSON speaker, says is wrong."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status_code} {response.reason_phrase}".strip()


def _seconds(response: httpx2.Response) -> int:
    """When to come back; a second where nothing says so."""
    said = response.headers.get("retry-after", "")
    return int(said) if said.isascii() and said.isdecimal() else 1


def _files(file: str | Path | bytes) -> dict[str, tuple[str, bytes]]:
    return {"file": ("clip", file) if isinstance(file, bytes) else (Path(file).name, Path(file).read_bytes())}
