"""Each layout is made of empty files with published names; the names alone decide."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openloopy.apps.protocols import (
    Case,
    Cases,
    adapt_outputs,
    celebv_hq_cases,
    hdtf_cases,
    open_set_cases,
    pairs,
    plain_cases,
    ravdess_cases,
    ravdess_name,
    sample,
    with_generated,
)

PORTRAITS = ["real", "anime", "side_face", "humanoid_crafts"]
SOUNDS = ["speech", "singing", "rap", "emotional"]


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def named(*names: str) -> Cases:
    return Cases(
        cases=[Case(name=n, generated=None, truth=None, portrait=None, audio=None) for n in names],
    )


def pair(portrait: str, sound: str) -> Case:
    return Case(
        name=f"{portrait}__{sound}",
        generated=None,
        truth=None,
        portrait=Path(f"{portrait}.png"),
        audio=Path(f"{sound}.wav"),
    )


def open_set(folder: Path, per_category: int = 5) -> tuple[Path, Path]:
    for category in PORTRAITS:
        make(folder / "portraits" / category, *(f"{category}{i}.png" for i in range(per_category)))
    for category in SOUNDS:
        make(folder / "sounds" / category, *(f"{category}{i}.wav" for i in range(per_category)))
    return folder / "portraits", folder / "sounds"


# Plain folders.


def test_plain_cases_meet_by_name_and_nothing_is_dropped(tmp_path):
    made = make(tmp_path / "made", "a.mp4", "sub/b.MOV", "sub/alone.mp4", "log.txt", "._a.mp4")
    real = make(tmp_path / "real", "a.mkv", "sub/b.mp4", "spare.mp4")
    sounds = make(tmp_path / "sounds", "a.wav", "sub/b.flac", "sub/alone.mp3")
    found = plain_cases(made, real, sounds)
    assert [case.name for case in found.cases] == ["a", "sub/alone", "sub/b"]
    assert [case.truth for case in found.cases] == [real / "a.mkv", None, real / "sub/b.mp4"]
    assert found.cases[1].audio == sounds / "sub/alone.mp3"
    assert found.notes == [
        "1 not videos: log.txt",
        f"1 without a real video in {real}: sub/alone",
        "1 without a generated video: spare",
    ]
    assert found.record()["names"] == ["a", "sub/alone", "sub/b"]


def test_plain_sound_may_come_from_videos(tmp_path):
    made = make(tmp_path / "made", "a.mp4")
    assert plain_cases(made, None, make(tmp_path / "real", "a.mp4")).cases[0].audio == tmp_path / "real/a.mp4"


def test_plain_errors_say_what_to_do(tmp_path):
    made = make(tmp_path / "made", "a.mp4")
    with pytest.raises(ValueError, match="would both be called 'a'; rename"):
        plain_cases(make(tmp_path / "twice", "a.mp4", "a.mov"), None, None)
    with pytest.raises(ValueError, match="none of the 1 videos has a real video"):
        plain_cases(made, make(tmp_path / "real", "sub/a.mp4"), None)
    with pytest.raises(ValueError, match="no video file in"):
        plain_cases(make(tmp_path / "none", "a.txt"), None, None)
    with pytest.raises(ValueError, match="is not a folder"):
        plain_cases(tmp_path / "missing", None, None)


# Choice.


def test_sample_depends_on_seed_and_names_alone():
    names = [f"clip{i}" for i in range(50)]
    chosen = sample(named(*names), 10, 1)
    assert chosen.cases == sample(named(*reversed(names)), 10, 1).cases
    assert chosen.cases != sample(named(*names), 10, 2).cases
    assert {c.name for c in chosen.cases} < {c.name for c in sample(named(*names), 11, 1).cases}
    assert chosen.seed == 1 and len(chosen.cases) == 10


def test_sample_of_known_names_stays_the_same_for_ever():
    chosen = sample(named(*(f"clip{i}" for i in range(50))), 3, 0)
    assert [case.name for case in chosen.cases] == ["clip3", "clip4", "clip41"]


def test_sample_says_when_there_are_too_few():
    assert "there are only 2" in sample(named("a", "b"), 5, 0).notes[0]
    with pytest.raises(ValueError, match="at least 1"):
        sample(named("a"), 0, 0)
    with pytest.raises(ValueError, match="come up twice: a"):
        named("a", "a")


# Published data sets.


def test_celebv_hq(tmp_path):
    clips = [f"--aq_aJyZL{i}_{i % 3}" for i in range(8)]
    make(tmp_path, *(f"35666/{clip}.mp4" for clip in clips), "35666/v4U2mAwO6-4_0_crop.mp4", "intro.mp4")
    about = {clip: {"attributes": {"emotion": {"sep_flag": False, "labels": "happy"}}} for clip in clips}
    about["v4U2mAwO6-4_0"] = {"attributes": {"emotion": {"sep_flag": True, "labels": [{"emotion": "sad"}]}}}
    (tmp_path / "celebvhq_info.json").write_text(json.dumps({"meta_info": {}, "clips": about}))
    every = celebv_hq_cases(tmp_path)
    assert {case.name: case.category for case in every.cases} == {
        **dict.fromkeys(clips, "happy"),
        "v4U2mAwO6-4_0_crop": "changing",
    }
    assert every.cases[0].truth == every.cases[0].audio
    assert every.notes == [
        "1 not named like clips: intro.mp4",
        "drawn from 9 clips; 35666 were published",
        "100 cases were asked for, there are only 9: all are taken",
    ]
    chosen = celebv_hq_cases(tmp_path, count=4, seed=3)
    assert chosen.record()["seed"] == 3 and chosen.counts == {"found": 9, "cases": 4}


def test_celebv_hq_errors(tmp_path):
    with pytest.raises(ValueError, match="is called like <YouTube id>_<number>.mp4"):
        celebv_hq_cases(make(tmp_path / "other", "a.mp4"))
    make(tmp_path / "clips", "M2Ohb0FAaJU_1.mp4")
    (tmp_path / "clips/celebvhq_info.json").write_text("[]")
    with pytest.raises(ValueError, match="is not CelebV-HQ's list"):
        celebv_hq_cases(tmp_path / "clips")


def test_ravdess_name_as_explained_by_its_authors():
    name = ravdess_name("02-01-06-01-02-01-12")
    assert name is not None
    assert (name.modality, name.channel, name.emotion) == ("video-only", "speech", "fearful")
    assert (name.intensity, name.statement, name.repetition, name.actor) == ("normal", 2, 1, 12)
    for stem in ["04-01-06-01-02-01-12", "02-01-09-01-02-01-12", "02-01-06-01-02-01-25", "02-01-06-01-02-01"]:
        assert ravdess_name(stem) is None


def test_ravdess_sound_comes_from_files_that_have_it(tmp_path):
    make(tmp_path / "Actor_01", "01-01-03-01-01-01-01.mp4", "02-01-03-01-01-01-01.mp4")
    make(tmp_path / "Actor_12", "02-01-06-01-02-01-12.mp4", "03-01-06-01-02-01-12.wav")
    make(tmp_path / "Actor_12", "02-01-01-01-02-01-12.mp4", "03-01-08-01-02-01-12.wav")
    make(tmp_path / "Actor_12", "01-02-04-01-02-01-12.mp4", "notes.mp4", "03-01-06-01-02-02-12.mp4")
    found = ravdess_cases(tmp_path)
    by_name = {case.name: case for case in found.cases}
    assert sorted(by_name) == ["01-01-03-01-01-01-01", "02-01-01-01-02-01-12", "02-01-06-01-02-01-12"]
    full, silent, twin = (by_name[name] for name in sorted(by_name))
    assert full.category == "happy" and full.audio == full.truth
    assert silent.category == "neutral" and silent.audio is None
    assert twin.category == "fearful" and twin.audio == tmp_path / "Actor_12/03-01-06-01-02-01-12.wav"
    assert found.notes == [
        "2 not RAVDESS files: Actor_12/03-01-06-01-02-02-12.mp4, Actor_12/notes.mp4",
        "1 without sound: 02-01-01-01-02-01-12",
    ]
    assert found.counts == {
        "found": 5,
        "not speech": 1,
        "sound only": 1,
        "video-only twins left aside": 1,
        "cases": 3,
    }
    assert [case.category for case in ravdess_cases(tmp_path, channel="song").cases] == ["sad"]
    assert len(ravdess_cases(tmp_path, channel=None).cases) == 4


def test_ravdess_errors(tmp_path):
    with pytest.raises(ValueError, match="no RAVDESS videos of speech .* expected Actor_01"):
        ravdess_cases(make(tmp_path / "sounds", "Actor_01/03-01-01-01-01-01-01.wav"))
    with pytest.raises(ValueError, match="same recording; remove one"):
        ravdess_cases(make(tmp_path, "a/01-01-01-01-01-01-01.mp4", "b/01-01-01-01-01-01-01.mp4"))


def test_hdtf(tmp_path):
    clips = ["RD_Radio10_000", "WDA_LucilleRoybal-Allard_000", "WRA_KevinBrady0_001"]
    make(tmp_path, *(f"{clip}.mp4" for clip in clips), "_videos_raw/RD_Radio10.mp4")
    found = hdtf_cases(tmp_path)
    assert {case.name: case.category for case in found.cases} == dict(
        zip(clips, ["RD", "WDA", "WRA"], strict=True)
    )
    assert found.notes[0] == "1 not named like clips: _videos_raw/RD_Radio10.mp4"
    assert "silent" in found.notes[1] and found.cases[0].audio == tmp_path / "RD_Radio10_000.mp4"
    sounds = make(tmp_path / "sounds", "RD_Radio10_000.wav")
    heard = hdtf_cases(tmp_path, audio=sounds)
    assert [case.audio for case in heard.cases] == [sounds / "RD_Radio10_000.wav", None, None]
    assert "2 without sound" in heard.notes[1]


# The open set.


def test_open_set_of_the_papers_size(tmp_path):
    found = open_set_cases(*open_set(tmp_path), seed=1)
    assert len({case.portrait for case in found.cases}) == len({case.audio for case in found.cases}) == 20
    assert len({case.category for case in found.cases}) == 16
    assert found.notes == [] and found.seed == 1
    assert found.counts["cases"] == found.counts["picture"] == 20 and found.counts["picture/anime"] == 5
    assert found.cases == open_set_cases(*open_set(tmp_path), seed=1).cases
    assert found.cases != open_set_cases(*open_set(tmp_path), seed=2).cases


def test_open_set_of_all_combinations(tmp_path):
    assert len(open_set_cases(*open_set(tmp_path), count=400).cases) == 400
    with pytest.raises(ValueError, match="need at least 20 .* at most 400"):
        open_set_cases(*open_set(tmp_path), count=401)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 5), (4, 6), (20, 20), (6, 3)])
def test_pairs_differ_and_reach_everyone(sizes):
    first, second = [f"p{i}" for i in range(sizes[0])], [f"s{i}" for i in range(sizes[1])]
    assert len(set(pairs(first, second, sizes[0] * sizes[1]))) == sizes[0] * sizes[1]
    shortest = pairs(first, second, max(sizes))
    assert {a for a, _ in shortest} == set(first) and {b for _, b in shortest} == set(second)


def test_smaller_open_set_and_csv(tmp_path):
    make(tmp_path, "p/one.png", "p/two.jpg", "s/real/hello.wav")
    (tmp_path / "portraits.csv").write_text("file, category\np/one.png, anime\np/two.jpg, Side face\n")
    found = open_set_cases(tmp_path / "portraits.csv", tmp_path / "s")
    assert sorted(case.name for case in found.cases) == ["one__hello", "two__hello"]
    assert {case.category for case in found.cases} == {"anime/real", "Side face/real"}
    assert found.notes == [
        "2 picture files; the paper's open set has 20",
        "2 of the paper's picture categories missing: real, humanoid crafts",
        "1 sound files; the paper's open set has 20",
        "4 of the paper's sound categories missing: speech, singing, rap, emotional",
    ]


def test_open_set_errors(tmp_path):
    portraits, sounds = open_set(tmp_path)
    with pytest.raises(ValueError, match="would both be called 'real0'"):
        open_set_cases(make(tmp_path / "same", "real/real0.png", "anime/real0.png"), sounds)
    with pytest.raises(ValueError, match="loose.png in .* have no category"):
        open_set_cases(make(portraits, "loose.png"), sounds)
    listed = tmp_path / "list.csv"
    for text, message in [
        ("path,kind\n", "expected a first line with the columns file, category"),
        ("file,category\n", "lists no files"),
        ("file,category\nmissing.png,real\n", "lists .*missing.png"),
        ("file,category\nportraits/real/real0.png\n", "line 2: 1 values for 2 columns"),
    ]:
        listed.write_text(text)
        with pytest.raises(ValueError, match=message):
            open_set_cases(listed, sounds)
    with pytest.raises(ValueError, match="does not exist"):
        open_set_cases(tmp_path / "none.csv", sounds)


# Other methods' outputs.


def test_sadtalker(tmp_path):
    cases = [pair("art_0", "bus"), pair("art_0", "rap"), pair("me", "rap"), pair("me", "bus")]
    make(tmp_path, "2024_05_01_10.20.30.mp4", "2024_05_01_10.20.30/art_0##bus.mat")
    make(tmp_path, "2024_05_01_10.20.30/art_0##bus.mp4", "2024_05_01_10.20.30/first_frame_dir/art_0.mat")
    make(tmp_path, "2024_05_01_11.00.00.mp4", "2024_05_01_10.20.30/3dface.mp4")
    make(tmp_path, "gradio/art_0##rap.mp4", "gradio/art_0##rap_full.mp4", "me##rap_enhanced.mp4")
    outputs = adapt_outputs(tmp_path, "sadtalker", cases)
    assert outputs.paths == {
        "art_0__bus": tmp_path / "2024_05_01_10.20.30.mp4",
        "art_0__rap": tmp_path / "gradio/art_0##rap_full.mp4",
        "me__rap": tmp_path / "me##rap_enhanced.mp4",
    }
    unknown, missing, earlier = outputs.notes
    assert "--verbose" in unknown
    assert unknown.endswith("2024_05_01_10.20.30/3dface.mp4, 2024_05_01_11.00.00.mp4")
    assert missing == "1 cases without a video: me__bus"
    assert earlier.endswith(": 2024_05_01_10.20.30/art_0##bus.mp4, gradio/art_0##rap.mp4")


def test_two_runs_of_one_case_are_an_error(tmp_path):
    for time in ["2024_05_01_10.20.30", "2024_05_02_10.20.30"]:
        make(tmp_path, f"{time}.mp4", f"{time}/me##bus.mat")
    with pytest.raises(ValueError, match="sadtalker has 2 videos of me__bus: .*keep one run"):
        adapt_outputs(tmp_path, "sadtalker", [pair("me", "bus")])


def test_hallo(tmp_path):
    make(tmp_path, "me__bus.mp4", "me__rap/.cache/output.mp4", "all/art__rap.mp4", ".cache/output.mp4")
    cases = [pair("me", "bus"), pair("me", "rap"), pair("art", "rap")]
    outputs = adapt_outputs(tmp_path, "hallo", cases)
    assert outputs.paths == {
        "me__bus": tmp_path / "me__bus.mp4",
        "me__rap": tmp_path / "me__rap/.cache/output.mp4",
        "art__rap": tmp_path / "all/art__rap.mp4",
    }
    assert outputs.notes[0].startswith("1 unknown to hallo") and ".cache/output.mp4" in outputs.notes[0]


def test_vexpress(tmp_path):
    make(tmp_path, "short_case/talk_AOC_no_retarget.mp4", "talk_tys.mp4", "tys-temp.mp4", "sub/10.mp4")
    outputs = adapt_outputs(tmp_path, "vexpress", named("AOC", "tys", "sub/10").cases)
    assert {name: path.name for name, path in outputs.paths.items()} == {
        "AOC": "talk_AOC_no_retarget.mp4",
        "tys": "talk_tys.mp4",
        "sub/10": "10.mp4",
    }
    assert outputs.notes[0].endswith("tys-temp.mp4")
    make(tmp_path, "short_case/talk_AOC_fix_face.mp4")
    with pytest.raises(ValueError, match="keep one run or one setting"):
        adapt_outputs(tmp_path, "vexpress", named("AOC").cases)


def test_echomimic_prefers_the_file_with_sound(tmp_path):
    run = tmp_path / "output/20240801/1530--seed_420-512x512"
    make(run, "a_512x512_2_1530.mp4", "me_my_bus_512x512_2_1530.mp4")
    make(run, "me_my_bus_512x512_2_1530_withaudio.mp4", "me_rap_512x512_2_1530.mp4")
    cases = [pair("me", "my_bus"), pair("me", "rap")]
    outputs = adapt_outputs(tmp_path, "echomimic", cases)
    assert {name: path.name for name, path in outputs.paths.items()} == {
        "me__my_bus": "me_my_bus_512x512_2_1530_withaudio.mp4",
        "me__rap": "me_rap_512x512_2_1530.mp4",
    }
    assert "a_512x512_2_1530.mp4" in outputs.notes[0]
    assert outputs.notes[1] == "1 cases with a silent video only: me__rap"
    unclear = adapt_outputs(tmp_path, "echomimic", [*cases, pair("me_my", "bus")])
    assert unclear.notes[1].startswith("2 fit more than one case") and "me__my_bus" not in unclear.paths


def test_outputs_join_the_cases_of_a_data_set(tmp_path):
    clips = make(tmp_path / "clips", "RD_Radio1_000.mp4", "RD_Radio2_000.mp4")
    results = make(tmp_path / "results", "RD_Radio1_000##RD_Radio1_000.mp4")
    real = hdtf_cases(clips)
    cases = with_generated(real, adapt_outputs(results, "sadtalker", real.cases))
    assert [case.generated and case.generated.name for case in cases.cases] == [
        "RD_Radio1_000##RD_Radio1_000.mp4",
        None,
    ]
    assert cases.counts == {"cases": 2, "generated": 1}
    assert cases.notes[-1] == "1 cases without a video: RD_Radio2_000"


def test_an_unknown_method_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected one of sadtalker, hallo"):
        adapt_outputs(tmp_path, "other", [])  # pyright: ignore[reportArgumentType]
