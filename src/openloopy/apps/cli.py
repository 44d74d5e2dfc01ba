"""The command line: parses, calls the public function behind each command, and prints.

Everything heavy is imported inside the commands, after all that can be refused without it: --help and a mistyped
command are answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openloopy import __version__
from openloopy.inference.options import MAX_STEPS, MOST
from openloopy.media.duration import in_words
from openloopy.media.files import make_folder, only_maker
from openloopy.media.machine import limit_threads
from openloopy.media.video_format import CRF, MAX_CRF, MAX_SIDE_PX

if TYPE_CHECKING:
    from openloopy.apps.doctor import Examination
    from openloopy.apps.generate import Progress
    from openloopy.apps.request import ModelChoice
    from openloopy.apps.settings import VideoSettings

DEBUG_VARIABLE = "OPENLOOPY_DEBUG"
INTERRUPTED = 130
"""Exit code after Ctrl-C or a polite kill, as shells use it."""
SOME_FAILED = 3
"""Exit code of a batch in which not all could be made."""
USER_ERRORS = (ValueError, OSError, ImportError)
"""Errors whose message is for the user; any other is ours."""
MAX_WORKERS = 1024
MAX_COUNT = 1_000_000
MAX_HOURS = 100_000.0

app = typer.Typer(
    help="A portrait and a sound become a talking video. OpenLoopy, after Loopy (arXiv:2409.02634).",
    epilog="COMMAND -h tells more of a command, with examples. Start with `openloopy app`, or\n\n\b\n"
    "  openloopy generate portrait.jpg speech.mp3 -o talking.mp4",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Its tables break words in two where they are narrow.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Dtype(str, Enum):
    """In which numbers to compute."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Memory(str, Enum):
    """How weights and work are laid out in memory."""

    auto = "auto"
    full = "full"
    slim = "slim"
    int8 = "int8"
    offload = "offload"


class Frame(str, Enum):
    """What the video shows."""

    crop = "crop"
    full = "full"


class Split(str, Enum):
    """Whose voices: to train on, to choose by, to test on."""

    train = "train"
    val = "val"
    test = "test"


class Engine(str, Enum):
    """What runs the work on many videos."""

    local = "local"
    ray = "ray"


class Protocol(str, Enum):
    """Which videos an evaluation is made of."""

    plain = "plain"
    celebv_hq = "celebv-hq"
    ravdess = "ravdess"
    hdtf = "hdtf"
    open_set = "open-set"


class Method(str, Enum):
    """Whose file names the generated videos have."""

    plain = "plain"
    sadtalker = "sadtalker"
    hallo = "hallo"
    vexpress = "vexpress"
    echomimic = "echomimic"


class StoredDtype(str, Enum):
    """In which numbers to write weights."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def _finite(value: Any) -> Any:
    """Refuse infinities and what is no number, which are in every range, or in none."""
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise typer.BadParameter(f"expected a finite number, got {number}")
    return value


ModelOption = Annotated[
    str, typer.Option(metavar="MODEL", help='"mini" (embedded), a model folder, or a hub id.')
]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute.")]
DtypeOption = Annotated[Dtype, typer.Option(help="In which numbers; auto is the fastest that is safe.")]
MemoryOption = Annotated[Memory, typer.Option(help="Memory tier; auto is the first that fits.")]
UnsignedOption = Annotated[
    bool, typer.Option("--unsigned", help="No content credentials (extra `credentials`).")
]
JobsOption = Annotated[
    Path, typer.Option(metavar="FOLDER", help="For jobs and their files; they survive a restart.")
]
PortOption = Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="Where to listen.")]
SeedOption = Annotated[int, typer.Option(metavar="N", min=0, help="Same seed, same result.")]
WorkersOption = Annotated[
    int,
    typer.Option(metavar="N", min=1, max=MAX_WORKERS, help="Processes; the result does not depend on it."),
]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Errors are one readable line on stderr; OPENLOOPY_DEBUG=1 shows where they arose."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads that spin starve the others
    limit_threads()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be no text
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    try:
        app(args=arguments)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        typer.echo(_message(error), err=True)
        raise SystemExit(1) from None


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"openloopy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(
    short_help="Make a talking video of a portrait.",
    epilog="""Examples:

\b
  openloopy generate me.jpg speech.mp3 -o talking.mp4
  openloopy generate me.jpg film.mov -o big.mp4 --size 1024 --seed 7
  openloopy generate me.jpg speech.wav -o whole.mp4 --frame full
  openloopy generate me.jpg mic --live -o - | mpv -""",
)
def generate(
    portrait: Annotated[
        Path, typer.Argument(metavar="PORTRAIT", help="Picture with a face, seen from the front.")
    ],
    audio: Annotated[str, typer.Argument(metavar="AUDIO", help="Any sound file, or a video with sound.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="OUT", help="Where to write the video (.mp4).")],
    model: ModelOption = "mini",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Same seed, same video.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=MAX_STEPS, help="Denoising steps per clip. [mini: 5]"),
    ] = None,
    audio_guidance: Annotated[
        float | None,
        typer.Option(
            metavar="X", min=0, max=MOST, callback=_finite, help="How much the sound leads. [mini: 1.5]"
        ),
    ] = None,
    reference_guidance: Annotated[
        float | None,
        typer.Option(
            metavar="X", min=0, max=MOST, callback=_finite, help="How closely the portrait is kept. [mini: 1]"
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=MOST,
            callback=_finite,
            help="Below 1: a calmer head; above 1: a livelier one. [mini: 1]",
        ),
    ] = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    memory: MemoryOption = Memory.auto,
    face: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Which face, 0 is the largest. [the largest]")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="PX", help="Side of the square video, px, even. [mini: 512]"),
    ] = None,
    frame: Annotated[
        Frame, typer.Option(help="crop: a square about the face; full: the whole picture, its head moving.")
    ] = Frame.crop,
    crf: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=MAX_CRF, help="H.264 quality: lower is better and larger."),
    ] = CRF,
    label: Annotated[bool, typer.Option("--label", help='Write "AI-generated" into a corner.')] = False,
    unsigned: UnsignedOption = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output if it exists.")] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="AUDIO comes as it is spoken, and OUT is written as it is made; see above."
        ),
    ] = False,
) -> None:
    """Make a talking video of a portrait. What is not given is the model's own default.

    With --live, AUDIO is "-" (any sound on standard input), "pcm:RATE" (raw 16-bit mono on standard input) or
    "mic[:DEVICE]"; OUT is "-" (fragmented mp4 on standard output), "y4m:-" or "y4m:PATH" (raw frames in real time, for
    a virtual camera), or a file or named pipe for the mp4.
    """
    from openloopy.apps.request import GenerateRequest, ModelChoice, check_request
    from openloopy.apps.settings import VideoSettings

    settings = VideoSettings(
        seed=seed,
        steps=steps,
        audio_guidance=audio_guidance,
        reference_guidance=reference_guidance,
        temperature=temperature,
        size=size,
        frame=frame.value,
        face=face,
        crf=crf,
        label=label,
    )
    choice = ModelChoice(model=model, device=device.value, dtype=dtype.value, memory=memory.value)
    if live:
        _generate_live(portrait, audio, out, settings, choice)
        return
    request = GenerateRequest(
        portrait=portrait,
        audio=Path(audio),
        out=Path(out),
        settings=settings,
        has_credentials=not unsigned,
        may_overwrite=force,
    )
    with _interruptible("nothing was written"):
        check_request(request)
        from openloopy.apps.generate import generate_video

        with _ProgressBar() as bar:
            report = generate_video(request, choice, say=bar.say, watch=bar.show)
    typer.echo(report)


@app.command(
    short_help="Make many videos with one model; go on where it stopped.",
    epilog="""Examples:

\b
  openloopy batch pairs.csv -o 'out/{portrait}-{audio}.mp4'
  openloopy batch pairs.csv -o 'out/{number}.mp4' --set size=768
  openloopy batch FOLDER -o 'FOLDER/{portrait}.mp4'""",
)
def batch(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS",
            help="A .csv or .jsonl with portrait and audio, or a folder of pairs of one name.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="PATTERN",
            help="Names of the videos, such as {portrait}-{audio}.mp4; also {number}, {seed}.",
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="For all rows, such as size=768; columns may differ."
        ),
    ] = None,
    model: ModelOption = "mini",
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    memory: MemoryOption = Memory.auto,
    unsigned: UnsignedOption = False,
) -> None:
    """Make many videos with one model; what is there is kept, so the same command goes on. Exit code 3: some failed.

    Columns besides portrait and audio: out, and the settings of `generate`: seed, steps, audio_guidance,
    reference_guidance, temperature, size, frame, face, crf, label.
    """
    from openloopy.apps.batch import BatchConfig, make_batch, planned
    from openloopy.apps.request import ModelChoice
    from openloopy.apps.settings import VideoSettings

    config = BatchConfig(
        pairs=pairs,
        out=out,
        settings=VideoSettings.from_text(_as_mapping(settings or [])),
        has_credentials=not unsigned,
    )
    choice = ModelChoice(model=model, device=device.value, dtype=dtype.value, memory=memory.value)
    planned(config)  # before anything heavy is imported
    with _interruptible("the same command goes on from here"):
        from openloopy.apps.generate import Studio

        report = make_batch(config, Studio(choice, say=_say_aside), say=_say_aside)
    typer.echo(report)
    if report.counts["failed"]:
        raise typer.Exit(SOME_FAILED)


@app.command(
    short_help="Tell whether files say that they were generated.",
    epilog="Example:\n\n\b\n  openloopy detect talking.mp4 frame.png",
)
def detect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Videos or pictures.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs, one line a file.")] = False,
) -> None:
    """Tell whether files say that they were generated: container tag, content credentials, imperceptible mark."""
    from openloopy.apps.detect import detect as look

    for file in files:
        found = look(file)
        typer.echo(json.dumps(found.as_dict(), allow_nan=False) if as_json else found)


@app.command(
    "app",
    short_help="A page on this machine: see the video while it is made.",
    epilog="Example:\n\n\b\n  openloopy app --port 8000",
)
def page(
    folder: JobsOption = Path("openloopy-jobs"),
    port: PortOption = 7860,
    model: ModelOption = "mini",
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    memory: MemoryOption = Memory.auto,
) -> None:
    """Serve a page on this machine: a portrait and a sound go in, the video plays while it is made (extra `app`)."""
    from openloopy.apps.generate import ModelChoice, Studio

    with _needs_extra("app"):
        from openloopy.apps.page import make_page_app
        from openloopy.apps.service import ServiceConfig, run_service
    config = ServiceConfig(folder=folder, port=port)
    choice = ModelChoice(model=model, device=device.value, dtype=dtype.value, memory=memory.value)
    with _interruptible("what was being made is made anew at the next start"):
        run_service(config, make_page_app(config, Studio(choice, say=_say_aside)), _say_aside)


@app.command(
    short_help="Serve videos over HTTP.",
    epilog="""Examples:

\b
  openloopy serve
  OPENLOOPY_TOKEN=SECRET openloopy serve --host 0.0.0.0 --max-audio-s 60""",
)
def serve(
    folder: JobsOption = Path("openloopy-jobs"),
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; another than this machine's own needs a token."
        ),
    ] = "127.0.0.1",
    port: PortOption = 8360,
    model: ModelOption = "mini",
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    memory: MemoryOption = Memory.auto,
    max_waiting: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=MAX_COUNT, help="Videos that may wait; more are refused."),
    ] = 16,
    max_audio_s: Annotated[
        float, typer.Option(metavar="S", min=1, callback=_finite, help="Longest sound, seconds.")
    ] = 600.0,
    keep_h: Annotated[
        float,
        typer.Option(
            metavar="H", min=0, callback=_finite, help="Finished videos are deleted after so many hours."
        ),
    ] = 24.0,
    idle_s: Annotated[
        float,
        typer.Option(
            metavar="S",
            min=0,
            callback=_finite,
            help="The model is unloaded after so many seconds without work.",
        ),
    ] = 300.0,
) -> None:
    """Serve videos over HTTP on this machine: POST /v1/videos, and a page about it at /docs (extra `serve`).

    Clients have to show the token in the environment's OPENLOOPY_TOKEN, if there is one.
    """
    from openloopy.apps.generate import ModelChoice, Studio
    from openloopy.apps.jobs import Limits

    with _needs_extra("serve"):
        from openloopy.apps.service import ServiceConfig, make_app, run_service
    config = ServiceConfig(
        folder=folder,
        host=host,
        port=port,
        token=os.environ.get("OPENLOOPY_TOKEN") or None,
        limits=Limits(max_waiting=max_waiting, max_audio_s=max_audio_s, keep_s=3600 * keep_h, idle_s=idle_s),
    )
    choice = ModelChoice(model=model, device=device.value, dtype=dtype.value, memory=memory.value)
    with _interruptible("what was being made is made anew at the next start"):
        run_service(config, make_app(config, Studio(choice, say=_say_aside)), _say_aside)


@app.command(
    short_help="Gather speech with known phoneme times. Resumes.",
    epilog="""Examples:

\b
  openloopy speech data/speech --kokoro-hours 2 --workers 2
  openloopy speech data/speech --recorded LIBRIVOX --held-out ann,bob""",
)
def speech(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Speech folder: sounds and speech.jsonl.")],
    recorded: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of recordings, with a manifest, texts or times beside them; repeat it for several.",
        ),
    ] = None,
    held_out: Annotated[
        str,
        typer.Option(
            "--held-out", metavar="NAME,...", help="Speakers that no training hears, separated by commas."
        ),
    ] = "",
    language: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Only recordings of this language, such as en; repeat it. [all]"),
    ] = None,
    transcribe: Annotated[
        bool, typer.Option(help="English without a text is written down by hama before it is aligned.")
    ] = True,
    kokoro_hours: Annotated[
        float,
        typer.Option(
            "--kokoro-hours",
            metavar="H",
            min=0,
            max=MAX_HOURS,
            callback=_finite,
            help="Speech of Kokoro's voices (half a core second a second).",
        ),
    ] = 0.0,
    split: Annotated[Split, typer.Option(help="Whose of Kokoro's voices.")] = Split.train,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
) -> None:
    """Gather speech with known phoneme times, recorded or by Kokoro, for `train` and `puppet`. Resumes."""
    if not recorded and not kokoro_hours:
        raise typer.BadParameter("nothing to gather: give --recorded or --kokoro-hours")
    from openloopy.puppet.speech_folder import add_kokoro, add_recorded, hours_of, read_speech_folder

    with _interruptible("the same command goes on from here"):
        for folder in recorded or ():
            people = [name for name in held_out.split(",") if name]
            counts = add_recorded(
                out, folder, held_out=people, languages=language or (), transcribe=transcribe
            )
            ways = ", ".join(f"{count} {way}" for way, count in counts.most_common()) or "nothing new"
            typer.echo(f"{folder}: {ways}")
        if kokoro_hours:
            add_kokoro(out, hours=kokoro_hours, split=split.value, seed=seed, workers=workers)
    sounds = read_speech_folder(out)
    timed = [sound for sound in sounds if sound.phonemes is not None]
    typer.echo(
        f"{out} holds {len(sounds)} sounds ({hours_of(sounds):.2f} h) of {len({s.speaker for s in sounds})} voices; "
        f"the times of the phonemes are known in {len(timed)} ({hours_of(timed):.2f} h)"
    )


@app.command(
    short_help="Make a corpus of puppets: talking heads with exact labels. Resumes.",
    epilog="""Examples:

\b
  openloopy puppet --portraits FOLDER data/puppets --hours 1 --workers 2
  openloopy puppet --states data/states --hours 20 --clip-s 20 --clip-s 45""",
)
def puppet(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    portraits: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of portraits; drawn faces if not given."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(metavar="H", callback=_finite, help="How much video to make.")
    ] = None,
    num_clips: Annotated[int | None, typer.Option(metavar="N", help="The same as a number of clips.")] = None,
    clip_s: Annotated[
        list[float] | None,
        typer.Option(
            metavar="S",
            callback=_finite,
            help="Length of a clip, seconds; repeat it for several in turn. [8]",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Put before clip ids, so that corpora can be mixed.")
    ] = "",
    size: Annotated[int, typer.Option(metavar="PX", help="Side of the clips, px.")] = 256,
    states: Annotated[
        bool, typer.Option("--states", help="Speech with face states and landmarks, without pictures: fast.")
    ] = False,
    workers: WorkersOption = 1,
    seed: SeedOption = 0,
    val_share: Annotated[
        float,
        typer.Option(metavar="X", callback=_finite, help="Share of clips (and of people) held out."),
    ] = 0.04,
    speech: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="Speech folder whose sounds are said too; repeat it for several."
        ),
    ] = None,
    speech_share: Annotated[
        float, typer.Option(metavar="X", callback=_finite, help="Share of clips that say them.")
    ] = 0.7,
    noise_share: Annotated[
        float,
        typer.Option(metavar="X", callback=_finite, help="Share of clips in noise, rooms, bad microphones."),
    ] = 0.0,
    quiet_share: Annotated[
        float,
        typer.Option(metavar="X", callback=_finite, help="Share of clips in which nobody speaks."),
    ] = 0.0,
) -> None:
    """Make a synthetic talking-head corpus from still portraits and synthetic speech. Resumes."""
    from openloopy.puppet.corpus_config import CorpusConfig

    first_clip_s, *more_clip_s = clip_s or [8.0]
    config = CorpusConfig(
        out=out,
        portraits=portraits,
        hours=hours,
        num_clips=num_clips,
        clip_s=first_clip_s,
        more_clip_s=tuple(more_clip_s),
        name=name,
        size_px=size,
        content="states" if states else "pictures",
        workers=workers,
        seed=seed,
        val_share=val_share,
        speech=tuple(speech or ()),
        speech_share=speech_share,
        noise_share=noise_share,
        quiet_share=quiet_share,
    )
    with _interruptible("the same command goes on from here"):
        from openloopy.puppet.corpus import write_corpus

        report = write_corpus(config)
    typer.echo(
        f"{out} holds {report.num_clips} clips ({report.hours:.2f} h) of {report.num_people} people; "
        f"{report.num_refused} of {report.num_portraits} portraits refused (reasons in {out}/refused.csv); "
        f"took {in_words(report.seconds_this_run)}"
    )


@app.command(
    short_help="Make training shards of footage. Resumes.",
    epilog="""Examples:

\b
  openloopy prepare FOOTAGE data/footage --held-out NAME --workers 2
  openloopy prepare FOOTAGE data/footage --set min_face_px=80
  openloopy prepare FOOTAGE data/footage --explain CLIP""",
)
def prepare(
    raw: Annotated[
        str,
        typer.Argument(
            metavar="RAW", help="Folder of videos, a .txt list of them, or an address such as s3://..."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    size: Annotated[
        int, typer.Option(metavar="PX", min=32, max=MAX_SIDE_PX, help="Side of the clips, px, even.")
    ] = 512,
    held_out: Annotated[
        str, typer.Option(metavar="NAME,...", help="People (or one video of each) for the val split.")
    ] = "",
    person_pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Its first group, in the file name, is the person. [file name]"),
    ] = None,
    licence: Annotated[
        str, typer.Option(metavar="TEXT", help="Copied into every clip's record.")
    ] = "not stated",
    max_clip_s: Annotated[
        float,
        typer.Option(
            metavar="S", min=1, callback=_finite, help="Longer stretches become several clips, seconds."
        ),
    ] = 20.0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A filter's threshold, such as min_face_px=80, or =none."
        ),
    ] = None,
    as_is: Annotated[
        bool, typer.Option("--sound-as-is", help="Drop clips whose sound is late or early; do not move it.")
    ] = False,
    syncnet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights of SyncNet, to judge lip synchrony too.")
    ] = None,
    dwpose: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of DWPose's ONNX files, whose landmarks are stored then."
        ),
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Processes of this machine, or Ray.")] = Engine.local,
    workers: WorkersOption = 1,
    explain: Annotated[
        str | None,
        typer.Option(metavar="CLIP", help="Only tell what became of a clip or video in OUT, and why."),
    ] = None,
) -> None:
    """Make training shards of footage: one face, 25 fps, 16 kHz, a reason for all that is dropped. Resumes.

    Exit code 3: some videos could not be prepared, through no fault of theirs; the same command tries them again.
    """
    from openloopy.data.filters import thresholds_from
    from openloopy.data.prepare import IncompleteError, PrepareConfig, explain_clip, prepare_footage

    if explain is not None:
        typer.echo(explain_clip(out, explain))
        return
    config = PrepareConfig(
        raw=raw,
        out=out,
        size_px=size,
        held_out=tuple(name.strip() for name in held_out.split(",") if name.strip()),
        person_pattern=person_pattern,
        licence=licence,
        max_clip_s=max_clip_s,
        thresholds=thresholds_from(_as_mapping(settings or [])),
        corrects_sound=not as_is,
        syncnet=syncnet,
        dwpose=dwpose,
        engine=engine.value,
        workers=workers,
    )
    try:
        with _interruptible("the same command goes on from here"):
            report = prepare_footage(config)
    except IncompleteError as error:
        typer.echo(error.report.text(out))
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(SOME_FAILED) from None
    typer.echo(report.text(out))


@app.command(
    short_help="Label pictures for training the face networks.",
    epilog="Example:\n\n\b\n  openloopy label PORTRAITS data/bank --workers 2",
)
def label(
    portraits: Annotated[Path, typer.Argument(metavar="PORTRAITS", help="Folder of pictures with faces.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the bank.")],
    footage: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Folder of shards whose frames join; repeatable."),
    ] = None,
    puppet_frames: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=MAX_COUNT, help="Frames of each portrait as a speaking puppet."),
    ] = 6,
    drawn: Annotated[
        int, typer.Option(metavar="N", min=0, max=MAX_COUNT, help="Faces drawn by code that join.")
    ] = 300,
    cartoons: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=MAX_COUNT, help="Cartoons drawn by code that join."),
    ] = 1500,
    toons: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=MAX_COUNT, help="Drawings made of each portrait that join."),
    ] = 1,
    workers: WorkersOption = 1,
) -> None:
    """Label pictures for training the face networks (needs mediapipe, the extra `teacher`)."""
    from openloopy.recipes.face_bank import FaceBankConfig, build_face_bank

    config = FaceBankConfig(
        portraits=portraits,
        out=out,
        footage=tuple(footage or ()),
        puppet_frames=puppet_frames,
        drawn=drawn,
        cartoons=cartoons,
        toons=toons,
        workers=workers,
    )
    with _interruptible("the same command goes on where it stopped"):
        bank = build_face_bank(config)
    typer.echo(f"{out} holds {len(bank.views)} views of faces and {len(bank.scenes)} scenes")


@app.command(
    "import",
    short_help="Make a model folder out of other projects' weights.",
    epilog="Example:\n\n\b\n  openloopy import SD15 SD-VAE-FT-MSE WAV2VEC2-BASE start",
)
def import_weights(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Files and folders of weights; see above.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Model folder to write; must be new.")],
    size_px: Annotated[
        int,
        typer.Option(
            "--size",
            metavar="PX",
            min=64,
            max=MAX_SIDE_PX,
            help="Side of the pictures, px; a multiple of 64.",
        ),
    ] = 512,
    dtype: Annotated[StoredDtype, typer.Option(help="Of the weights on disk.")] = StoredDtype.float16,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=2**31 - 1, help="Of the parts that no source has."),
    ] = 0,
) -> None:
    """Make a model folder to train from, out of other projects' weights.

    Give a U-Net, an autoencoder and an audio encoder together: Stable Diffusion 1.x (diffusers folder or single
    file), sd-vae-ft-mse, wav2vec2-base (transformers folder); and, if you like, AnimateDiff's motion modules. Hallo
    and Moore-AnimateAnyone can take Stable Diffusion's place. Of two sources with the same part the later one wins.
    OUT/import.json names every tensor: taken, reshaped, left, new.
    """
    import torch

    from openloopy.models.importing import import_model

    make_folder(out.parent)
    with only_maker(out), _interruptible("nothing was written"):
        report = import_model(sources, out, size_px=size_px, storage=getattr(torch, dtype.value), seed=seed)
    typer.echo(f"{report.summary()}\n{out}: train it with `openloopy train sd15.stage1 --start {out} ...`")


@app.command(
    short_help="Train a recipe, or go on with it.",
    epilog="""Examples:

\b
  openloopy train mini --data data/states --run runs/mini
  openloopy train mini.stage2 --data data/states --run runs/mini \\
    --set loop.num_steps=20000
  openloopy train mini --data data/footage --run runs/mine \\
    --start runs/mini/model""",
)
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="LINE or LINE.STEP, such as mini or mini.stage1.")
    ],
    data: Annotated[
        list[Path],
        typer.Option(metavar="FOLDER", help="Folder of shards; repeat it to train on several."),
    ],
    run: Annotated[
        Path,
        typer.Option(
            "--run",
            "--run-folder",
            metavar="FOLDER",
            help="Run folder; the same command resumes what is in it. (Under torchrun give the longer names of --run "
            "and --start: the shorter ones look like its own options.)",
        ),
    ],
    start: Annotated[
        Path | None,
        typer.Option(
            "--start",
            "--start-model",
            metavar="FOLDER",
            help="Model folder to go on from, instead of from nothing.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of one step.")
    ] = None,
) -> None:
    """Train a recipe, from its last checkpoint if there is one."""
    from openloopy.recipes import run_recipe

    with _interruptible("the same command goes on from the last checkpoint"):
        run_recipe(recipe, data, run, _as_mapping(settings or []), start)


@app.command(
    short_help="Compute the paper's metrics on folders of videos. Resumes.",
    epilog="""Examples:

\b
  openloopy evaluate GENERATED --truth REAL -o report
  openloopy evaluate GENERATED --truth REAL --count 50 --seed 1 -o report""",
)
def evaluate(
    generated: Annotated[Path, typer.Argument(metavar="GENERATED", help="Folder of generated videos.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the report.")],
    truth: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the real videos, with the same names."),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of sounds with the same names. [the videos']"),
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(help="Layout of --truth; plain: names decide; open-set: --truth holds portraits."),
    ] = Protocol.plain,
    method: Annotated[Method, typer.Option(help="Whose file names GENERATED has.")] = Method.plain,
    align: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of word times, NAME.align as in the GRID corpus, for lip closures.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the method, for tables. [the folder's]")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=MAX_COUNT, help="So many cases, drawn by --seed. [all]"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the choice.")] = 0,
    device: Annotated[Device, typer.Option(help="For networks whose weights you have.")] = Device.cpu,
) -> None:
    """Compute the paper's metrics on folders of videos, as JSON, Markdown, CSV and a page. Resumes.

    Metrics whose networks nobody may ship are computed where their weights lie in $OPENLOOPY_WEIGHTS
    (~/.cache/openloopy/weights); otherwise the report says how to get them.
    """
    from openloopy.apps.evaluate import EvaluateConfig, cases_of, markdown
    from openloopy.apps.evaluate import evaluate as run_evaluation

    cases = cases_of(
        generated, truth, audio, protocol=protocol.value, method=method.value, count=count, seed=seed
    )
    config = EvaluateConfig(
        cases=cases,
        out=out,
        name=name or Path(os.path.realpath(generated)).name,
        device=_torch_device(device.value),
        align=align,
    )
    with _interruptible("the same command goes on from here"):
        report = run_evaluation(config)
    typer.echo(markdown(report))


@app.command(
    short_help="Put several reports into one table.",
    epilog="Example:\n\n\b\n  openloopy compare report other-report -o table.md",
)
def compare(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT...", help="Folders from `openloopy evaluate`.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="File for the Markdown table. [none]"),
    ] = None,
) -> None:
    """Put several reports into one table in the paper's form, best and second best marked."""
    from openloopy.apps.compare import compare as compare_reports
    from openloopy.media.files import atomic_write

    table = compare_reports(reports)
    if out is not None:
        with atomic_write(out) as partial_path:
            partial_path.write_text(table, "utf-8")
    typer.echo(table)


@app.command(
    short_help="A page for blinded votes on several methods' videos.",
    epilog="Example:\n\n\b\n  openloopy study METHOD-A METHOD-B -o study",
)
def study(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER...", help="One folder of videos for each method; its name is the method."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for votes and results.")
    ] = Path("study"),
    categories: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV of case,category, in place of subfolders."),
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Leave out cases that a folder lacks.")] = False,
    ties: Annotated[
        bool, typer.Option("--ties", help="Raters may answer that there is no difference.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the orders.")] = 0,
    port: PortOption = 8350,
    results: Annotated[bool, typer.Option("--results", help="Only write the results of OUT.")] = False,
) -> None:
    """Serve a page on this machine for blinded votes on the paper's six dimensions; resumes for each rater."""
    from openloopy.apps.study import StudyConfig, run_study, write_results
    from openloopy.measures.votes import read_study

    if results:
        typer.echo(f"wrote {write_results(out, read_study(out))}")
        return
    config = StudyConfig(
        folders=tuple(folders or ()),
        out=out,
        cases="common" if common else "all",
        categories=categories,
        allows_ties=ties,
        seed=seed,
    )
    with _interruptible("votes are kept; the same command goes on"):
        run_study(config, port, typer.echo)


@app.command(
    short_help="Print what this machine can run, and what would be picked.",
    epilog="Example:\n\n\b\n  openloopy doctor --json",
)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print what this machine can run, and which model, dtype and device would be picked."""
    from openloopy.apps.doctor import examine

    found = examine()
    if as_json:
        facts = dataclasses.asdict(found) | {"can_generate": found.can_generate}
        typer.echo(json.dumps(facts, indent=2, allow_nan=False))
    else:
        typer.echo(_describe(found))


def _generate_live(
    portrait: Path, audio: str, out: str, settings: VideoSettings, choice: ModelChoice
) -> None:
    from openloopy.apps.live_request import LiveRequest, check_live

    request = LiveRequest(portrait=portrait, audio=audio, out=out, settings=settings)
    with _interruptible("the stream ends here"):
        check_live(request)
        from openloopy.apps.live import generate_live

        typer.echo(generate_live(request, choice, say=_say_aside), err=True)


def _torch_device(name: str) -> str:
    from openloopy.apps.doctor import choose

    return str(choose(name, "auto").device)


@contextlib.contextmanager
def _needs_extra(extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("openloopy"):
            raise
        raise ImportError(f"{error.name} is missing: pip install 'openloopy[{extra}]'") from error


def _say_aside(message: str) -> None:
    """On stderr: standard output may be the video."""
    typer.echo(message, err=True)


def _interrupt(signal_number: int, frame: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _interruptible(consequence: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted: {consequence}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _message(error: Exception) -> str:
    text = str(error).replace("\n", " ") or type(error).__name__
    if isinstance(error, USER_ERRORS):
        return f"error: {text}"
    return f"error: {type(error).__name__}: {text} (unexpected; {DEBUG_VARIABLE}=1 shows where it arose)"


def _as_mapping(settings: list[str]) -> dict[str, str]:
    for setting in settings:
        if "=" not in setting:
            raise typer.BadParameter(f"expected KEY=VALUE, got {setting!r}", param_hint="--set")
    return dict(setting.split("=", 1) for setting in settings)


def _describe(found: Examination) -> str:
    lines = [f"{name:24} {version}" for name, version in found.versions.items()]
    bf16 = "computes in bfloat16" if found.has_cpu_bf16 else "no bfloat16 arithmetic"
    lines.append(f"{'cpu':24} {found.cpu_cores} cores, {found.memory_gb} GB, {bf16}")
    limits = {"cores": found.cpu_quota, "GB": found.memory_limit_gb}
    allowed = " and ".join(f"{limit:g} {unit}" for unit, limit in limits.items() if limit is not None)
    lines.append(f"{'allowed by a container':24} {allowed or 'everything'}")
    lines.append(f"{'devices':24} {', '.join(found.devices)}")
    for part in found.parts:
        lines.append(f"{part.name:24} {part.detail if part.is_present else f'MISSING: {part.detail}'}")
    lines.append(f"{'would pick':24} model mini, device {found.device}, dtype {found.dtype}")
    lines += [f"{f'memory for {name}':24} {text}" for name, text in found.memory.items()]
    lines.append(f"{'openloopy generate':24} {'ready' if found.can_generate else 'not ready, see above'}")
    return "\n".join(lines)


class _ProgressBar:
    """Clips done, time left and speed, on stderr; appears with the first frame."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = Bar(*columns, console=Console(stderr=True, soft_wrap=True))

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def say(self, message: str) -> None:
        self._bar.console.print(message, markup=False, highlight=False)

    def show(self, progress: Progress) -> None:
        if not self._bar.task_ids:
            self._bar.add_task("", total=progress.total_clips)
            self._bar.start()
        left = in_words(round(progress.left_s))
        speed = f"{left} left, {progress.seconds_per_video_second:.1f} s per video second"
        self._bar.update(self._bar.task_ids[0], completed=progress.clips_done, description=speed)


if __name__ == "__main__":
    main(sys.argv[1:])
