"""Trainings killed at any moment go on to the very weights of one that was never killed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from trainees import Trainees

from spender_core.training.checkpoints import Checkpoints

KILLS = 20
TIMES = ("seconds", "spectra_per_s", "waiting", "sha256")


def weights(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def lines(path: Path) -> list[dict[str, Any]]:
    """Return what the log says, without times and without what tells of resuming."""
    read = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in TIMES}
        for line in read
        if line["kind"] != "resume"
    ]


def test_killed_at_random_moments_it_ends_with_the_same_weights(
    tmp_path: Path, folder: Path, trainees: Trainees, whole: tuple[Path, float]
) -> None:
    """kill -9, 20 times; a training that gets to its end is followed by another one."""
    recipe = folder / "recipe.toml"
    undisturbed, longest = whole
    expected = weights(undisturbed / "small.safetensors")
    chance = random.Random(5)
    kills, resumed, chain = 0, 0, 0
    while kills < KILLS:
        output, done = tmp_path / f"chain-{chain}", False
        while not done and kills < KILLS:
            before = Checkpoints(output / "checkpoints").steps()
            killed = trainees.kill(
                chance.uniform(0.02, 0.7) * longest, recipe, output, folder, "resume", "quiet"
            )
            kills += killed
            resumed += killed and bool(before)
            done = not killed
        if not done:
            trainees.run(recipe, output, folder, "resume", "quiet")
        found = weights(output / "small.safetensors")
        assert found.keys() == expected.keys()
        assert [name for name in found if not found[name].equal(expected[name])] == []
        assert lines(output / "log.jsonl") == lines(undisturbed / "log.jsonl")
        assert not list((output / "checkpoints").glob(".*"))
        chain += 1
    assert resumed > KILLS / 3
