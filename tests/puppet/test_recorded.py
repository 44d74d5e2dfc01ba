"""Recorded speech: manifests, texts and times in all their forms; alignment of English; speech folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import openloopy
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.puppet import speech_folder
from openloopy.puppet.alignment import Aligner, Alignment, Transcriber, arpabet_of_ipa
from openloopy.puppet.recorded import (
    Word,
    phonemes_of_spans,
    read_align,
    read_recordings,
    read_textgrid,
)
from openloopy.puppet.speech_folder import (
    INDEX_NAME,
    Spoken,
    add_recorded,
    append,
    hours_of,
    read_speech_folder,
    write_sound,
)
from openloopy.puppet.utterance import PAUSE_SYMBOL, Phoneme

ASSETS = Path(openloopy.__file__).parent / "assets"
TEXT = "Hello, and welcome. My lips move because a model hears every word I say."
TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
1
<exists>
2
"IntervalTier"
"speaker - words"
0
1
2
0
0.4
"map"
0.4
1
""
"IntervalTier"
"speaker - phones"
0
1
4
0
0.1
"M"
0.1
0.3
"AE1"
0.3
0.4
"P"
0.4
1
"sil"
"""


def write_tone(path: Path, seconds: float = 0.5, rate_hz: int = 22_050) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 200 * time_s), rate_hz)
    return path


def symbols(phonemes) -> list[str]:
    return [phoneme.symbol for phoneme in phonemes]


@pytest.fixture(scope="module")
def said() -> np.ndarray:
    return soundfile.read(ASSETS / "demo_speech.flac", dtype="float32")[0]


def test_a_manifest_says_who_speaks_and_what_for(tmp_path) -> None:
    write_tone(tmp_path / "a" / "one.wav")
    write_tone(tmp_path / "two.wav")
    (tmp_path / "MANIFEST.csv").write_text(
        "file,use,speaker,language,transcript,licence\n"
        'a/one.wav,train,ann,en,"Hello, you.",CC0\ntwo.wav,"test (out of step)",bob,de,,MIT\n'
    )
    one, two = read_recordings(tmp_path, held_out=["bob"])
    assert (one.speaker, one.language, one.text, one.split, one.licence) == (
        "ann",
        "en",
        "Hello, you.",
        "train",
        "CC0",
    )
    assert (two.speaker, two.split, two.phonemes) == ("bob", "test", None)
    assert read_recordings(tmp_path, held_out=["ann"])[0].split == "val"


def test_without_a_manifest_the_folder_names_the_speaker_and_texts_lie_beside(tmp_path) -> None:
    write_tone(tmp_path / "ann" / "one.wav").with_suffix(".lab").write_text("hello\n")
    write_tone(tmp_path / "two.wav")
    (one, two) = read_recordings(tmp_path)
    assert (one.speaker, one.text) == ("ann", "hello") and two.speaker == tmp_path.name


def test_folders_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no sound"):
        read_recordings(tmp_path)
    (tmp_path / "list.csv").write_text("path\na.wav\n")
    with pytest.raises(
        ValueError, match=r"begins with \[.path.\]; expected a first line with the columns file"
    ):
        read_recordings(tmp_path)


def test_a_word_that_is_a_number_is_refused(tmp_path) -> None:
    write_tone(tmp_path / "three.wav")
    phones = [{"phone": "AE", "start": 0.1, "duration": 0.2}]
    row = {"id": "three", "words": [{"word": 7, "phones": phones}]}
    (tmp_path / "times.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"times of .*three.wav: 7 is no word; expected an object with"):
        read_recordings(tmp_path)


def test_grids_align(tmp_path) -> None:
    write_tone(tmp_path / "s1.wav")
    (tmp_path / "align").mkdir()
    path = tmp_path / "align" / "s1.align"
    path.write_text("0 12500 sil\n12500 18750 bin\n18750 25000 at\n25000 75000 sil\n")
    assert read_align(path)[1] == Word(0.5, 0.75, "bin")
    assert read_recordings(tmp_path)[0].text == "bin at"
    path.write_text("0 eins sil\n")
    with pytest.raises(ValueError, match=r"s1.align: expected lines `start end word`"):
        read_recordings(tmp_path)


def test_a_textgrid(tmp_path) -> None:
    path = tmp_path / "one.TextGrid"
    path.write_text(TEXTGRID)
    words, phonemes = read_textgrid(path)
    assert words == (Word(0.0, 0.4, "map"),)
    assert symbols(phonemes) == ["m", "ae", "p", PAUSE_SYMBOL]
    assert {p.alphabet for p in phonemes} == {"arpabet"}
    assert (phonemes[1].start_s, phonemes[1].end_s) == (0.1, 0.3)
    path.write_text("no grid")
    with pytest.raises(ValueError, match=r"one.TextGrid is no TextGrid"):
        read_textgrid(path)


def test_json_lines_and_pocketsphinxs_json(tmp_path) -> None:
    write_tone(tmp_path / "a" / "one.wav")
    write_tone(tmp_path / "two.wav")
    word = {"word": "maan", "phones": [{"phone": "m", "start": 0.1, "duration": 0.1}]}
    word["phones"].append({"phone": "aː", "start": 0.2, "duration": 0.2})
    (tmp_path / "times.jsonl").write_text(json.dumps({"id": "a/one.wav", "words": [word]}) + "\n")
    phone = {"b": 0.0, "d": 0.2, "t": "SIL"}, {"b": 0.2, "d": 0.1, "t": "AH"}
    (tmp_path / "two.phone.json").write_text(json.dumps({"w": [{"b": 0.0, "d": 0.3, "t": "a", "w": phone}]}))
    one, two = read_recordings(tmp_path)
    assert symbols(one.phonemes) == ["m", "aː"] and one.phonemes[0].alphabet == "ipa"
    assert one.phonemes[1].end_s == pytest.approx(0.4) and one.text == "maan"
    assert symbols(two.phonemes) == [PAUSE_SYMBOL, "ah"] and two.phonemes[1].alphabet == "arpabet"
    (tmp_path / "times.jsonl").write_text("{}\n")
    with pytest.raises(
        ValueError, match="times.jsonl, line 1: 'id' is missing; expected an object with `id`"
    ):
        read_recordings(tmp_path)


def test_spans_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="lie over one another"):
        phonemes_of_spans([(0.0, 0.3, "a"), (0.1, 0.4, "b")])
    with pytest.raises(ValueError, match="ends before it starts"):
        phonemes_of_spans([(0.5, 0.3, "a")])


def test_ipa_as_arpabet() -> None:
    assert arpabet_of_ipa("həlˈoʊ") == ["HH", "AH", "L", "OW"]
    assert arpabet_of_ipa("d͡ʒʌmpt") == ["JH", "AH", "M", "P", "T"]


def test_the_aligner_finds_a_text_and_refuses_another(said) -> None:
    pytest.importorskip("pocketsphinx", reason="the extra `speech` is not installed")
    found = Aligner().align_text(said, TEXT)
    assert found is not None and found.is_sure
    spoken = [p for p in found.phonemes if p.symbol != PAUSE_SYMBOL]
    assert symbols(spoken)[-2:] == ["s", "ey"]
    assert spoken[-1].end_s <= len(said) / SAMPLE_RATE_HZ + 0.01
    assert Aligner().align_text(said, TEXT.replace("every", "1")) is None
    other = Aligner().align_text(said, "Nobody ever sings under the shower in winter")
    assert other is None or not other.is_sure


def test_aligned_phonemes_lie_where_they_are_said(said) -> None:
    """flite, which spoke, says where its own are."""
    pytest.importorskip("pocketsphinx", reason="the extra `speech` is not installed")
    found = Aligner().align_text(said, TEXT)
    clear = ("m", "b", "l", "v", "z", "w")
    rows = json.loads((ASSETS / "demo_speech.json").read_text())["phonemes"]
    true = [start_s for start_s, _, symbol, _ in rows if symbol in clear]
    heard = [p.start_s for p in found.phonemes if p.symbol in clear]
    assert len(true) == len(heard) > 12
    assert np.median(np.abs(np.array(true) - heard)) < 0.03


def test_words_that_no_dictionary_has_are_spelt(said) -> None:
    pytest.importorskip("pocketsphinx", reason="the extra `speech` is not installed")
    found = Aligner().align_text(said, TEXT.replace("lips", "lipss"))
    assert found is not None and "p" in symbols(found.phonemes)


def test_phonemes_without_a_text_are_heard_and_aligned(said) -> None:
    for name in ("hama", "pocketsphinx"):
        pytest.importorskip(name, reason="the extra `speech` is not installed")
    words = Transcriber().words(said)
    assert sum(map(len, words)) > 15
    assert Aligner().align_phones(said, words) is not None


def test_silence_aligns_with_nothing() -> None:
    pytest.importorskip("pocketsphinx", reason="the extra `speech` is not installed")
    found = Aligner().align_text(np.zeros(SAMPLE_RATE_HZ, np.float32), TEXT)
    assert found is None or not found.is_sure
    assert Aligner().align_text(np.zeros(0, np.float32), TEXT) is None
    assert Aligner().align_text(np.zeros(SAMPLE_RATE_HZ, np.float32), "...") is None


class FakeAligner:
    """Agrees with every text but one."""

    def align_text(self, waveform, text):
        phonemes = (Phoneme(start_s=0.0, end_s=0.2, symbol="m", alphabet="arpabet"),)
        return None if text == "wrong" else Alignment(phonemes, -10.0 if text == "right" else -40.0)

    def align_phones(self, waveform, words):
        return self.align_text(waveform, "right")


class FakeTranscriber:
    def words(self, waveform):
        return [["M"]]


@pytest.fixture
def recordings(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(speech_folder, "Aligner", FakeAligner)
    monkeypatch.setattr(speech_folder, "Transcriber", FakeTranscriber)
    source = tmp_path / "source"
    rows = ["file,speaker,language,transcript,licence"]
    for name, language, text in (
        ("right", "en", "right"),
        ("wrong", "en", "wrong"),
        ("unsure", "en", "unsure"),
        ("silent", "en", ""),
        ("german", "de", "hallo"),
    ):
        write_tone(source / f"{name}.wav")
        rows.append(f"{name}.wav,{name},{language},{text},CC0")
    write_tone(source / "short.wav", 0.02)
    (source / "list.csv").write_text("\n".join([*rows, "short.wav,short,en,right,CC0"]))
    return source


def test_recordings_come_with_times_where_they_agree_and_without_where_not(recordings, tmp_path) -> None:
    out = tmp_path / "out"
    counts = add_recorded(out, recordings, held_out=["german"])
    assert counts == {
        "aligned": 1,
        "text does not agree": 2,
        "transcribed": 1,
        "no times": 1,
        "left out": 1,
    }
    sounds = {sound.speaker: sound for sound in read_speech_folder(out)}
    assert symbols(sounds["right"].phonemes) == ["m"] and sounds["right"].licence == "CC0"
    assert sounds["wrong"].phonemes is None and sounds["unsure"].phonemes is None
    assert sounds["german"].split == "val" and sounds["german"].phonemes is None
    waveform = sounds["right"].read().waveform
    assert len(waveform) == SAMPLE_RATE_HZ // 2 and sounds["right"].read().speaker.engine == "recorded"
    assert hours_of(list(sounds.values())) == pytest.approx(5 * 0.5 / 3600)
    assert read_speech_folder(out, "val") == [sounds["german"]]


def test_a_recording_that_has_lost_sound_is_left_out(recordings, tmp_path, capsys) -> None:
    whole = (recordings / "right.wav").read_bytes()
    (recordings / "right.wav").write_bytes(whole[: len(whole) // 2])
    counts = add_recorded(tmp_path / "out", recordings, transcribe=False)
    assert counts["left out"] == 2 and "aligned" not in counts
    assert "left out: " in (printed := capsys.readouterr().out) and "right.wav is cut off" in printed


@pytest.mark.parametrize(("given", "place"), [(".", "."), ("..", "below")])
def test_sounds_are_called_by_the_folder_that_dots_stand_for(given, place, tmp_path, monkeypatch) -> None:
    source = tmp_path / "said"
    (source / "below").mkdir(parents=True)
    write_tone(source / "one.wav")
    monkeypatch.chdir(source / place)
    add_recorded(tmp_path / "out", Path(given), transcribe=False)
    (sound,) = read_speech_folder(tmp_path / "out")
    assert sound.path.stem == "said-one" and sound.speaker == "said"


def test_a_second_call_adds_only_what_is_new(recordings, tmp_path) -> None:
    out = tmp_path / "out"
    add_recorded(out, recordings, languages=["de"])
    before = (out / INDEX_NAME).read_text()
    counts = add_recorded(out, recordings, transcribe=False)
    assert counts["aligned"] == 1 and counts["no times"] == 1 and "transcribed" not in counts
    assert (out / INDEX_NAME).read_text().startswith(before)
    assert add_recorded(out, recordings, transcribe=False) == {"left out": 1}


def test_an_index_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(ValueError, match="is no speech folder: speech.jsonl is missing"):
        read_speech_folder(tmp_path)
    (tmp_path / INDEX_NAME).write_text('{"file": "a.flac"}\n')
    with pytest.raises(ValueError, match="speech.jsonl, line 1: KeyError: 'phonemes'"):
        read_speech_folder(tmp_path)


def test_what_is_written_is_read(tmp_path) -> None:
    path = write_sound(tmp_path, "one", np.zeros(3200, np.float32))
    phonemes = (Phoneme(start_s=0.0, end_s=0.1, symbol="ə", alphabet="ipa"),)
    sound = Spoken(
        path=path,
        split="test",
        speaker="ann",
        language="it",
        duration_s=0.2,
        engine="kokoro",
        text="é",
        phonemes=phonemes,
        licence="CC0",
    )
    append([sound], tmp_path)
    assert read_speech_folder(tmp_path) == [sound]
    assert not list(tmp_path.glob("*.tmp*"))
