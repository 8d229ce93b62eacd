"""Speech from libespeak-ng together with the moment at which each of its phonemes begins.

The command-line program cannot tell when a phoneme starts; the library's events can. One process, one voice at a
time. Knows no corpus.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SYNCHRONOUS, _PHONEME_EVENTS, _IPA, _NO_EXIT = 2, 1, 2, 0x8000
_PHONEME, _UTF8 = 7, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_MARKS = str.maketrans("", "", "ˈˌːˑ̯͡ʲ̩ˤʰ̪̃")


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        *(("type", ctypes.c_int), ("message", ctypes.c_uint), ("text_position", ctypes.c_int)),
        *(("length", ctypes.c_int), ("milliseconds", ctypes.c_int), ("sample", ctypes.c_int)),
        *(("user", ctypes.c_void_p), ("id", _Id)),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True, slots=True)
class Aligned:
    """Samples (S,) in -1..1 at `rate`, and the start in seconds of each phoneme, "" where silence begins."""

    samples: NDArray[np.float32]
    rate: int
    phonemes: list[tuple[str, float]]


class Espeak:
    """The library, set up to give back sound and phoneme events; `rate` is its sample rate."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL("libespeak-ng.so.1")
        options = _PHONEME_EVENTS | _IPA | _NO_EXIT
        self.rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 500, None, options))
        self._sound: list[bytes] = []
        self._phonemes: list[tuple[str, float]] = []
        self._callback = _Callback(self._take)  # kept: the library holds only a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, words_a_minute: int, pitch: int, pitch_range: int) -> Aligned | None:
        """`voice` is espeak-ng's name with a variant (`lt+f3`); None when it makes no sound."""
        self._sound, self._phonemes = [], []
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            return None
        for parameter, value in ((_RATE, words_a_minute), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        samples = np.frombuffer(b"".join(self._sound), np.int16).astype(np.float32) / 32768
        return Aligned(samples, self.rate, self._phonemes) if len(samples) and self._phonemes else None

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._sound.append(ctypes.string_at(samples, 2 * count))
        i = 0
        while events[i].type != 0:
            if events[i].type == _PHONEME:
                name = bytes(events[i].id.string).split(b"\0")[0].decode("utf-8", "ignore")
                self._phonemes.append((plain(name), events[i].sample / self.rate))
            i += 1
        return 0


def plain(phoneme: str) -> str:
    """An IPA symbol without stress, length and secondary articulation: `iː` -> `i`.

    >>> plain("iː"), plain("nʲ"), plain("tʃ")
    ('i', 'n', 'tʃ')
    """
    return phoneme.translate(_MARKS)


def phoneme_order(espeak: Espeak, text: str, voice: str) -> list[str]:
    """The phonemes of a text as a voice would say it, without silence; empty when it makes no sound."""
    made = espeak.say(text, voice, 150, 50, 50)
    return [name for name, _ in made.phonemes if name and not name.startswith("_")] if made else []
