"""What is said of videos that are left out, and of videos that do not match."""

from __future__ import annotations

from openloopy.apps.evaluation_notes import Facts, LeftOut, mismatches


def test_videos_with_one_reason_share_a_line():
    left_out = LeftOut()
    for video in ("a", "b"):
        left_out.add("blink interval distance, s", "generated", video, "no face was found")
        left_out.add("glo", "generated", video, "no face was found")
    left_out.add("glo", "real", "a", "no face was found")
    left_out.add("psnr", "pair", "a", "the sizes differ")
    left_out.add("exp", "generated", "c", "no face was found")
    assert left_out.notes() == [
        "a, b, generated: no face was found; left out of Glo; blink interval distance, s",
        "a, real: no face was found; left out of Glo",
        "c, generated: no face was found; left out of Exp",
        "a: the sizes differ; left out of PSNR against the real video",
    ]
    assert LeftOut().notes() == []


def facts(**changes) -> Facts:
    usual = {"num_frames": 75, "size_px": (256, 256), "fps": 25.0, "sound_s": 3.0, "key": str(changes)}
    return Facts(**{**usual, **changes})


def noted(generated: dict[str, Facts], real: dict[str, Facts] | None = None) -> list[str]:
    return mismatches({"generated": generated, "real": real or {}})


def test_what_matches_is_not_mentioned():
    assert noted({"a": facts(key="1")}, {"a": facts(key="2")}) == []
    near = facts(num_frames=77, fps=25.05, sound_s=3.1, key="1")
    assert noted({"a": near, "b": facts(key="2")}, {"a": facts(key="3"), "b": facts(key="4")}) == []
    assert noted({}, {}) == noted({"a": facts(sound_s=None)}) == []


def test_pairs_that_differ_are_counted_and_named():
    generated = {
        "a": facts(key="1"),
        "b": facts(num_frames=72, key="2"),
        "c": facts(num_frames=72, key="3"),
        "d": facts(size_px=(512, 256), key="4"),
    }
    real = {name: facts(key=f"real {name}") for name in "abcd"}
    assert noted(generated, real)[:2] == [
        "Warning: 2 of 4 generated videos differ from the real ones in length (72 and 75 frames: b, c)",
        "Warning: 1 of 4 generated videos differ from the real ones in size (512x256 px and 256x256 px: d)",
    ]
    slow = noted({"a": facts(fps=24.0)}, {"a": facts(fps=24.05, key="1")})
    assert slow == [
        "a, generated: 24.00 frames per second, read at 25",
        "a, real: 24.05 frames per second, read at 25",
    ]
    faster = noted({"a": facts(fps=30.0)}, {"a": facts(key="1")})
    assert "in frame rate (30.00 and 25.00 per second: a)" in faster[0]


def test_a_set_of_several_sizes_or_rates_is_told():
    videos = {name: facts(key=name) for name in "abc"}
    videos |= {
        "d": facts(size_px=(64, 64), key="d"),
        "e": facts(fps=50.0, key="e"),
        "f": facts(fps=25.01, key="f"),
    }
    assert noted(videos) == [
        "Warning: the generated videos have 2 sizes (5 have 256x256 px; 64x64 px: d)",
        "Warning: the generated videos have 2 frame rates (5 have 25.00 fps; 50.00 fps: e)",
        "e, generated: 50.00 frames per second, read at 25",
    ]
    assert noted({"a": facts(key="a")}, videos)[0].startswith("Warning: the real videos have 2 sizes")


def test_sounds_of_another_length_and_copies_are_told():
    videos = {
        "a": facts(sound_s=1.0, key="a"),
        "b": facts(key="b"),
        "c": facts(key="b"),
        "d": facts(sound_s=4.0),
    }
    assert noted(videos) == [
        "Warning: a, generated: sound and picture differ in length (1.00 and 3.00 s)",
        "Warning: d, generated: sound and picture differ in length (4.00 and 3.00 s)",
        "Warning: b, c, generated: the same file; it counts 2 times in every mean",
    ]
