"""`face`: the networks that find faces, their landmarks and the person, trained on a bank of labelled pictures.

    openloopy label PORTRAITS BANK --footage SHARDS      # needs the extra `teacher`
    openloopy train face --data BANK --run runs/face     # or one of face.mesh, face.finder, face.mask,
                                                         # face.parts, face.cover
    # --start FOLDER goes on from finished networks
    # writes runs/face/face/face.safetensors

Hardware: two CPU cores (about an hour and a half), or any GPU (`--set loop.device=cuda`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from openloopy.face.networks import FaceNetworks, load_step, load_unfolded, save_face_networks
from openloopy.media.files import make_folder, only_maker
from openloopy.puppet.face_free import face_free_background
from openloopy.training.face_bank import STEP_WEIGHTS, FaceBank
from openloopy.training.face_cover import CoverTask, CoverTrainingConfig
from openloopy.training.face_finder import FinderTask, FinderTrainingConfig
from openloopy.training.face_mask import MaskTask, MaskTrainingConfig
from openloopy.training.face_mesh import MeshTask, MeshTrainingConfig, calibrate
from openloopy.training.face_parts import PartsTask, PartsTrainingConfig
from openloopy.training.loop import LoopConfig, train
from openloopy.training.optim import OptimConfig

FOLDER = "face"
STEPS = ("finder", "mesh", "mask", "parts", "cover")
"""In this order: the mesh network learns from the finder's mistakes."""


def _loop(num_steps: int, learning_rate: float, decay_fraction: float = 0.5) -> LoopConfig:
    optim = OptimConfig(
        learning_rate=learning_rate, ema_decay=0.995, decay_fraction=decay_fraction, max_grad_norm=5.0
    )
    return LoopConfig(num_steps=num_steps, optim=optim, checkpoint_every=200, sample_every=1000)


@dataclass(frozen=True, kw_only=True)
class MeshRecipe:
    """The mesh network."""

    training: MeshTrainingConfig = field(default_factory=MeshTrainingConfig)
    loop: LoopConfig = field(default_factory=lambda: _loop(4000, 2e-3))


@dataclass(frozen=True, kw_only=True)
class FinderRecipe:
    """The finder."""

    training: FinderTrainingConfig = field(default_factory=FinderTrainingConfig)
    loop: LoopConfig = field(default_factory=lambda: _loop(1800, 2e-3))


@dataclass(frozen=True, kw_only=True)
class MaskRecipe:
    """The person mask."""

    training: MaskTrainingConfig = field(default_factory=MaskTrainingConfig)
    loop: LoopConfig = field(default_factory=lambda: _loop(900, 2e-3))


@dataclass(frozen=True, kw_only=True)
class PartsRecipe:
    """The networks of eyes and mouth."""

    training: PartsTrainingConfig = field(default_factory=PartsTrainingConfig)
    loop: LoopConfig = field(default_factory=lambda: _loop(4500, 2e-3))


@dataclass(frozen=True, kw_only=True)
class CoverRecipe:
    """The network that tells covered mouths."""

    training: CoverTrainingConfig = field(default_factory=CoverTrainingConfig)
    loop: LoopConfig = field(default_factory=lambda: _loop(1200, 2e-3))


@dataclass(frozen=True, kw_only=True)
class FaceConfig:
    """All steps."""

    mesh: MeshRecipe = field(default_factory=MeshRecipe)
    finder: FinderRecipe = field(default_factory=FinderRecipe)
    mask: MaskRecipe = field(default_factory=MaskRecipe)
    parts: PartsRecipe = field(default_factory=PartsRecipe)
    cover: CoverRecipe = field(default_factory=CoverRecipe)


def face() -> FaceConfig:
    """The configuration of the networks that come with the package."""
    return FaceConfig()


def face_tiny() -> FaceConfig:
    """The same for tests: a few steps on a few pictures."""
    loop = _loop(2, 1e-3)
    return FaceConfig(
        mesh=MeshRecipe(training=MeshTrainingConfig(batch_size=4), loop=loop),
        finder=FinderRecipe(training=FinderTrainingConfig(batch_size=2), loop=loop),
        mask=MaskRecipe(training=MaskTrainingConfig(batch_size=2), loop=loop),
        parts=PartsRecipe(
            training=PartsTrainingConfig(views=MeshTrainingConfig(batch_size=4, faceless_share=0.0)),
            loop=loop,
        ),
        cover=CoverRecipe(training=CoverTrainingConfig(batch_size=4), loop=loop),
    )


def train_face(
    config: FaceConfig,
    bank_folder: Path,
    run: Path,
    steps: tuple[str, ...] = STEPS,
    start: Path | None = None,
) -> None:
    """Train the steps; when all are there, calibrate and write them together to run/face.

    start: folder of face networks to go on from; steps that are not trained are taken from there as they are.
    """
    bank = FaceBank.open(bank_folder)
    for step in steps:
        print(f"face.{step}")
        recipe = getattr(config, step)
        torch.manual_seed(recipe.training.seed)
        make_folder(run)
        with only_maker(run / step):
            train(_task(step, recipe, bank, start, run), recipe.loop, run / step)
    trained = [step for step in STEPS if (run / step / STEP_WEIGHTS).exists()]
    if len(trained) == len(STEPS) or start is not None:
        networks = _networks(start)
        for step in trained:
            load_step(getattr(networks, step), run / step / STEP_WEIGHTS)
        calibrate(networks, bank, replace(config.mesh.training, batch_size=64), face_free_background)
        save_face_networks(networks, run / FOLDER)
        print(f"face networks: {run / FOLDER}")


def _networks(start: Path | None) -> FaceNetworks:
    """New ones, or those of a folder."""
    return FaceNetworks() if start is None else load_unfolded(start)


def _task(step: str, recipe: Any, bank: FaceBank, start: Path | None, run: Path) -> Any:
    networks = _networks(start)
    if step == "mesh":
        finder = run / "finder" / STEP_WEIGHTS
        if finder.exists():
            load_step(networks.finder, finder)
        knows_finder = start is not None or finder.exists()
        return MeshTask(
            networks.mesh,
            bank,
            recipe.training,
            face_free_background,
            networks.finder if knows_finder else None,
        )
    tasks = {
        "finder": FinderTask,
        "mask": MaskTask,
        "parts": PartsTask,
        "cover": CoverTask,
    }
    return tasks[step](getattr(networks, step), bank, recipe.training, face_free_background)
