"""The arithmetic of the benchmark scripts; the scripts themselves need a trained model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from openloopy.inference.pipeline import GenerationOptions
from tests.data.synthetic import make_sample
from tests.models.tiny_nets import awake
from tests.tiny import tiny_rig_model, tiny_sound

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def _has_main(path: Path) -> bool:
    return "__main__" in path.read_text("utf-8")


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    parts = ("cases", "numbers", "parts", "pictures")
    names = ("provenance", "quality", "identity", "generate", "evaluate", "prepare", "sync")
    names += ("sync_pairs", "sync_threshold", "sync_tracks")
    names += ("ablation", "ablation_measures", "ablation_table", "state_corpus", "state_motion")
    for name in (*names, *(f"quality_{part}" for part in parts)):
        sys.modules.pop(name, None)


def _case(points: np.ndarray, **changes):
    from quality_cases import Case, Tracked

    frames = np.zeros((len(points), 64, 64, 3), np.uint8)
    truth = Tracked(frames=frames, points=points)
    facts = dict(person="p", clip="c", portrait=frames[0], portrait_points=points[0], waveform=np.zeros(1))
    return Case(**{**facts, "truth": truth, **changes})


def _face() -> np.ndarray:
    """68 points with open eyes and closed lips, outer eye corners 100 px apart."""
    points = np.random.default_rng(0).uniform(40, 60, (68, 2))
    points[36], points[45] = (20, 50), (120, 50)
    points[[61, 62, 63], 1], points[[67, 66, 65]] = 80, points[[61, 62, 63]]
    points[[67, 66, 65], 1] = 80
    points[[37, 38, 43, 44], 1], points[[41, 40, 47, 46], 1] = 48, 56
    return points


def test_results_are_json_even_without_a_face():
    from provenance import rounded

    result = rounded({"a": np.float32(1 / 3), "b": [float("nan"), 7], "c": "text"})
    assert json.loads(json.dumps(result)) == {"a": 0.3333, "b": [None, 7], "c": "text"}


def test_a_model_is_known_by_its_content(tmp_path):
    from provenance import folder_hash

    for name, content in (("one", "x"), ("two", "x"), ("three", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    one, two, three = (folder_hash(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two != three


def test_summary_takes_medians_but_does_not_hide_a_lost_face():
    from quality_numbers import summary

    people = [
        {"person": "a", "lip_gap_correlation": 0.9, "face_found": 1.0, "sharpness": 0.1},
        {"person": "b", "lip_gap_correlation": 0.5, "face_found": 1.0, "sharpness": 0.3},
        {"person": "c", "lip_gap_correlation": 0.0, "face_found": 0.4, "sharpness": np.nan},
    ]
    assert summary(people) == pytest.approx({"lip_gap_correlation": 0.5, "face_found": 0.8, "sharpness": 0.2})


def test_summary_adds_counts_up():
    from quality_numbers import summary

    counts = (
        "frames",
        "blinks",
        "blinks_truth",
        "closures_asked",
        "closures_closed",
        "closures_closed_truth",
    )
    rows = [(250, 1, 2, 3, 1, 3), (1250, 0, 2, 1, 1, 1)]
    people = [{"face_found": 1.0, **dict(zip(counts, row, strict=True))} for row in rows]
    result = summary(people)
    assert result["blink_ratio"] == 0.25
    assert (result["blinks_per_minute"], result["blinks_per_minute_truth"]) == (1, 4)
    assert (result["closure_rate"], result["closure_rate_truth"]) == (0.5, 1)


def test_frames_that_differ_from_the_portrait():
    from quality_numbers import differing_frames

    points = _face()[None].repeat(4, 0)
    points[1, [67, 66, 65], 1] += 8  # the mouth opens by .08 eye distances
    points[2, [37, 38, 43, 44], 1] = 56  # the eyes close
    points[3] = np.nan
    mouth, eyes = differing_frames(points)
    assert mouth.tolist() == [False, True, False, False]
    assert eyes.tolist() == [False, False, True, False]


def test_autoencoder_errors_go_where_the_state_differs():
    from quality_cases import Tracked
    from quality_numbers import autoencoder_errors, autoencoder_psnr

    points = _face()[None].repeat(3, 0)
    points[1, [67, 66, 65], 1] += 8
    points[2] = np.nan
    frames = np.full((3, 128, 128, 3), 100, np.uint8)
    decoded = frames.copy()
    decoded[1] += 16
    numbers = autoencoder_psnr([autoencoder_errors(Tracked(frames=frames, points=points), decoded)])
    assert numbers["autoencoder_psnr_mouth"] == pytest.approx(20 * np.log10(255 / 16))
    assert numbers["autoencoder_psnr_mouth_like"] == 99
    assert np.isnan(numbers["autoencoder_psnr_eyes"])
    assert (numbers["share_mouth_differ"], numbers["share_eyes_differ"]) == (0.5, 0)


def test_lips_of_a_copy_are_perfect():
    from quality_cases import Spoken
    from quality_numbers import lips

    points = _face()[None].repeat(60, 0)
    points[:, [67, 66, 65], 1] += (8 + 8 * np.sin(np.arange(60) / 3))[:, None]
    case = _case(points, spoken=Spoken(closures=np.array([[13.0, 15.0]]), vowels=np.array([[4.0, 6.0]])))
    numbers = lips(case, case.truth, case.truth)
    assert numbers["lip_gap_correlation"] == pytest.approx(1)
    assert (numbers["lip_gap_lag_frames"], numbers["closures_asked"], numbers["closures_closed"]) == (0, 1, 1)
    assert (numbers["vowels_asked"], numbers["vowels_closed"]) == (1, 0)


def test_phonemes_become_closures_and_vowels_in_frames():
    from quality_cases import spoken

    from openloopy.data.records import PhonemeSpan

    spans = [(0.0, 0.2, "m"), (0.2, 0.4, "aa"), (0.4, 0.6, "t")]
    found = spoken(tuple(PhonemeSpan(*span, "arpabet") for span in spans))
    assert found.closures == pytest.approx(np.array([[0, 5]]))
    assert found.vowels == pytest.approx(np.array([[5, 10]]))


def test_every_portrait_and_every_sound_comes_up(tmp_path):
    from quality_cases import pair_up

    for folder, names in (("portraits", "abc"), ("sounds", "vwxyz")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    pairs = pair_up(tmp_path / "portraits", tmp_path / "sounds", 5)
    assert [(a.name, b.name) for a, b in pairs] == [*zip("abcab", "vwxyz", strict=True)]


def test_a_refused_portrait_is_listed_with_the_reason(tmp_path):
    from types import SimpleNamespace

    import soundfile
    from quality_cases import read_pairs

    from openloopy.media.image import write_image

    picture, sound = tmp_path / "wall.png", tmp_path / "hum.wav"
    write_image(picture, np.zeros((80, 80, 3), np.uint8))
    soundfile.write(sound, np.zeros(8000), 16_000)
    refused = []
    sees_nothing = SimpleNamespace(detect=lambda rgb: [])
    pairs = [(picture, sound), (picture, tmp_path / "absent.wav")]
    assert list(read_pairs(pairs, 1.0, sees_nothing, 64, refused.append)) == []
    assert [each.file for each in refused] == ["wall.png + hum.wav", "wall.png + absent.wav"]
    assert "found no face" in refused[0].reason and str(tmp_path) not in refused[0].reason


def test_a_sound_is_cut_or_filled_up():
    from quality_cases import fit_sound

    assert fit_sound(np.ones(700), 1).tolist() == [1] * 640
    assert fit_sound(np.ones(600), 1).tolist() == [1] * 600 + [0] * 40


def test_unnamed_and_missing_footage(tmp_path):
    from quality_cases import footage_paths

    (tmp_path / "one.mpg").touch()
    assert footage_paths(tmp_path, ["one"]) == [tmp_path / "one.mpg"]
    with pytest.raises(ValueError, match="two"):
        footage_paths(tmp_path, ["one", "two"])


def test_drift_of_a_video_that_darkens_and_loses_its_face():
    from quality_parts import Look, drift_numbers

    from openloopy.measures.drift import Colours

    def look(lightness: float, similarity: float) -> Look:
        colours = Colours(lab=np.array([lightness, 0, 0]), saturation=10, contrast=20)
        return Look(
            frame=colours,
            face=colours,
            sharpness=0.1,
            face_similarity=similarity,
            texture_similarity=0.9,
        )

    numbers = drift_numbers([look(50, 0.8)] * 4 + [look(46, 0.6)] * 4)
    assert numbers["colour_drift"] == pytest.approx(0.04)
    assert numbers["identity_drift"] == pytest.approx(0.25)
    assert (numbers["sharpness_drift"], numbers["face_saturation_drift"]) == pytest.approx((0, 0))
    nobody = drift_numbers([Look(frame=look(50, 0).frame)] * 4)
    assert np.isnan(nobody["identity_drift"]) and np.isnan(nobody["colour_drift"])


def test_an_aim_is_met_missed_or_unknown():
    from quality import Aim

    aim = Aim("real.glo_ratio", at_least=0.75, at_most=1.25, controls=("glo",))
    results = {"real": {"glo_ratio": 1.3, "glo": 2.0}}
    assert aim.judge(results) == {"value": 1.3, "aim": "0.75 to 1.25", "met": False, "glo": 2.0}
    assert aim.judge({"real": {"note": "not run"}})["met"] is None
    assert Aim("real.x", at_least=1).judge({"real": {"x": 1}})["met"] is True
    assert aim.judge({"real": {"glo_ratio": float("nan")}})["met"] is None


def test_a_finished_part_is_not_run_again(tmp_path, monkeypatch):
    from types import SimpleNamespace

    import quality

    runs = []
    part = quality.Part(lambda bench, options: runs.append(1) or {"x": 1.0}, needs=("data",))
    monkeypatch.setitem(quality.PARTS, "puppets", part)
    monkeypatch.setattr(quality, "EVERY_PART_USES", ("seed",))
    options = SimpleNamespace(parts=["puppets"], data="shards", seed=0)
    bench, facts = SimpleNamespace(out=tmp_path), {"model_hash": "a"}
    for _ in range(2):
        assert quality.run_part("puppets", bench, options, facts) == {"x": 1.0}
    assert len(runs) == 1
    options.seed = 1
    quality.run_part("puppets", bench, options, facts)
    assert len(runs) == 2
    options.data = None
    assert quality.run_part("puppets", bench, options, facts) == {"note": "not run: needs --data"}


@pytest.mark.parametrize("has_truth", [True, False])
def test_every_measured_person_moves_by_a_seed_of_their_own(tmp_path, monkeypatch, has_truth):
    import quality_parts

    seeds, cases = [], [_case(_face()[None].repeat(8, 0), clip=name) for name in "abc"]

    def generate(bench, case):
        seeds.append(bench.generation.seed)
        return case.truth

    stubs = {
        "generate": generate,
        "track": lambda landmarker, frames: cases[0].truth,
        "judge": lambda *about: {"frames": 8, "face_found": 1.0},
        "write_video": lambda *about: None,
        "Sheets": MagicMock,
        "read_pairs": lambda *about, **settings: cases,
        "pair_up": lambda *about: [],
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(quality_parts, name, stub)
    bench = quality_parts.Bench(
        pipeline=MagicMock(), landmarker=None, generation=GenerationOptions(seed=5), out=tmp_path
    )
    if has_truth:
        quality_parts.against_truth(bench, cases, tmp_path, has_exact_points=True)
    else:
        quality_parts.run_portraits(bench, MagicMock())
    assert seeds == [5, 6, 7]


def test_sheets_and_video_are_drawn_even_where_a_face_is_lost(tmp_path):
    from quality_pictures import STRIP_FRAMES, Sheets, write_video

    points = (_face()[None] * 0.5).repeat(8, 0)
    case = _case(points, waveform=np.zeros(8 * 640, np.float32))
    ours = type(case.truth)(frames=case.truth.frames, points=np.full_like(points, np.nan))
    sheets = Sheets()
    sheets.add(case, ours)
    sheets.write(tmp_path)
    write_video(tmp_path / "c.mp4", case, ours)
    assert len(sheets.mouths) == len(sheets.eyes) == 2 * STRIP_FRAMES
    assert {path.name for path in tmp_path.iterdir()} == {"frames.png", "mouths.png", "eyes.png", "c.mp4"}


def test_area_under_curve_is_the_share_of_pairs_in_the_right_order():
    from identity import area_under_curve

    same, different = np.array([0.9, 0.4]), np.array([0.5, 0.1, 0.2])
    assert area_under_curve(same, different) == pytest.approx(5 / 6)


def test_speech_is_as_long_as_asked():
    from generate import speech

    assert speech(12.34).shape == (round(12.34 * 16_000),)


def test_damages_harm_what_they_say():
    import evaluate

    frames = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3)).astype(np.uint8)
    clip = (frames, np.arange(20 * 640, dtype=np.float32))
    for harm, strengths in evaluate.DAMAGES.values():
        for strength in strengths:
            harmed, sound = harm(clip, strength)
            assert harmed.shape == frames.shape and harmed.dtype == np.uint8 and len(sound) == len(clip[1])
    assert (evaluate.frozen(clip, 0.5)[0][10:] == frames[10]).all()
    assert (evaluate.frozen(clip, 1.0)[0] == frames[0]).all()
    shuffled = evaluate.shuffled(clip, 5)[0]
    assert sorted(shuffled[:5].sum((1, 2, 3))) == sorted(frames[:5].sum((1, 2, 3)))
    assert (evaluate.late(clip, 2)[1][1280:] == clip[1][:-1280]).all()


def test_a_step_s_time_is_that_of_its_functions():
    import prepare

    class Stats:
        stats = {
            ("/a/cut.py", 9, "_small"): (1, 1, 0.0, 2.0, {}),
            ("/a/other.py", 9, "_small"): (1, 1, 0.0, 5.0, {}),
        }

    found = prepare.shares(Stats(), 4.0)
    assert found["shot cuts"] == 0.5 and sum(found.values()) == 0.5


def test_moved_sound_is_late():
    import sync

    sound = np.arange(1.0, 6401.0, dtype=np.float32)
    assert (sync.moved(sound, 2)[1280:] == sound[:-1280]).all() and not sync.moved(sound, 2)[:1280].any()
    assert (sync.moved(sound, -2)[:-1280] == sound[1280:]).all() and not sync.moved(sound, -2)[-1280:].any()
    assert len(sync.fitted(sound, 20)) == 12800


def test_bootstrap_covers_the_mean_and_widens_with_few_clusters():
    from ablation_table import bootstrap

    rng = np.random.default_rng(0)
    hits, widths = 0, {4: [], 40: []}
    for _ in range(40):
        for count in widths:
            clusters = [rng.normal(3, 1) + rng.normal(0, 0.5, 6) for _ in range(count)]
            low, high = bootstrap(clusters, draws=300)
            widths[count].append(high - low)
            hits += (low < 3 < high) if count == 40 else 0
    assert hits >= 34
    assert np.mean(widths[4]) > 2 * np.mean(widths[40])
    assert bootstrap([np.array([2.0, 2.0]), np.array([np.nan])]) == (2.0, 2.0)
    assert np.isnan(bootstrap([np.array([np.nan])])).all()


def test_a_difference_is_decided_only_when_interval_seeds_and_chance_agree():
    from ablation_table import verdict

    row = {"difference": 0.2, "interval": [0.1, 0.3], "seeds": {0: 0.1, 1: 0.3}}
    assert verdict(row, "higher", 0.1) == "better" and verdict(row, "lower", 0.1) == "worse"
    assert verdict(row, "higher", 0.2) == "undecided"
    assert verdict(row, "", 0.1) == ""
    assert verdict({**row, "interval": [-0.1, 0.3]}, "higher", 0.1) == "undecided"
    assert verdict({**row, "seeds": {0: -0.1, 1: 0.5}}, "higher", 0.1) == "undecided"
    assert verdict({**row, "interval": [float("nan")] * 2}, "higher", 0.1) == ""


def test_chance_of_seeds_is_exceeded_by_one_difference_in_twenty():
    from ablation_table import chance_of_seeds

    rng = np.random.default_rng(0)
    exceeded = []
    for _ in range(300):
        # Effects of variants and of seeds are large and must not count.
        means = rng.normal(0, 1, (14, 2)) + [0, 50]
        chance = chance_of_seeds(means)
        assert chance_of_seeds(means + 10 * np.arange(14)[:, None]) == pytest.approx(chance)
        exceeded.append(abs(means[1].mean() - means[0].mean()) > chance)
    assert 0.02 < np.mean(exceeded) < 0.09
    assert chance_of_seeds(np.ones((14, 1))) == float("inf")
    assert chance_of_seeds(np.array([[1.0, 2.0], [np.nan, 1.0], [1.0, 3.0]])) > 0


def test_variants_that_are_alike_are_told_apart_once_in_twenty():
    from ablation_table import p_alike

    rng = np.random.default_rng(0)
    found = [p_alike(rng.normal(0, 1, (14, 2)) + [0, 50]) for _ in range(300)]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09
    means = rng.normal(0, 1, (14, 2)) + [0, 50]
    assert p_alike(means + np.arange(14)[:, None]) < 0.001
    assert np.isnan(p_alike(np.ones((14, 1)))) and np.isnan(p_alike(np.ones((14, 2))))


def _states_model(variant: str = "full"):
    """A small model on face states that hears, every part awake, and its audio encoder."""
    from openloopy.models.loopy import LoopyModel
    from openloopy.recipes.ablations import VARIANTS

    model = tiny_rig_model()
    config = VARIANTS[variant].model(model.config)
    torch.manual_seed(0)
    return replace(model, config=config, loopy=awake(LoopyModel(config)).eval().requires_grad_(False))


def _states_cache(folder: Path, model, lengths: tuple[int, ...], split: str = "val"):
    """Clips of drifting noise with the sound that the model's encoder hears."""
    from openloopy.data.cache import AUDIO_MARGIN, latent_cache_writer, open_latent_cache
    from openloopy.models.audio_encoder import AudioFeatureReader
    from openloopy.models.rig_codec import RigCodec

    rng, sounds = np.random.default_rng(0), []
    with latent_cache_writer(folder, size_px=1, source_sha256="", split=split) as writer:
        for i, n in enumerate(lengths):
            sounds.append(tiny_sound(n / 25, seed=i))
            heard = AudioFeatureReader(model.audio_encoder, sounds[-1]).window(
                -AUDIO_MARGIN, n + 2 * AUDIO_MARGIN
            )
            arrays = {
                "latents": rng.normal(size=(n, *RigCodec.latent_shape)).astype(np.float16),
                "audio": heard.numpy().astype(np.float16),
                "points68": rng.uniform(0.3, 0.7, (n, 68, 2)).astype(np.float32),
                "lip_gap": np.zeros(n, np.float32),
            }
            writer.add_clip(make_sample(f"clip-{i}", seed=i, split=split, num_frames=n).record, arrays)
    return open_latent_cache(folder), sounds


@pytest.mark.parametrize("variant", ["full", "random", "noa2l"])
def test_people_in_step_are_what_each_would_be_alone(tmp_path, variant):
    from state_motion import People, generate_latents

    from openloopy.inference.pipeline import LoopyPipeline, plan_clips
    from openloopy.models.audio_to_latents import AudioCondition
    from openloopy.models.codec import PreparedLatents

    model = _states_model(variant)
    cache, sounds = _states_cache(tmp_path, model, (48, 60))
    people = People(cache=cache, numbers=(0, 1), num_clips=4)
    plan = plan_clips(model.config, GenerationOptions(seed=5), model.device)
    together = generate_latents(
        model.loopy, people, AudioCondition, sampler=plan.sampler, guidance=plan.guidance, seed=5
    )
    assert together.shape == (2, 48, 10, 1, 3)
    for number, sound in enumerate(sounds):
        portrait = PreparedLatents(people.portraits()[number][None])
        alone = LoopyPipeline(model).clips(portrait, sound, 48, replace(plan, seed=5 + number))
        difference = together[number] - torch.cat(list(alone))
        assert difference.abs().mean() < 0.02 * together.std()
    assert (together[0] - together[1]).abs().mean() > 0.2 * together.std()


def test_a_past_that_was_seen_is_the_true_one_and_is_gone_on_from(tmp_path):
    from state_motion import People, generate_latents

    from openloopy.inference.pipeline import plan_clips
    from openloopy.models.audio_to_latents import AudioCondition

    model = _states_model()
    cache, _ = _states_cache(tmp_path, model, (100,))
    people = People(cache=cache, numbers=(0,), num_clips=2, seen_clips=3)
    true = torch.from_numpy(np.array(cache.rows("latents", 0))).float()
    history, mask = people.past(124)
    assert torch.equal(history[0, -36:], true[:36]) and not history[0, :-36].any()
    assert mask[0].tolist() == [0.0] * 88 + [1.0] * 36
    assert torch.equal(people.past(20)[0][0], true[16:36]) and people.past(20)[1].all()
    assert not replace(people, seen_clips=0).past(20)[1].any()
    assert torch.equal(people.true_latents()[0], true[36:60])
    plan = plan_clips(model.config, GenerationOptions(), model.device)
    made = [
        generate_latents(model.loopy, each, AudioCondition, sampler=plan.sampler, guidance=plan.guidance)
        for each in (people, replace(people, seen_clips=0))
    ]
    assert not torch.allclose(*made, atol=1e-3)


def test_the_past_changes_the_error_of_what_comes_next(tmp_path, monkeypatch):
    """`losses_with_past` shows the past it says: with none of it two different pasts are the same."""
    import ablation_measures

    monkeypatch.setattr(ablation_measures, "LOSS_BATCHES", 1)
    monkeypatch.setattr(ablation_measures, "LOSS_BATCH", 3)
    model = _states_model()
    cache, _ = _states_cache(tmp_path, model, (300, 290))
    draw, found = ablation_measures.sample_clip_batch, []
    for scale in (1.0, 3.0):

        def scaled(*arguments, scale=scale, **settings):
            batch = draw(*arguments, **settings)
            return replace(batch, history=scale * batch.history)

        monkeypatch.setattr(ablation_measures, "sample_clip_batch", scaled)
        found.append(ablation_measures.losses_with_past(model, cache))
    assert set(found[0]) == {
        f"{part}_{level}_{past}"
        for part in ("all", "mouth", "head", "eyes")
        for level in ablation_measures.NOISE_LEVELS
        for past in ablation_measures.PASTS
    }
    assert all(len(values) == 3 for values in found[0].values())
    assert found[0]["all_0.9_none"] == found[1]["all_0.9_none"]
    assert found[0]["all_0.9_near"] != found[1]["all_0.9_near"]
    assert found[0]["all_0.9_true"] != found[0]["all_0.9_near"]


def test_test_people_are_long_enough_and_their_lips_are_asked_in_the_frames_that_are_made(tmp_path):
    import ablation_measures
    from ablation_measures import made_frames, make_and_measure, read_people

    from openloopy.inference.pipeline import plan_clips

    model = _states_model()
    frames = made_frames(2.0)
    assert (frames.start, frames.stop) == (252, 252 + 48)
    cache, _ = _states_cache(tmp_path / "cache", model, (299, 310, 320))
    people = read_people(cache, model.codec, 2.0, None)
    assert [person.number for person in people] == [1, 2]
    assert people[0].points.shape == (48, 68, 2)
    with pytest.raises(ValueError, match="has 2 people with a clip of 12 s, not 3"):
        read_people(cache, model.codec, 2.0, 3)
    spans = ablation_measures._within(np.array([[250, 254], [252, 256], [290, 310]]), frames)
    assert spans.tolist() == [[0, 4]]
    plan = plan_clips(model.config, GenerationOptions(steps=1), model.device)
    make_and_measure(model, cache, people, plan, tmp_path / "out")
    names = [person.name for person in people]
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == sorted(names)
    with np.load(tmp_path / "out" / f"{names[0]}.npz") as stored:
        assert stored["points"].shape == (48, 68, 2) and np.isfinite(stored["points"]).all()


def _moving_face(num_frames: int, blink_every: int, rng: np.random.Generator) -> np.ndarray:
    """A face that sways, opens its mouth and blinks, `f 68 2` px."""
    time = np.arange(num_frames)
    points = np.repeat(_face()[None], num_frames, 0)
    points[:, [67, 66, 65], 1] += (12 * np.abs(np.sin(time / 3 + rng.uniform(0, 6))))[:, None]
    points[:, [41, 40, 47, 46], 1] -= np.where(time % blink_every < 5, 7.5, 0)[:, None]
    points[:, :, 0] += (8 * np.sin(time / 9))[:, None]
    return points + rng.normal(0, 0.2, points.shape)


def test_ablation_summary_knows_the_truth_and_a_worse_variant(tmp_path):
    from ablation_measures import Person
    from ablation_table import MEASURES, summarise, write_table

    rng, frames = np.random.default_rng(0), 500
    people = []
    for name in ("ann", "bob", "cid"):
        true, spans = _moving_face(frames, 60, rng), np.array([[10, 14], [100, 104]])
        people.append(Person(name=name, number=0, points=true, closures=spans, vowels=spans + 30))
        still = np.repeat(true[30:31], frames, 0) + rng.normal(0, 0.2, true.shape)
        for seed in (0, 1):
            ours = true + rng.normal(0, 0.05, true.shape)
            _store(tmp_path / f"seed{seed}" / "full" / "measured", name, ours)
            _store(tmp_path / f"seed{seed}" / "single4" / "measured", name, still)
    found = summarise(tmp_path, [0, 1], ["full", "single4"], people)
    rows = found["variants"]
    errors = {f"error_{place}_0.9_true" for place in ("all", "eyes", "head", "mouth")}
    errors |= {"error_all_0.9_near", "error_all_0.9_none", "gain_far", "gain_past"}
    assert set(rows["full"]) == {*MEASURES, *errors}
    assert rows["full"]["gain_far"]["mean"] == 0 and rows["full"]["gain_past"]["mean"] == 0.5
    assert rows["full"]["lip_r"]["mean"] > 0.95 and abs(rows["single4"]["lip_r"]["mean"]) < 0.2
    assert rows["full"]["lip_r"]["interval"] == [0, 0]
    for name in ("lip_r", "glo_off", "blink_off", "sway_size_off"):
        assert rows["single4"][name]["verdict"] == "worse", name
    assert rows["full"]["blinks"]["mean"] == pytest.approx(1)
    assert rows["single4"]["blinks"]["mean"] < 1e-3
    assert rows["full"]["blink_off"]["mean"] == 0 and rows["single4"]["blink_off"]["mean"] > 10
    assert rows["full"]["glo"]["mean"] == pytest.approx(1, abs=0.05)
    assert rows["full"]["exp"]["mean"] == pytest.approx(1, abs=0.1)
    assert rows["single4"]["gain_past"]["verdict"] == ""
    assert found["chance"]["gain_past"] == 0 and found["chance"]["lip_r"] > 0
    assert found["truth"]["lip_r"] == pytest.approx(1) and found["truth"]["blink_off"] == 0
    write_table(found, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "one temporal layer, 4 motion frames" in text and "lip gap, correlation" in text
    overview = next(line for line in text.splitlines() if line.startswith("| `single4`: "))
    worse = overview.split(" | ")[3]
    assert "lip gap, correlation with the true one" in worse and "drift" not in worse
    assert "** worse" in text
    lips = next(line for line in text.splitlines() if line.startswith("| lip gap, correlation"))
    assert lips.endswith(f"| {found['p_alike']['lip_r']:.3g} |") and 0 < found["p_alike"]["lip_r"] < 1


def test_a_head_that_jumps_between_clips_shows_at_their_borders():
    from ablation_table import MEASURES, Video

    smooth = np.repeat(_face()[None], 500, 0)
    smooth[:, :, 0] += np.arange(500)[:, None]
    jumping = smooth.copy()
    jumping[:, :, 0] += 4 * (np.arange(500) // 12)[:, None]
    true, ours = Video(smooth), Video(jumping)
    assert MEASURES["border"].values(None, ours, true) == pytest.approx([5, 5])
    assert MEASURES["step_off"].values(None, ours, true) == pytest.approx([0, 0], abs=1e-9)
    assert MEASURES["border"].values(None, true, true) == pytest.approx([1, 1])
    # From the middle of the first ten seconds to that of the last, a hundredth of an eye distance a frame.
    assert MEASURES["drift"].values(None, true, true) == pytest.approx([2.5])
    assert MEASURES["drift"].values(None, Video(smooth - smooth[:, 30:31]), true) == pytest.approx(
        [0], abs=1e-9
    )


def _store(folder: Path, name: str, points: np.ndarray) -> None:
    from ablation_measures import write_points

    write_points(folder / f"{name}.npz", points)
    errors = {f"{place}_0.9_true": [1.0, 2.0] for place in ("all", "eyes", "head", "mouth")}
    errors |= {"all_0.9_near": [1.0, 2.0], "all_0.9_none": [1.5, 2.5]}
    (folder / "losses.json").write_text(json.dumps(errors))


def test_curves_are_in_eye_distances():
    from ablation_measures import curves

    from openloopy.face.movement import eye_opening, lip_gap

    points = np.stack([_face()] * 3)
    found = curves(points)
    assert found.shape == (3, 4)
    assert found[:, 0] == pytest.approx(lip_gap(points), abs=1e-6)
    assert found[:, 1] == pytest.approx(eye_opening(points))
    assert found[:, 2:] == pytest.approx(points[:, 30] / 100)
    assert curves(2 * points) == pytest.approx(found)


@pytest.mark.parametrize("script", sorted(path.name for path in BENCHMARKS.glob("*.py") if _has_main(path)))
def test_every_script_says_what_it_does(script):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--help"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


def _filmed(name: str, num_frames: int, use: str = "train", yaw_deg: float = 0.0):
    """A clip of noise."""
    from sync_pairs import Clip

    rng = np.random.default_rng(len(name))
    points = (_face() + rng.normal(size=(num_frames, 68, 2))).astype(np.float32)
    sound = rng.normal(size=640 * num_frames).astype(np.float32)
    return Clip(name, name.split("__")[0], use, points, np.full(num_frames, yaw_deg), sound)


def test_sync_pairs_are_strangers_of_each_kind():
    import sync_pairs

    clips = [_filmed(f"{name}__1", 75) for name in ("grid_a", "grid_b", "tv_c", "tv_d", "tv_e")]
    clips += [_filmed("tv_c__2", 75), _filmed("tv_e__2", 75)]
    found = sync_pairs.windows(clips, 1.0)
    assert [(w.start, w.num_frames) for w in found if w.clip.name == "tv_c__1"] == [
        (start, 25) for start in (0, 12, 24, 36, 48)
    ]
    copies = [frozenset({"tv_e__1", "tv_e__2"})]
    kinds = {
        (a.clip.name, b.clip.name): sync_pairs._kind(a, b, copies) for a in found[::5] for b in found[4::5]
    }
    assert kinds["grid_a__1", "grid_b__1"] == "rhyming" and kinds["grid_a__1", "tv_c__1"] == "other"
    assert kinds["tv_c__1", "tv_c__2"] == "same" and kinds["tv_e__1", "tv_e__2"] is None
    assert kinds["tv_c__1", "tv_c__1"] == "same"  # two seconds apart
    assert sync_pairs._kind(found[0], found[1], copies) is None  # half a second
    late = found[1].sound(640)
    assert (late == clips[0].sound[13 * 640 : 38 * 640]).all()
    assert not found[4].sound(3 * 640)[-640:].any()  # beyond the end


def test_sync_outcomes_are_those_of_prepare():
    from sync_pairs import Pair, Window
    from sync_threshold import outcome, rule, table

    from openloopy.data.filters import Thresholds
    from openloopy.measures.lip_sync import LipSync

    strong = LipSync(3.0, 0.1, 3.0, 0.2, 2.0, in_step=2.9, chance=0.5)
    weak = strong._replace(score=1.0)
    train, test = (Window(_filmed(name, 25, name, 10.0), 0, 25) for name in ("train", "test"))
    found = [
        Pair("genuine", train, train, strong),
        Pair("genuine", test, test, weak),
        Pair("other", train, test, weak),
        Pair("same", train, train, strong),
        Pair("rhyming", train, test, weak),
    ]
    shares = outcome(found, rule(Thresholds()))
    assert shares["genuine train"] == [1.0, 1] and shares["genuine test"] == [0.0, 1]
    assert shares["false train"] == [0.5, 2] == shares["false others 8-15 deg"] and shares["rhyming"] == [
        0,
        1,
    ]
    assert outcome(found, rule(Thresholds(min_sync_strength=1.5)))["genuine test"] == [1.0, 1]
    curve = {f"{k / 4:.2f}": shares for k in range(8, 25)}
    assert "| 2.00 | 50.0 / 50.0 |" in table({"1 s": {"curve": curve}})


def test_quiet_sounds_are_as_long_as_the_speech_and_as_loud_as_they_say():
    from quality_parts import quiet_sounds

    speech = 0.25 * np.sin(np.arange(16_000) / 9)
    sounds = quiet_sounds(speech)
    levels = {name: 20 * np.log10(np.sqrt((s**2).mean()) + 1e-9) for name, s in sounds.items()}
    assert {len(sound) for sound in sounds.values()} == {16_000}
    assert levels["speech"] - levels["soft"] == pytest.approx(30, abs=0.1)
    assert levels["noise"] == pytest.approx(-50, abs=0.2) and not sounds["silence"].any()
    assert np.abs(sounds["speech"]).max() == pytest.approx(1, abs=1e-3)


def test_quiet_numbers_compare_with_speech():
    from quality_parts import quiet_numbers

    speech = np.linspace(0, 0.2, 101)
    gaps = {
        "speech": speech,
        "soft": speech + 0.009,
        "silence": np.full(101, 0.002),
        "noise": np.full(101, 0.01),
    }
    numbers = quiet_numbers(gaps)
    assert numbers["silence_gap_ratio"] == pytest.approx(0.02)
    assert numbers["noise_gap_ratio"] == pytest.approx(0.1)
    assert numbers["level_difference"] == pytest.approx(0.05)
    assert numbers["face_found"] == 1
    gaps["noise"][:50] = np.nan
    assert quiet_numbers(gaps)["face_found"] == pytest.approx(1 - 50 / 404)


def test_quiet_takes_portraits_whose_mouth_is_closed(monkeypatch, tmp_path):
    import quality_parts

    closed, opened = _face(), _face()
    opened[[67, 66, 65], 1] = 95
    cases = [_case(points[None], clip=name) for name, points in (("open", opened), ("closed", closed))]
    made = []

    def generate(bench, case):
        made.append(case.clip)
        return MagicMock(points=np.tile(opened, (3, 1, 1)))

    stubs = {"pair_up": lambda *a: [1, 2], "read_pairs": lambda *a, **k: iter(cases), "generate": generate}
    for name, stub in {**stubs, "write_video": lambda *a: None}.items():
        monkeypatch.setattr(quality_parts, name, stub)
    bench = MagicMock(out=tmp_path)
    result = quality_parts.run_quiet(bench, MagicMock(quiet_people=3))
    assert made == [f"closed__{name}" for name in ("speech", "soft", "silence", "noise")]
    assert [person["clip"] for person in result["people"]] == ["closed"] and result["silence_gap_ratio"] == 1
    cases.pop()
    with pytest.raises(ValueError, match="none of 2 portraits has a closed mouth"):
        quality_parts.run_quiet(bench, MagicMock(quiet_people=3))
