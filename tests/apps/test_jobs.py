"""The queue: first come, first served; nothing lost by a restart, a failure or a full disk of old videos."""

from __future__ import annotations

import errno
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from openloopy.apps import jobs
from openloopy.apps.generate import GenerateReport, Progress
from openloopy.apps.jobs import Job, JobQueue, Limits, QueueFullError
from openloopy.apps.settings import VideoSettings
from openloopy.media.files import WriteError
from tests.media.sounds import speechlike, write_damaged


class FakeStudio:
    """Makes a "video" frame by frame, each when it is let."""

    def __init__(self) -> None:
        self.let, self.begun, self.is_loaded, self.failure = threading.Semaphore(0), [], False, None
        self.warmed = []

    def make(self, request, *, say, watch, stream):
        self.is_loaded = True
        self.begun.append(request.settings.seed)
        say(f"{request.portrait} has its eyes shut")
        if self.failure:
            raise self.failure
        for i in range(3):
            assert self.let.acquire(timeout=5)
            stream.write(b"frame")
            stream.flush()
            watch(Progress(i + 1, 3, 12, 0.1 * (i + 1)))
        request.out.write_bytes(b"video")
        request.out.with_suffix(".json").write_text("{}")
        timings = {"seconds_per_video_second": 0.5}
        return GenerateReport(
            out=request.out, sidecar=request.out.with_suffix(".json"), width=8, height=6, num_frames=3,
            device="cpu", dtype="float32", timings=timings,
        )  # fmt: skip

    def scene(self, rgb, settings):
        self.warmed.append(settings.seed)

    def unload(self) -> bool:
        was_loaded, self.is_loaded = self.is_loaded, False
        return was_loaded


@pytest.fixture
def studio() -> FakeStudio:
    return FakeStudio()


def ask(queue: JobQueue, inputs: Path, seed: int = 0) -> Job:
    with queue.new_folder() as folder:
        (folder / "image").write_bytes((inputs / "face.png").read_bytes())
        (folder / "audio").write_bytes((inputs / "speech.wav").read_bytes())
        return queue.add(folder, VideoSettings(seed=seed))


def until(condition, timeout_s: float = 10) -> None:
    stop = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < stop, "never became true"
        time.sleep(0.01)


def status(queue: JobQueue, job: Job) -> str:
    return queue.find(job.id).job.status


def test_jobs_are_made_in_the_order_they_came(tmp_path, studio, good_inputs):
    with JobQueue(tmp_path, studio) as queue:
        jobs = [ask(queue, good_inputs, seed) for seed in range(4)]
        until(lambda: studio.begun)
        standings = [queue.find(job.id) for job in jobs]
        assert [s.job.status for s in standings] == ["running", "queued", "queued", "queued"]
        assert [s.num_before for s in standings] == [0, 1, 2, 3]
        lefts = [s.left_s for s in standings]
        assert lefts == sorted(lefts) and lefts[0] > 0
        for _ in range(12):
            studio.let.release()
        for job in jobs:
            assert queue.wait(job.id, 10).job.status == "done"
        assert studio.begun == [0, 1, 2, 3]
        done = queue.find(jobs[0].id)
        assert done.job.video["num_frames"] == 3 and done.left_s is None
        assert done.job.notes == ("the image has its eyes shut",)
        assert queue.video_path(jobs[0].id).read_bytes() == b"video"
        assert queue.counts == {"queued": 0, "running": 0, "done": 4, "failed": 0, "cancelled": 0}


def test_more_than_may_wait_are_refused_with_a_time(tmp_path, studio, good_inputs):
    with JobQueue(tmp_path, studio, Limits(max_waiting=2)) as queue:
        ask(queue, good_inputs)
        until(lambda: studio.begun)
        for _ in range(2):
            ask(queue, good_inputs)
        with pytest.raises(QueueFullError, match="2 videos are waiting already; try again in") as refused:
            ask(queue, good_inputs)
        assert refused.value.retry_after_s >= 1
        with pytest.raises(QueueFullError):
            queue.check_room()
        assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3
        for _ in range(9):
            studio.let.release()


def test_a_running_job_can_be_watched_and_cancelled(tmp_path, studio, good_inputs):
    with JobQueue(tmp_path, studio) as queue:
        first, second = ask(queue, good_inputs, 1), ask(queue, good_inputs, 2)
        studio.let.release()
        until(lambda: queue.find(first.id).progress is not None)
        assert queue.find(first.id).progress.frames_done == 1
        queue.cancel(first.id)
        studio.let.release()
        assert queue.wait(first.id, 10).job.status == "cancelled"
        queue.cancel(second.id)
        queue.cancel(second.id)  # again: nothing more happens
        studio.let.release()
        until(lambda: status(queue, second) == "cancelled")
        assert not queue.video_path(first.id).exists()


def test_a_waiting_job_can_be_cancelled_and_forgotten(tmp_path, studio, good_inputs):
    with JobQueue(tmp_path, studio) as queue:
        first, second = ask(queue, good_inputs, 1), ask(queue, good_inputs, 2)
        until(lambda: studio.begun)
        queue.cancel(second.id)
        assert status(queue, second) == "cancelled"
        assert queue.forget(second.id) and not queue.forget(second.id)
        assert queue.find(second.id) is None and not (tmp_path / second.id).exists()
        assert queue.forget(first.id)  # while it is made
        studio.let.release()
        until(lambda: not (tmp_path / first.id).exists())
        assert studio.begun == [1]


def test_the_stream_follows_the_job(tmp_path, studio, good_inputs):
    with JobQueue(tmp_path, studio) as queue:
        job = ask(queue, good_inputs)
        stream = queue.stream(job.id)
        assert next(stream) is None
        studio.let.release()
        until(lambda: next(stream) == b"frame")
        studio.let.release()
        studio.let.release()
        assert b"".join(data for data in stream if data) == b"frameframe"
        assert (
            b"".join(data for data in queue.stream(job.id) if data) == b"frame" * 3
        )  # from the beginning, later


def test_a_failure_is_told_in_words_and_the_next_job_is_made(tmp_path, studio, good_inputs):
    with JobQueue(tmp_path, studio) as queue:
        for failure, message in (
            (ValueError(f"{tmp_path}/x/image: found no face"), None),
            (ZeroDivisionError("oops"), "unexpected: ZeroDivisionError: oops"),
        ):
            studio.failure = failure
            found = queue.wait(ask(queue, good_inputs).id, 10).job
            assert found.status == "failed" and (message is None or found.error == message)
        studio.failure = ValueError(f"{tmp_path / 'never'}")
        job = ask(queue, good_inputs)
        queue.wait(job.id, 10)
        studio.failure = None
        for _ in range(3):
            studio.let.release()
        assert queue.wait(ask(queue, good_inputs).id, 10).job.status == "done"


def test_messages_do_not_tell_where_files_lie(tmp_path, studio, good_inputs):
    with JobQueue(tmp_path, studio) as queue:
        make = studio.make

        def fail(request, **kw):
            raise ValueError(f"{request.portrait}: found no face; {request.out.parent}/x")

        studio.make = fail
        found = queue.wait(ask(queue, good_inputs).id, 10).job
        assert found.error == "the image: found no face; x"
        studio.make = make


def test_a_job_that_takes_too_long_is_ended(tmp_path, studio, good_inputs):
    with JobQueue(tmp_path, studio, Limits(max_job_s=0.05)) as queue:
        job = ask(queue, good_inputs)
        time.sleep(0.1)
        studio.let.release()
        found = queue.wait(job.id, 10).job
        assert found.status == "failed" and "took longer than 0.05 s" in found.error


def test_uploads_are_looked_at_before_they_wait(tmp_path, studio, good_inputs):
    with JobQueue(tmp_path, studio, Limits(max_audio_s=0.3)) as queue:
        with pytest.raises(ValueError, match="the sound is longer than 0.3 s"):
            ask(queue, good_inputs)
        with pytest.raises(ValueError, match="is not a picture"), queue.new_folder() as folder:
            (folder / "image").write_text("words")
            shutil.copyfile(good_inputs / "speech.wav", folder / "audio")
            queue.add(folder, VideoSettings())
        swapped = "the image and the audio seem swapped: .*image is a sound"
        with pytest.raises(ValueError, match=swapped), queue.new_folder() as folder:
            shutil.copyfile(good_inputs / "speech.wav", folder / "image")
            shutil.copyfile(good_inputs / "face.png", folder / "audio")
            queue.add(folder, VideoSettings())
        assert not [path for path in tmp_path.iterdir() if path.is_dir()] and not studio.begun


@pytest.mark.parametrize("limits", [{"keep_s": float("nan")}, {"idle_s": float("inf")}, {"max_waiting": -1}])
def test_limits_that_are_none_are_refused(limits):
    with pytest.raises(ValueError, match=f"{next(iter(limits))} must be a number that is not negative"):
        Limits(**limits)


def test_a_full_disk_does_not_end_the_queue(tmp_path, studio, good_inputs, monkeypatch, caplog):
    def refuse(folder, job):
        raise WriteError(errno.ENOSPC, f"cannot write {folder}: no space is left")

    with JobQueue(tmp_path, studio) as queue:
        first = ask(queue, good_inputs)
        until(lambda: len(studio.begun) == 1)
        monkeypatch.setattr(jobs, "_write", refuse)
        studio.let.release(3)
        assert queue.wait(first.id, 10).job.status == "done"
        assert "no space is left; after a restart video" in caplog.text
        with pytest.raises(WriteError, match="no space is left"):
            ask(queue, good_inputs)
        monkeypatch.undo()
        second = ask(queue, good_inputs)
        studio.let.release(3)
        assert queue.wait(second.id, 10).job.status == "done"


def test_a_damaged_sound_waits_like_any_other(tmp_path, studio, good_inputs):
    """Its length counts, gaps included; what is lost is told when the video is made."""
    with JobQueue(tmp_path, studio, Limits()) as queue, queue.new_folder() as folder:
        shutil.copyfile(good_inputs / "face.png", folder / "image")
        write_damaged(tmp_path / "a.m4a", speechlike(1, 16_000), 16_000, "aac", [4]).rename(folder / "audio")
        assert queue.add(folder, VideoSettings()).audio_s == pytest.approx(1, abs=1e-3)


def test_a_restart_loses_nothing(tmp_path, studio, good_inputs):
    with JobQueue(tmp_path, studio) as queue:
        jobs = [ask(queue, good_inputs, seed) for seed in range(3)]
        for _ in range(3):
            studio.let.release()
        queue.wait(jobs[0].id, 10)
        until(lambda: len(studio.begun) == 2)
        threading.Timer(0.2, studio.let.release).start()  # the end of the queue waits for a frame
    (tmp_path / f"{'0' * 32}.new").mkdir()  # an upload that was cut off
    again = FakeStudio()
    for _ in range(6):
        again.let.release()
    with JobQueue(tmp_path, again) as queue:
        assert [queue.wait(job.id, 10).job.status for job in jobs] == ["done"] * 3
        assert again.begun == [1, 2]
        assert not (tmp_path / f"{'0' * 32}.new").exists()
        assert queue.find(jobs[1].id).job.attempts == 1  # an orderly end does not count
        assert ask(queue, good_inputs).number == 3


def test_a_job_that_ends_the_service_twice_is_reported_lost(tmp_path, studio, good_inputs):
    queue = JobQueue(tmp_path, studio)
    job = ask(queue, good_inputs)
    queue._lock_file.close()
    path = tmp_path / job.id / "job.json"
    for attempts, wanted in ((1, "queued"), (2, "failed")):
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"status": "running", "attempts": attempts})
        )
        queue = JobQueue(tmp_path, studio)
        found = queue.find(job.id).job
        assert found.status == wanted
        queue._lock_file.close()
    assert found.error == "lost: the service ended 2 times while it was made"


def test_folders_that_are_no_jobs_are_left_alone(tmp_path, studio):
    for name, text in (("mine", "{}"), ("a" * 32, "words"), ("b" * 32, '{"id": "../../etc"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text(text)
    queue = JobQueue(tmp_path, studio)
    assert sum(queue.counts.values()) == 0
    assert len(list(tmp_path.glob("*/job.json"))) == 3
    queue._lock_file.close()


def test_two_queues_do_not_share_a_folder(tmp_path, studio):
    queue = JobQueue(tmp_path, studio)
    with pytest.raises(ValueError, match="another service uses .*; stop it, or give another --folder"):
        JobQueue(tmp_path, studio)
    queue._lock_file.close()
    JobQueue(tmp_path, studio)._lock_file.close()


def test_old_videos_are_deleted_and_an_idle_model_gives_its_memory_back(
    tmp_path, studio, good_inputs, monkeypatch
):
    monkeypatch.setattr("openloopy.apps.jobs.HOUSEKEEPING_S", 0.05)
    for _ in range(3):
        studio.let.release()
    with JobQueue(tmp_path, studio, Limits(keep_s=0.3, idle_s=0.2)) as queue:
        job = ask(queue, good_inputs)
        assert queue.wait(job.id, 10).job.status == "done"
        assert studio.is_loaded
        until(lambda: not studio.is_loaded)
        until(lambda: queue.find(job.id) is None and not (tmp_path / job.id).exists())


def test_an_expected_portrait_is_prepared_while_there_is_nothing_to_do(tmp_path, studio, good_inputs):
    with JobQueue(tmp_path, studio) as queue:
        queue.warm(good_inputs / "face.png", VideoSettings(seed=7))
        until(lambda: studio.warmed == [7])
        job = ask(queue, good_inputs)
        until(lambda: studio.begun)
        queue.warm(good_inputs / "face.png", VideoSettings(seed=8))
        for _ in range(3):
            studio.let.release()
        queue.wait(job.id, 10)
        queue.warm(good_inputs / "no.png", VideoSettings(seed=9))  # what is wrong with it the job will say
        time.sleep(0.1)
        assert studio.warmed == [7]
