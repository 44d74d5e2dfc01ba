"""What people install: the archives that are published hold the package and no more, and work from a clean environment.

Needs a package index, and takes some minutes: torch is installed once more, in the build that the index of this machine
has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import av
import pytest
from PIL import Image
from skimage import data

import openloopy
from tests.media.sounds import speechlike, write_sound

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "openloopy"
MOST_BYTES = 25_000_000
DURATION_S = 1.0
BESIDE_THE_CODE = {
    *("pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"),
    *("PKG-INFO", "setup.cfg"),  # written by setuptools
}


def run(*command: str | Path, cwd: Path) -> str:
    """What a command printed; nothing of this checkout or of the running environment is in its way."""
    strange = {"PYTHONPATH", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST"}
    env = {name: value for name, value in os.environ.items() if name not in strange}
    env |= {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, text=True, capture_output=True, timeout=1500
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def new_venv(folder: Path) -> Path:
    """A clean environment; returns its folder of programs."""
    venv.create(folder, with_pip=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
    """The sdist and the wheel; the wheel is built from the sdist, so that nothing may be missing in it."""
    home = tmp_path_factory.mktemp("build")
    # A copy: building leaves files beside the sources, and reads those that an earlier build has left.
    shutil.copytree(
        ROOT,
        home / "source",
        ignore=shutil.ignore_patterns(".*", "out", "build", "dist", "*.egg-info", "__pycache__"),
    )
    programs = new_venv(home / "builder")
    run(programs / "python", "-m", "pip", "install", "--quiet", "build", cwd=home)
    run(programs / "python", "-m", "build", "--outdir", home / "dist", home / "source", cwd=home)
    (sdist,), (wheel,) = (home / "dist").glob("*.tar.gz"), (home / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def programs(archives, tmp_path_factory) -> Path:
    """The programs of an environment with the wheel, as README's "Install" says, without extras."""
    home = tmp_path_factory.mktemp("installed")
    programs = new_venv(home / "venv")
    constraints = ROOT / "constraints.txt"
    run(programs / "python", "-m", "pip", "install", "--quiet", "-c", constraints, archives[1], cwd=home)
    return programs


@pytest.fixture
def folder(tmp_path) -> Path:
    """Another folder than the checkout, with a portrait and a second of sound."""
    Image.fromarray(data.astronaut()).save(tmp_path / "me.png")
    write_sound(tmp_path / "speech.wav", speechlike(DURATION_S, 16_000), 16_000)
    return tmp_path


def package_files() -> set[str]:
    """What belongs into either archive, such as openloopy/media/audio.py."""
    paths = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(PACKAGE.parent).as_posix() for path in paths}


def check_video(path: Path, size_px: int) -> None:
    with av.open(str(path)) as container:
        assert len(container.streams.audio) == 1
        frames = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert frames == [(size_px, size_px)] * round(25 * DURATION_S)


def test_both_archives_are_small(archives):
    sizes = {path.name: path.stat().st_size for path in archives}
    assert all(size < MOST_BYTES for size in sizes.values()), sizes


def test_the_wheel_is_the_package_and_no_more(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        names = set(wheel.namelist())
    ours = {name for name in names if name.startswith("openloopy/")}
    assert ours == package_files()
    assert {PurePosixPath(name).parts[0] for name in names - ours} == {
        f"openloopy-{openloopy.__version__}.dist-info"
    }


def test_the_sdist_is_the_package_and_what_builds_it(archives):
    with tarfile.open(archives[0]) as sdist:
        names = {PurePosixPath(*PurePosixPath(member.name).parts[1:]) for member in sdist if member.isfile()}
    beside = {str(name) for name in names if name.parts[0] != "src"}
    assert beside == BESIDE_THE_CODE
    ours = {name.relative_to("src").as_posix() for name in names if name.parts[:2] == ("src", "openloopy")}
    assert ours == package_files()


def test_doctor_finds_everything_that_a_video_needs(programs, folder):
    printed = run(programs / "openloopy", "doctor", cwd=folder)
    assert openloopy.__version__ in printed and str(programs.parent) in printed


def test_the_command_makes_a_video(programs, folder):
    run(
        programs / "openloopy",
        "generate",
        "me.png",
        "speech.wav",
        "-o",
        "out.mp4",
        "--size",
        "256",
        cwd=folder,
    )
    check_video(folder / "out.mp4", 256)


def test_the_function_makes_a_video(programs, folder):
    call = (
        "import openloopy; openloopy.generate('me.png', 'speech.wav', 'out.mp4'); print(openloopy.__file__)"
    )
    printed = run(programs / "python", "-c", call, cwd=folder)
    assert str(programs.parent) in printed
    check_video(folder / "out.mp4", 512)
