"""What a server is told: where its artifacts lie, what it accepts and how long work may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from speechprompt.speech.audio import AudioLimits
from speechprompt.speech.unit_cache import DEFAULT_BYTES


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Options of a server. Lengths and times are in seconds.

    `artifacts` is the folder of prompt folders, watched every `watch_seconds` (0: never). `token` allows PUT and
    DELETE; None refuses both. A body may have `body_bytes` and take `body_seconds` to arrive, all bodies together
    `held_bytes` from their first byte to their answer, half of it those of one client; a clip may last `clip_seconds`
    and take `decode_seconds` to decode. Requests may name a deadline up to `longest_deadline_seconds`.
    `batch_rows` bounds a batch of either stage, `batch_seconds` the audio of a batch of the encoder.
    At most `streams` streams are open, half of them of one client, each for `stream_seconds`, of which none may pass
    in silence for over `stream_idle_seconds`. When told to stop, the server says for
    `drain_seconds` that it is not ready, and still takes requests, before it closes the door.
    `client_header` names the header in which a proxy says who the client is; else fairness goes by address.
    """

    artifacts: Path | None = None
    token: str | None = None
    watch_seconds: float = 2.0
    body_bytes: int = 25 * 2**20
    body_seconds: float = 30.0
    held_bytes: int = 2**30
    clip_seconds: float = 600.0
    decode_seconds: float = 5.0
    window_seconds: float = 10.0
    deadline_seconds: float = 10.0
    longest_deadline_seconds: float = 120.0
    batch_rows: int = 32
    batch_seconds: float = 40.0
    cache_bytes: int = DEFAULT_BYTES
    streams: int = 16
    stream_seconds: float = 3600.0
    stream_idle_seconds: float = 60.0
    drain_seconds: float = 0.0
    client_header: str | None = None

    @property
    def audio_limits(self) -> AudioLimits:
        """The limits of an uploaded clip."""
        return AudioLimits(self.clip_seconds / 3600, self.body_bytes, self.decode_seconds)
