"""The reader of pixels learns openings from true pictures and passes its judgement to the decoder alone."""

from __future__ import annotations

import numpy as np
import torch

from openloopy.training.face_reader import FaceReader, Placed, face_views, reader_losses

SIDE = 64


def drawn_faces(gaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey pictures with a dark mouth of this height (share of the picture) and dark eyes; with their points."""
    points = torch.zeros(68, 2)
    points[36:42] = torch.tensor([0.3, 0.35]) + 0.06 * _ring(6)
    points[42:48] = torch.tensor([0.7, 0.35]) + 0.06 * _ring(6)
    points[48:68] = torch.tensor([0.5, 0.75]) + 0.1 * _ring(20)
    grid = (torch.arange(SIDE) + 0.5) / SIDE
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    pictures = []
    for gap in gaps:
        mouth = ((x - 0.5).abs() < 0.1) & ((y - 0.75).abs() < gap / 2)
        eyes = ((x - 0.3).abs() < 0.05) & ((y - 0.35).abs() < 0.03)
        pictures.append(0.3 - 0.9 * (mouth | eyes).float() + 0.1 * x)
    return torch.stack(pictures)[:, None].expand(-1, 3, -1, -1).contiguous(), points.expand(len(gaps), -1, -1)


def _ring(n: int) -> torch.Tensor:
    angle = torch.arange(n) / n * 2 * np.pi
    return torch.stack([torch.cos(angle), 0.5 * torch.sin(angle)], 1)


def whole(pixels: torch.Tensor) -> Placed:
    return Placed(pixels, torch.zeros(len(pixels), 2), 1.0)


def test_the_same_picture_reads_the_same():
    pixels, points = drawn_faces(torch.tensor([0.02, 0.1]))
    _, look = reader_losses(FaceReader(), whole(pixels), whole(pixels), points, torch.zeros(2, 2))
    assert look < 1e-6


def test_each_loss_trains_its_own_side():
    reader, (true, points) = FaceReader(), drawn_faces(torch.tensor([0.02, 0.1]))
    decoded = drawn_faces(torch.tensor([0.08, 0.03]))[0].requires_grad_()
    read, look = reader_losses(reader, whole(decoded), whole(true), points, torch.zeros(2, 2))
    look.backward(retain_graph=True)
    assert decoded.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in reader.parameters())
    decoded.grad = None
    read.backward()
    assert decoded.grad is None
    assert all(parameter.grad is not None for parameter in reader.parameters())


def test_it_learns_the_gap_and_notices_a_mouth_that_stays_shut():
    torch.manual_seed(0)
    reader = FaceReader()
    optimizer = torch.optim.Adam(reader.parameters(), 2e-3)
    for _ in range(60):
        gaps = torch.rand(16) * 0.15
        true, points = drawn_faces(gaps)
        states = torch.stack([(gaps - 0.075) / 0.043, torch.zeros(16)], 1)
        read, _ = reader_losses(reader, whole(true), whole(true), points, states)
        optimizer.zero_grad()
        read.backward()
        optimizer.step()
    assert read < 0.1
    true, points = drawn_faces(torch.tensor([0.12, 0.12]))
    states = torch.zeros(2, 2)
    shut, ajar = (
        reader_losses(reader, whole(drawn_faces(torch.full((2,), gap))[0]), whole(true), points, states)[1]
        for gap in (0.01, 0.1)
    )
    assert shut > 2 * ajar


def test_views_do_not_depend_on_the_window():
    pixels, points = drawn_faces(torch.tensor([0.1]))
    part = Placed(pixels[..., 8:, 8:], torch.full((1, 2), 8 / SIDE), 56 / SIDE)
    for of_whole, of_part in zip(face_views(whole(pixels), points), face_views(part, points), strict=True):
        assert torch.allclose(of_whole, of_part, atol=1e-4)


def test_a_face_outside_the_window_does_not_count():
    pixels, points = drawn_faces(torch.tensor([0.1]))
    corner = Placed(pixels[..., :20, :20], torch.zeros(1, 2), 20 / SIDE)
    other = Placed(torch.rand(1, 3, 20, 20), torch.zeros(1, 2), 20 / SIDE)
    read, look = reader_losses(FaceReader(), other, corner, points, torch.ones(1, 2))
    assert read == 0 and look == 0
