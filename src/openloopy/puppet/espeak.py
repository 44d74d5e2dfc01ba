"""espeak-ng speaks, and reads texts into phonemes: many languages and voices, every phoneme with its time.

Source: ours. espeak-ng comes as a shared library in the wheel `espeakng_loader` (no system package) and is called
through ctypes in synchronous mode with phoneme events.
"""

from __future__ import annotations

import ctypes
import re
import threading
from _ctypes import dlclose

import numpy as np

from openloopy.puppet.utterance import PAUSE_SYMBOL, Phoneme, Speaker

_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4
_EVENT_END, _EVENT_PHONEME = 0, 7
_OUTPUT_SYNCHRONOUS = 2
_OPTIONS = 0x1 | 0x2 | 0x8000  # phoneme events, in IPA, and no exit() when something is wrong
_CHARACTERS_UTF8, _PHONEMES_IPA = 1, 2
_LANGUAGE_MARK = re.compile(r"\([a-z-]+\)|[-.\u200d\n]")
_PUNCTUATION = re.compile(r"([.,!?;:，。！？]+)")
PLOSIVES = frozenset("pbtdkɡgcɟqʈɖ")
_CLOSURE_S = (0.035, 0.11)
_SILENT = 0.04
"""Amplitude below which a moment counts as silent, relative to the loud parts."""


ESPEAK_LOCK = threading.Lock()


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h; `id` is a union of an int, a pointer and 8 bytes of UTF-8."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_ubyte * 8),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """The library with fresh state.

    It keeps state in global variables (such as the phase of the pitch flutter) that change the next sound and that
    nothing but loading it anew resets (4 ms); hence also one thread at a time.
    """

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._library.espeak_Synth.argtypes = [ctypes.c_char_p, ctypes.c_size_t, *[ctypes.c_uint] * 4] + [
            ctypes.c_void_p
        ] * 2
        data_path = str(espeakng_loader.get_data_path()).encode()
        self._rate_hz = self._library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data_path, _OPTIONS)
        if self._rate_hz <= 0:
            raise RuntimeError(f"espeak-ng did not start with the data in {data_path.decode()}")
        self._chunks: list[np.ndarray] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # kept here: the library holds a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, speaker: Speaker, text: str) -> tuple[np.ndarray, int, list[Phoneme]]:
        """Waveform float32 at the library's rate, that rate in Hz, and IPA phonemes."""
        self._chunks.clear()
        self._events.clear()
        self._set_voice(speaker)
        data = text.encode()
        status = self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _CHARACTERS_UTF8, None, None)
        if status != 0 or not self._chunks:
            raise RuntimeError(f"espeak-ng made no sound of {text!r} as {speaker} (status {status})")
        waveform = np.concatenate(self._chunks).astype(np.float32) / 32768
        return waveform, self._rate_hz, _phonemes_of_events(self._events, waveform, self._rate_hz)

    def ipa(self, language: str, text: str) -> str:
        """The phonemes of a text without punctuation, in IPA with stress and length marks."""
        if self._library.espeak_SetVoiceByName(language.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {language!r}")
        rest, parts = ctypes.c_char_p(text.encode()), []
        while rest.value:
            clause = self._library.espeak_TextToPhonemes(ctypes.byref(rest), _CHARACTERS_UTF8, _PHONEMES_IPA)
            parts.append((clause or b"").decode())
        return _LANGUAGE_MARK.sub("", " ".join(part.strip() for part in parts if part.strip()))

    def close(self) -> None:
        """Unload the library."""
        self._library.espeak_Terminate()
        dlclose(self._library._handle)

    def _set_voice(self, speaker: Speaker) -> None:
        name = f"{speaker.language}+{speaker.voice}" if speaker.voice else speaker.language
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {name!r}")
        # The pitch setting is logarithmic around 50 (pitch_adjust_tab in setlengths.c). The later resampling
        # by `shift` also moves pitch and tempo, which the speaker states for the result.
        pitch = 50 + np.log(speaker.pitch_scale / speaker.shift) / 0.0138
        self._set(_PARAMETER_RATE, np.clip(speaker.rate_wpm / speaker.shift, 80, 450))
        self._set(_PARAMETER_PITCH, np.clip(pitch, 0, 99))
        self._set(_PARAMETER_RANGE, np.clip(50 * speaker.pitch_range, 0, 99))

    def _set(self, parameter: int, value: float) -> None:
        self._library.espeak_SetParameter(parameter, round(float(value)), 0)

    def _receive(self, samples, num_samples: int, events) -> int:
        if samples and num_samples > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        i = 0
        while events[i].type != _EVENT_END:
            if events[i].type == _EVENT_PHONEME:
                self._events.append((events[i].sample, _decode_symbol(bytes(events[i].id))))
            i += 1
        return 0


def read_aloud(language: str, text: str) -> str:
    """A text as IPA with its punctuation, as espeak-ng pronounces it."""
    with ESPEAK_LOCK:
        espeak = Espeak()
        try:
            parts = _PUNCTUATION.split(text)
            spoken = [
                espeak.ipa(language, part.strip()) if i % 2 == 0 else part[0] + " "
                for i, part in enumerate(parts)
            ]
        finally:
            espeak.close()
    return "".join(spoken).strip()


def _decode_symbol(data: bytes) -> str:
    """The 8-byte field ends at a NUL with older symbols behind it; a long symbol may lose half a letter."""
    return data.split(b"\0")[0].decode("utf-8", "ignore")


def _phonemes_of_events(events: list[tuple[int, str]], waveform: np.ndarray, rate_hz: int) -> list[Phoneme]:
    """Events (start sample, symbol) to phonemes: language marks dropped, pauses named, starts corrected."""
    marks = [(start, symbol or PAUSE_SYMBOL) for start, symbol in events if not symbol.startswith("(")]
    starts = np.array([start for start, _ in marks] + [len(waveform)], float)
    symbols = [symbol for _, symbol in marks]
    _give_length(starts, symbols, rate_hz)
    _add_closures(starts, symbols, waveform, rate_hz)
    times = starts / rate_hz
    return [
        Phoneme(start_s=float(start), end_s=float(end), symbol=symbol, alphabet="ipa")
        for start, end, symbol in zip(times[:-1], times[1:], symbols, strict=True)
        if end > start
    ]


def _give_length(starts: np.ndarray, symbols: list[str], rate_hz: int) -> None:
    """A consonant melted into the vowel before it has no time of its own: it takes the vowel's last third."""
    for i in range(1, len(symbols)):
        if symbols[i] != PAUSE_SYMBOL and starts[i + 1] == starts[i]:
            starts[i] -= min(0.35 * (starts[i] - starts[i - 1]), 0.08 * rate_hz)


def _add_closures(starts: np.ndarray, symbols: list[str], waveform: np.ndarray, rate_hz: int) -> None:
    """espeak-ng marks a plosive at its burst; the silence before, when the mouth is closed, belongs to it."""
    hop = rate_hz // 200
    frames = waveform[: len(waveform) // hop * hop].reshape(-1, hop)
    loudness = np.sqrt((frames**2).mean(1))
    is_silent = loudness < _SILENT * np.percentile(loudness, 95)
    for i, symbol in enumerate(symbols):
        if not PLOSIVES & set(symbol.lstrip("ˈˌ")[:1]):
            continue
        burst, longest = int(starts[i] // hop), int(_CLOSURE_S[1] * 200)
        before = is_silent[max(0, burst - longest) : burst][::-1]
        # The frame next to the burst often holds a little of it.
        silence = 1 + int(np.argmin(np.append(before[1:], False))) if len(before) else 0
        closure = max(silence * hop, _CLOSURE_S[0] * rate_hz)
        room = (starts[i] - starts[i - 1]) * 0.6 if i else starts[i]
        starts[i] -= min(closure, room)
