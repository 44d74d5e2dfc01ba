"""Times of phonemes in recorded English: pocketsphinx finds them, from a text or from phonemes that hama heard.

Source: pocketsphinx 5 (BSD; its English acoustic model comes with it); hama (Apache-2.0), a phoneme recogniser, for
sounds without a text. Both belong to the extra `speech`. An alignment comes with its mean score per 10 ms: on 58
sentences of one reader -17 to -7, on strangers with what hama heard -24 to -13, with another sentence's text -63 to
-36 (or none is found at all).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.puppet.espeak import read_aloud
from openloopy.puppet.utterance import PAUSE_SYMBOL, Phoneme

STEP_S = 0.01
MIN_SCORE = -27.0
"""Mean score per 10 ms below which the sound says something else."""
_SILENCE = "SIL"
_IPA_OF_ARPABET = (
    "AA ɑ ɒ a|AE æ|AH ʌ ə ɐ|AO ɔ|AW aʊ|AY aɪ|B b β|CH tʃ|D d|DH ð|EH ɛ|ER ɝ ɚ ɜ|EY eɪ e|F f|G ɡ g ɟ|HH h|"
    "IH ɪ ɨ ᵻ|IY i|JH dʒ|K k x|L l ɫ ɬ|M m|N n ɲ|NG ŋ|OW oʊ əʊ o|OY ɔɪ|P p|R ɹ r|S s|SH ʃ|T t ɾ ʔ|TH θ|"
    "UH ʊ|UW u ʉ|V v|W w|Y j|Z z|ZH ʒ"
)
_IPA_TO_ARPABET = {ipa: row.split()[0] for row in _IPA_OF_ARPABET.split("|") for ipa in row.split()[1:]}
_LONGEST_FIRST = sorted(_IPA_TO_ARPABET, key=len, reverse=True)


@dataclass(frozen=True)
class Alignment:
    """Phonemes in ARPAbet, and how well the sound agrees with them."""

    phonemes: tuple[Phoneme, ...]
    score: float
    """Mean log score per 10 ms of speech; near -10 is usual."""

    @property
    def is_sure(self) -> bool:
        return self.score >= MIN_SCORE


class Aligner:
    """pocketsphinx with its English model. One at a time may be used by a thread."""

    @cached_property
    def _decoder(self) -> Any:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise RuntimeError(
                "pocketsphinx is not installed; `pip install 'openloopy[speech]'`, or give times of the phonemes"
            ) from error
        return Decoder(lm=None, samprate=SAMPLE_RATE_HZ, loglevel="FATAL")

    def align_text(self, waveform: np.ndarray, text: str) -> Alignment | None:
        """Where an English text is said; None where no path through the sound says it, or the text has digits.

        Words that no dictionary has are spelt by espeak-ng.
        """
        if re.search(r"\d", text):
            return None
        words = re.findall(r"[a-z']+", text.lower().replace("’", "'"))
        for word in words:
            if self._decoder.lookup_word(word) is None:
                self._add_word(word, arpabet_of_ipa(read_aloud("en-us", word)))
        return self._align(waveform, words)

    def align_phones(self, waveform: np.ndarray, words: Sequence[Sequence[str]]) -> Alignment | None:
        """Where words of ARPAbet phonemes are said."""
        names = []
        for phones in words:
            if phones:
                names.append("-".join(phones).lower() + "-")
                if self._decoder.lookup_word(names[-1]) is None:
                    self._add_word(names[-1], phones)
        return self._align(waveform, names)

    def _add_word(self, word: str, phones: Sequence[str]) -> None:
        if phones:
            self._decoder.add_word(word, " ".join(phones), True)

    def _align(self, waveform: np.ndarray, words: Sequence[str]) -> Alignment | None:
        """Two passes: of the words, which chooses among pronunciations, then of the phonemes in them."""
        known = [word for word in words if self._decoder.lookup_word(word) is not None]
        sound = (np.clip(waveform, -1, 1) * 32767).astype(np.int16).tobytes()
        if not known or not sound:
            return None
        try:
            self._decoder.set_align_text(" ".join(known))
            self._decode(sound)
            self._decoder.set_alignment()
            self._decode(sound)
        except RuntimeError:
            return None
        found = [phone for word in self._decoder.get_alignment() or () for phone in word]
        spoken = [phone for phone in found if phone.name != _SILENCE]
        num_steps = sum(phone.duration for phone in spoken)
        if not num_steps:
            return None
        return Alignment(tuple(map(_phoneme, found)), sum(phone.score for phone in spoken) / num_steps)

    def _decode(self, sound: bytes) -> None:
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(sound, full_utt=True)
        finally:
            self._decoder.end_utt()


class Transcriber:
    """hama hears English phonemes."""

    @cached_property
    def _model(self) -> Any:
        try:
            from hama import ASRModel
        except ImportError as error:
            raise RuntimeError(
                "hama is not installed; `pip install 'openloopy[speech]'`, or give texts"
            ) from error
        return ASRModel()

    def words(self, waveform: np.ndarray) -> list[list[str]]:
        """The words of a sound of 16 kHz, each as ARPAbet phonemes."""
        result = self._model.transcribe_waveform(waveform.astype(np.float32), SAMPLE_RATE_HZ)
        return [arpabet_of_ipa(word.replace(" ", "")) for word in result.word_phoneme_text.split("|")]


def arpabet_of_ipa(ipa: str) -> list[str]:
    """English IPA as ARPAbet; marks and sounds that English has not are left out."""
    ipa, phones = ipa.replace("\u0361", ""), []
    while ipa:
        letter = next((letter for letter in _LONGEST_FIRST if ipa.startswith(letter)), None)
        if letter is not None:
            phones.append(_IPA_TO_ARPABET[letter])
        ipa = ipa[len(letter or "x") :]
    return phones


def _phoneme(phone: Any) -> Phoneme:
    symbol = PAUSE_SYMBOL if phone.name == _SILENCE else phone.name.lower()
    start_s = phone.start * STEP_S
    return Phoneme(
        start_s=start_s, end_s=start_s + phone.duration * STEP_S, symbol=symbol, alphabet="arpabet"
    )
