"""What cannot be had of a video is left out with a reason: it is never 0, never NaN, and never an error."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.measures.video_numbers import (
    FEW_FACES,
    NO_FACE,
    NO_SOUND,
    NUMBERS,
    SILENT,
    Found,
    Measured,
    is_silent,
    measure_closures,
    measure_pair,
    measure_video,
)
from tests.measures.talking import SIZE_PX, KnownFaces, lost, pictures, reader, speech, talking

PAIR = {"d_glo", "d_exp", "lip_gap_r", "lip_gap_lag", "identity", "psnr"}
OF_ONE = set(NUMBERS) - PAIR - {"closures"}
MOTION = {"glo", "exp", "head_speed", "jitter", "blinks_per_minute"}
SYNC = {"lip_sync", "lip_sync_offset"}
OF_FACES = MOTION | SYNC | {"sharpness", "identity_drift"}
OF_PICTURES = {"flicker", "frame_difference", "smooth_blend", "colour_drift"}


def measured(points: np.ndarray | None = None, sound: np.ndarray | str | None = None, **frames) -> Measured:
    points = talking() if points is None else points
    shown = pictures(len(points), **frames)
    sound = speech(len(points)) if sound is None else sound
    found = measure_video(reader(shown), sound, KnownFaces(points))
    assert set(found.numbers) | set(found.left_out) == OF_ONE, "every number is there, or says why not"
    assert not set(found.numbers) & set(found.left_out)
    assert np.isfinite(list(found.numbers.values())).all() and all(found.left_out.values())
    return found


def pair(generated: Measured, real: Measured) -> Found:
    shown = [pictures(len(m.points), size_px=m.size_px[0]) for m in (generated, real)]
    found = measure_pair(generated, real, (reader(shown[0]), reader(shown[1])))
    assert set(found.numbers) | set(found.left_out) == PAIR and not set(found.numbers) & set(found.left_out)
    return found


def test_a_good_video_has_every_number():
    found = measured()
    assert not found.left_out and found.size_px == (SIZE_PX, SIZE_PX) and found.sound_s == 3
    assert not pair(found, measured(talking(seed=1))).left_out


def test_without_a_face_all_that_needs_one_is_left_out():
    found = measured(lost(talking()))
    assert found.numbers["face_found"] == 0, "this one counts"
    assert found.left_out == dict.fromkeys(OF_FACES, NO_FACE)
    assert not len(found.blink_intervals_s) and not len(found.descriptors)


@pytest.mark.parametrize("keep", [[20], [20, 30, 40], slice(20, 25), slice(20, 39)])
def test_a_face_in_a_few_frames_says_nothing_about_motion(keep):
    """Three frames without neighbours had a NaN for a speed, and 500 blinks a minute."""
    found = measured(lost(talking(), keep))
    assert {name: found.left_out.get(name) for name in MOTION | SYNC} == dict.fromkeys(
        MOTION | SYNC, FEW_FACES
    )
    assert not len(found.blink_intervals_s) and "sharpness" in found.numbers


def test_a_face_that_no_sampled_frame_shows():
    found = measured(lost(talking(), slice(21, 25)))
    assert found.left_out["sharpness"] == "no face was found in one of every 10 frames"


def test_frames_in_a_row_are_asked_for_where_they_count():
    found = measured(lost(talking(), slice(0, None, 2)))
    assert set(found.left_out) & MOTION == {"head_speed", "jitter"}
    assert "two frames in a row" in found.left_out["head_speed"]


def test_identity_drift_compares_the_last_second_with_the_first():
    assert "identity_drift" in measured(lost(talking(), slice(0, None, 10))).numbers
    for keep in (slice(0, 50), slice(25, 75)):
        assert "first or in the last second" in measured(lost(talking(), keep)).left_out["identity_drift"]
    assert "shorter than 2 s" in measured(talking(49)).left_out["identity_drift"]
    assert "identity_drift" in measured(talking(50)).numbers


def test_one_frame_does_not_change():
    found = measured(talking(1))
    assert set(found.left_out) == OF_PICTURES | MOTION | SYNC | {"identity_drift"}
    assert "at least 2 frames" in found.left_out["flicker"]


def test_a_second_has_all_but_what_needs_two():
    assert set(measured(talking(25)).left_out) == {"colour_drift", "identity_drift"}


def test_without_blinks_there_are_none_a_minute_and_no_intervals():
    points = talking()
    points[:] = points[:1]
    found = measured(points)
    assert found.numbers["blinks_per_minute"] == 0 and not len(found.blink_intervals_s)


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (NO_SOUND, NO_SOUND),
        ("it is damaged", "it is damaged"),
        (np.zeros(48000, np.float32), SILENT),
        (np.zeros(0, np.float32), SILENT),
        (np.full(48000, 2**-16, np.float32), SILENT),
        (np.concatenate([np.zeros(48000), speech(75)]).astype(np.float32), SILENT),
        (speech(19), "fewer than 20 frames with sound"),
    ],
)
def test_what_is_not_heard_is_not_out_of_step(sound, reason):
    assert measured(sound=sound).left_out == dict.fromkeys(SYNC, reason)


def test_lips_beyond_the_end_of_the_sound_do_not_count():
    """A second of sound to three of picture scored as lips out of step for two."""
    points, sound = talking(), speech()
    found = measured(points, sound[: 25 * 640 - 100])
    alone = measured(points[:25], sound[: 25 * 640 - 100])
    for name in SYNC:
        assert found.numbers[name] == pytest.approx(alone.numbers[name])
    longer = measured(points[:25], sound)
    assert longer.numbers["lip_sync"] == pytest.approx(
        measured(points[:25], sound[: 25 * 640]).numbers["lip_sync"]
    )


def test_lips_of_lost_faces_are_not_still_ones():
    assert SYNC <= set(measured(lost(talking(), slice(0, 38))).numbers)
    found = measured(lost(talking(), slice(0, 37)))
    assert set(found.left_out) & SYNC == SYNC and "fewer than half" in found.left_out["lip_sync"]


def test_lips_that_stand_still_are_out_of_step_but_neither_late_nor_early():
    still = np.repeat(talking()[:1], 75, axis=0)
    found = measured(still)
    assert "lip_sync" in found.numbers and found.left_out["lip_sync_offset"] == "the lips stand still"
    beside = pair(found, measured())
    assert abs(beside.numbers["lip_gap_r"]) < 0.01, "a mouth that never moves does not follow the real one"
    assert beside.left_out == {"lip_gap_lag": "generated video: the lips stand still"}
    real = pair(measured(), found)
    assert real.left_out == dict.fromkeys(("lip_gap_r", "lip_gap_lag"), "real video: the lips stand still")


@pytest.mark.parametrize("faceless", ["generated", "real"])
def test_a_pair_of_which_one_has_no_face(faceless):
    """The correlation of lips was 0, at no lag: a video without a face counted as one that says nothing right."""
    videos = {"generated": measured(), "real": measured()}
    videos[faceless] = measured(lost(talking()))
    found = pair(**videos)
    assert found.left_out == dict.fromkeys(PAIR - {"psnr"}, f"{faceless} video: {NO_FACE}")


def test_a_pair_whose_faces_are_never_seen_together():
    found = pair(measured(lost(talking(), slice(0, 40))), measured(lost(talking(), slice(35, 75))))
    assert set(found.left_out) == {"lip_gap_r", "lip_gap_lag"}
    assert found.left_out["lip_gap_r"] == "both videos have a face in fewer than 20 of their frames"
    assert (
        "lip_gap_r"
        in pair(measured(lost(talking(), slice(0, 40))), measured(lost(talking(), slice(20, 75)))).numbers
    )


def test_a_pair_of_different_lengths_is_compared_over_what_both_have():
    found = pair(measured(talking()[:30]), measured())
    assert found.numbers["lip_gap_r"] == pytest.approx(1) and found.numbers["psnr"] == 99
    short = pair(measured(talking()[:19]), measured())
    assert set(short.numbers) == {"identity", "psnr"}


def test_a_pair_of_different_sizes_has_no_psnr():
    found = pair(measured(size_px=80), measured())
    assert found.left_out == {"psnr": f"the sizes differ: 80x80 px, real {SIZE_PX}x{SIZE_PX} px"}


def test_a_face_beyond_the_picture_is_left_out_and_no_error():
    found = measured(talking() + 500)
    assert set(found.left_out) == {"sharpness", "identity_drift"} and not len(found.descriptors)
    some = talking()
    some[:50] += 500
    assert set(measured(some).left_out) == {"identity_drift"}


def test_pictures_too_small_for_a_flow():
    found = measured(lost(talking()), size_px=8)
    assert "too small for optical flow" in found.left_out["flicker"] and "frame_difference" in found.numbers


def test_pictures_that_change_their_size_are_refused_in_words():
    frames = [*pictures(10), *pictures(10, size_px=80)]
    with pytest.raises(ValueError, match="change from 64x64 px to 80x80 px at frame 10; cut"):
        measure_video(lambda: iter(frames), NO_SOUND, KnownFaces(talking(20)))
    with pytest.raises(ValueError, match="no frames"):
        measure_video(lambda: iter([]), NO_SOUND, KnownFaces(talking(20)))


def test_what_is_no_number_is_left_out():
    found = Found()
    found.take("glo", lambda: float("nan"))
    found.take("exp", lambda: np.float32("inf"))
    assert not found.numbers and found.left_out == {"glo": "it came out as nan", "exp": "it came out as inf"}


def test_silence_is_told_from_a_quiet_room():
    noise = np.random.default_rng(0).standard_normal(16000)
    assert is_silent(1e-5 * noise) and not is_silent(10 ** (-70 / 20) * noise)


def aligned(tmp_path, *spans: tuple[int, int]):
    """Words with a b from frame to frame."""
    path = tmp_path / "x.align"
    path.write_text("".join(f"{1000 * a} {1000 * b} bin\n" for a, b in spans))
    return path


def opened_lips(closed: slice) -> np.ndarray:
    """Lips apart in all frames but these."""
    points = talking()
    points[:, (65, 66, 67)] = points[:, (63, 62, 61)] + np.array([0, 3], np.float32)
    points[closed, 65:68] = points[closed, 61:64][:, ::-1]
    return points


def test_closures_are_asked_for_where_the_generated_face_is_seen(tmp_path):
    """A lost face counted as lips that stay open."""
    real = measured(opened_lips(slice(10, 30)))
    path = aligned(tmp_path, (12, 15), (20, 25), (60, 90))
    assert measure_closures(real, real, path).numbers == {"closures": 1}
    assert measure_closures(measured(opened_lips(slice(10, 18))), real, path).numbers == {"closures": 0.5}
    half = opened_lips(slice(10, 18))
    half[18:30] = np.nan
    assert measure_closures(measured(half), real, path).numbers == {"closures": 1}
    gone = measure_closures(measured(lost(talking(), slice(40, 75))), real, path)
    assert "no word with b, m, p" in gone.left_out["closures"] and not gone.numbers
    assert measure_closures(measured(lost(talking())), real, path).left_out == {
        "closures": f"generated video: {NO_FACE}"
    }
    open_throughout = measured(opened_lips(slice(0)))
    assert "no word with b, m, p" in measure_closures(real, open_throughout, path).left_out["closures"]


def test_a_damaged_alignment_is_a_reason_and_no_end(tmp_path):
    (tmp_path / "x.align").write_text("one two three four\n")
    found = measure_closures(measured(), measured(), tmp_path / "x.align")
    assert "line 1: expected start, end and a word" in found.left_out["closures"]
