"""The loop: what it learns from, what it leaves alone, what it writes, and what it refuses."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import Tensor
from trainees import CANDIDATES, ONE, RECIPE, Red, chosen, recipe, write_data

from spender_core import registry
from spender_core.datasets.layout import split_of
from spender_core.datasets.shards import write_dataset
from spender_core.errors import CheckpointWarning, FileError, InputError, NonFiniteError
from spender_core.training import Recipe, Trainer, train
from spender_core.training.checkpoints import Checkpoints

Run = Callable[..., Trainer]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def trainer(offer: Callable[..., Any], tmp_path: Path, data: dict[str, str]) -> Run:
    """Return a function that makes a trainer of a small recipe, changed."""
    offer(CANDIDATES)

    def make(*changes: str, text: str = ONE, output: str = "out", **settings: Any) -> Trainer:
        made = recipe(*changes, text=text)
        paths = settings.pop("data", {name: data[name] for name in made.data})
        return Trainer(made, tmp_path / output, paths, **({"quiet": True} | settings))

    return make


class Recorder:
    """Notes what the trainer tells in each step."""

    def __init__(self, take: Callable[[Trainer], Any]) -> None:
        self.take, self.seen = take, list[Any]()

    def on_step(self, trainer: Trainer) -> None:
        self.seen.append(self.take(trainer))


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in trainer.model.state_dict().items()}


def looks(trainer: Trainer) -> list[dict[str, Any]]:
    lines = (trainer.output / "log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == "look"]


def test_every_spectrum_is_seen_once_an_epoch(trainer: Run, data: dict[str, str]) -> None:
    noted = Recorder(lambda one: np.concatenate(one.ids["red"])["OBJECT"])
    one = trainer("phases.0.steps=12", callbacks=[noted])
    one.run()
    trained = chosen(Red()).ids
    assert trained is not None
    expected = sorted(trained["OBJECT"][split_of(trained, Red()) == "train"])
    first, second = np.concatenate(noted.seen[:6]), np.concatenate(noted.seen[6:])
    assert sorted(first) == expected
    assert sorted(second) == expected
    assert (first != second).any()
    assert one.state.spectra == {"red": 192}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_batches_are_one_larger_batch(trainer: Run, reduction: str) -> None:
    # a large eps, since a bias before a normalisation has gradients of rounding only
    same = (f'loss.reduction="{reduction}"', "phases.0.eps=1e-2")
    large = trainer(*same, "data.red.batch_size=16", output="large")
    large.run()
    small = trainer(*same, "data.red.batch_size=4", "phases.0.accumulation=4", output="small")
    small.run()
    expected = weights(large)
    for name, found in weights(small).items():
        assert torch.allclose(found, expected[name], rtol=0, atol=2e-5), name
    pairs = zip(looks(small), looks(large), strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-4) for a, b in pairs)


def test_gradients_are_clipped(trainer: Run) -> None:
    """With a large eps, a first step of Adam moves the weights by rate times gradient / eps."""
    settings = ("phases.0.steps=1", "phases.0.eps=1e3", "phases.0.lr=1000.0")
    moved = {}
    for clip in (None, 1e-2):
        one = trainer(
            *settings, *(() if clip is None else (f"phases.0.clip={clip}",)), output=f"{clip}"
        )
        before = weights(one)
        one.run()
        after = weights(one)
        total = torch.cat([(after[name] - before[name]).flatten() for name in before])
        moved[clip] = float(total.norm())
        norm = looks(one)[0]["grad_norm"]
    assert norm > 1
    assert moved[None] == pytest.approx(norm, rel=0.05)
    assert moved[1e-2] == pytest.approx(1e-2, rel=0.05)


def test_the_average_of_weights_is_the_result(trainer: Run) -> None:
    noted = Recorder(weights)
    one = trainer("phases.0.ema=0.8", callbacks=[noted])
    mean = {name: value.double() for name, value in weights(one).items()}
    one.run()
    for step, present in enumerate(noted.seen, start=1):
        decay = min(0.8, (1 + step) / (10 + step))
        mean = {name: decay * mean[name] + (1 - decay) * present[name].double() for name in mean}
    _, loaded = registry.load(one.output / "one.safetensors")
    for name, value in loaded.state_dict().items():
        assert torch.allclose(value.double(), mean[name], rtol=1e-5, atol=1e-6), name
    assert not torch.equal(
        loaded.state_dict()["decoder.mlp.0.weight"], noted.seen[-1]["decoder.mlp.0.weight"]
    )


def test_what_is_frozen_stays_to_the_last_bit(trainer: Run) -> None:
    """Buffers too: a frozen part is in evaluation mode, as it must be with running means."""
    modes = Recorder(lambda one: (one.model.decoder.training, one.model.encoders["red"].training))
    one = trainer(
        'phases.0.train=["encoders"]', "phases.0.ema=0.9", "phases.0.weight_decay=0.1",
        'phases.0.optimizer="adamw"', "engine.validate_every=2", callbacks=[modes],
    )  # fmt: skip
    one.model.decoder.add_module("norm", torch.nn.BatchNorm1d(120))
    before = weights(one)
    one.model.decoder.register_forward_hook(lambda module, _, x: module.norm(x))
    one.run()
    after = weights(one)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("encoders.")}
    assert set(modes.seen) == {(False, True)}


def test_a_phase_without_progress_ends_early_with_its_best_weights(trainer: Run) -> None:
    one = trainer(
        "phases.0.steps=60", "phases.0.lr=3.0", "engine.validate_every=2", "engine.patience=3",
        'phases.0.optimizer="adam"',
    )  # fmt: skip
    result = one.run()
    seen = [line for line in result.history if line["kind"] == "validation"]
    best = min(seen, key=lambda line: line["loss"])
    assert one.state.step < 60
    assert one.state.step == best["step"] + 6
    path = one.output / "checkpoints" / f"step-{best['step']:08d}"
    assert json.loads((path.parent / "best.json").read_text())["step"] == best["step"]
    from safetensors.torch import load_file

    kept = load_file(path / "model.safetensors")
    _, loaded = registry.load(result.path)
    assert all(
        torch.equal(value, kept[f"model.{name}"]) for name, value in loaded.state_dict().items()
    )
    assert result.card.evaluation["validation"]["loss"] == pytest.approx(best["loss"])
    (phase,) = result.card.training["phases"]
    assert phase["steps"] == one.state.step
    assert phase["weights_of_step"] == best["step"]
    assert phase["ended_early"]


def test_a_spectrum_without_a_finite_loss_is_named(trainer: Run, tmp_path: Path) -> None:
    batch = chosen(Red())
    assert batch.ids is not None
    row = int(np.flatnonzero(split_of(batch.ids, Red()) == "train")[40])
    batch.flux[row] = 3e30
    write_dataset(str(tmp_path / "bad"), [batch], Red())
    noted = Recorder(lambda one: (one.state.step, set(np.concatenate(one.ids["red"])["OBJECT"])))
    one = trainer(
        "engine.look_every=4", "engine.checkpoint_every=1", "phases.0.steps=12",
        data={"red": str(tmp_path / "bad")}, callbacks=[noted],
    )  # fmt: skip
    number = batch.ids["OBJECT"][row]
    with pytest.raises(NonFiniteError, match=rf"for red {number}\. .*The last checkpoint") as told:
        one.run()
    first = next(step for step, ids in noted.seen if number in ids)
    assert f"in step {first}," in str(told.value)
    assert Checkpoints(one.output / "checkpoints").steps()[-1:] == [first - 1][: first - 1]
    assert all(bool(value.isfinite().all()) for value in weights(one).values())
    rare = trainer(
        "engine.look_every=4", "phases.0.steps=12", data={"red": str(tmp_path / "bad")},
        callbacks=[noted], output="rare",
    )  # fmt: skip
    noted.seen.clear()
    with pytest.raises(
        NonFiniteError, match=rf"in step {first}, for red {number}\..*never written"
    ):
        rare.run()
    assert len(noted.seen) < first + 4


def test_a_validation_that_is_no_number_names_its_spectrum(trainer: Run, tmp_path: Path) -> None:
    batch = chosen(Red())
    assert batch.ids is not None
    row = int(np.flatnonzero(split_of(batch.ids, Red()) == "validation")[5])
    batch.flux[row] = 3e30
    write_dataset(str(tmp_path / "bad"), [batch], Red())
    one = trainer("engine.validate_every=2", data={"red": str(tmp_path / "bad")})
    number = batch.ids["OBJECT"][row]
    with pytest.raises(NonFiniteError, match=rf"validation .* after step 2: .*red {number}\."):
        one.run()
    assert not (one.output / "one.safetensors").exists()


def test_the_card_names_a_parent_but_not_where_it_lies(trainer: Run, tmp_path: Path) -> None:
    parent = trainer(output="private").run()
    setting = f'model.parent="{parent.path}"'
    child = trainer(setting, 'name="child"', output="child").run()
    assert child.card.parent == "one"
    assert child.card.training["parent_sha256"] == parent.card.sha256
    assert "private" not in child.card.model_dump_json()


def test_a_checkpoint_that_lacks_something_is_passed_over(trainer: Run) -> None:
    trainer("engine.checkpoint_every=2").run()
    checkpoints = Checkpoints(trainer(resume=True).output / "checkpoints")
    last, before = (checkpoints.path(step) for step in (6, 4))
    state = json.loads((before / "training.json").read_text())
    del state["state"]["step"], state["circumstances"]["recipe"]
    altered(before, "training.json", json.dumps(state).encode())
    altered(last, "random_states_0.pkl", b"nothing")
    with pytest.warns(CheckpointWarning) as told:
        trainer("engine.checkpoint_every=2", resume=True).run()
    for step, warning in zip((6, 4), told, strict=True):
        text = str(warning.message)
        assert f"step-0000000{step} is damaged: it cannot be read" in text
        assert "going on from the one before, step-00000002" in text


def altered(checkpoint: Path, name: str, content: bytes) -> None:
    """Change a file and what the manifest says of it."""
    (checkpoint / name).write_bytes(content)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][name] = {"bytes": len(content), "sha256": digest}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_a_training_that_diverges_says_so(trainer: Run) -> None:
    one = trainer("phases.0.lr=1000.0", 'phases.0.optimizer="adamw"', "phases.0.weight_decay=1e4",
                  "phases.0.steps=40")  # fmt: skip
    with pytest.raises(NonFiniteError, match=r"diverged.*Lower `lr`"):
        one.run()


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_any_precision_learns(trainer: Run, precision: str) -> None:
    one = trainer(f'engine.precision="{precision}"', "phases.0.steps=60", "phases.0.lr=1e-2")
    one.run()
    seen = [line["loss"] for line in looks(one)]
    assert np.mean(seen[-10:]) < 0.8 * np.mean(seen[:5])
    assert all(value.dtype == torch.float32 for value in weights(one).values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_network_learns_the_same(trainer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiler of C++ code, which takes a minute; its part is torch's own."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    plain, compiled = trainer(output="plain"), trainer("engine.compile=true", output="compiled")
    before = counters["stats"]["unique_graphs"]
    results = plain.run(), compiled.run()
    assert counters["stats"]["unique_graphs"] > before
    losses = [[line["loss"] for line in looks(one)] for one in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    names = [set(registry.load(result.path)[1].state_dict()) for result in results]
    assert names[0] == names[1]


def test_losses_are_those_of_a_plain_loop(trainer: Run) -> None:
    one = trainer("phases.0.lr=1e-3")
    twin = trainer(output="twin")
    optimizer = torch.optim.Adam(twin.model.parameters(), 1e-3)
    expected = []
    for number in range(6):
        batch = twin._streams["red"].batch(0, number)
        loss = twin.model.loss(batch) / len(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    one.run()
    assert [line["loss"] for line in looks(one)] == pytest.approx(expected, rel=1e-5)


def test_a_resumed_training_draws_the_numbers_that_it_would_have_drawn(trainer: Run) -> None:
    """Random numbers of Python, numpy and torch."""

    class Stops(Recorder):
        def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
            raise ZeroDivisionError

    def draw(_: Trainer) -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    settings = ("engine.checkpoint_every=3",)
    whole, begun, ended = Recorder(draw), Stops(draw), Recorder(draw)
    trainer(*settings, callbacks=[whole], output="whole").run()
    with pytest.raises(ZeroDivisionError):
        trainer(*settings, callbacks=[begun]).run()
    random.seed(1)
    trainer(*settings, callbacks=[ended], resume=True).run()
    assert begun.seen + ended.seen == whole.seen


def test_it_goes_on_with_its_own_recipe_data_and_folder_only(
    trainer: Run, data: dict[str, str], tmp_path: Path
) -> None:
    trainer().run()
    with pytest.raises(InputError, match=r"holds a training.*--resume"):
        trainer().run()
    with pytest.raises(InputError, match=r"another recipe.*recipe\.toml.*model\.parent"):
        trainer("phases.0.lr=2e-3", resume=True).run()
    write_dataset(str(tmp_path / "other"), [chosen(Red())[:100]], Red())
    with pytest.raises(InputError, match="another dataset of red"):
        trainer(resume=True, data={"red": str(tmp_path / "other")}).run()
    threads = torch.get_num_threads()
    try:
        with pytest.warns(CheckpointWarning, match=f"threads {threads} -> {threads + 1}"):
            trainer(f"engine.threads={threads + 1}", resume=True).run()
    finally:
        torch.set_num_threads(threads)
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(InputError, match="another process"):
        trainer(resume=True).run()


def test_a_folder_that_cannot_be_written_is_named(trainer: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write to the folder"):
        trainer(output="file/out").run()


def test_resuming_where_nothing_is_begins_anew(trainer: Run) -> None:
    one = trainer(resume=True)
    one.run()
    assert [line["step"] for line in looks(one)] == [1, 2, 3, 4, 5, 6]


def test_what_is_written(
    trainer: Run, capfd: pytest.CaptureFixture[str], data: dict[str, str]
) -> None:
    pytest.importorskip("tensorboard")
    one = trainer("engine.tensorboard=true", text=RECIPE, quiet=False)
    result = one.run()
    told = capfd.readouterr()
    assert told.out == ""
    assert "\x1b" not in told.err
    assert told.err.splitlines()[-1] == f"written: {result.path}"
    assert Recipe.read(one.output / "recipe.toml").sha256 == one.recipe.sha256
    assert (one.output / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert list((one.output / "tensorboard").glob("events.*"))
    kinds = [line["kind"] for line in result.history]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert all(0 <= line["waiting"] <= 1 for line in looks(one))
    assert all(line["spectra_per_s"] > 0 for line in looks(one))
    assert set(looks(one)[0]["lr"]) == {"lsf.red", "encoders.red", "encoders.blue", "decoder"}


def test_the_result_is_a_model_of_the_registry(trainer: Run, data: dict[str, str]) -> None:
    changes = ('card.licence="MIT"', 'card.notes="a note"')
    one = trainer(*changes, text=RECIPE)
    result = one.run()
    instrument, model = registry.load(result.path)
    assert instrument.name == "red"
    about = model.card.training
    assert about["steps"] == 22
    assert about["recipe_sha256"] == one.recipe.sha256
    assert about["notes"] == "a note"
    assert about["datasets"]["blue"]["spectra"] == {"train": 96, "validation": 24}
    assert about["datasets"]["blue"]["seen"] == 22 * 12
    assert about["datasets"]["red"]["fingerprint"] == one.datasets["red"].fingerprint
    figures = model.card.evaluation["validation"]["instruments"]["red"]
    assert figures["spectra"] == 24
    batch = one.datasets["red"].read("validation")
    assert model.loss(batch).item() / 24 == pytest.approx(figures["fidelity"], rel=1e-4)
    assert registry.load(result.path, instrument="blue")[0].name == "blue"


def test_ten_lines_train(offer: Callable[..., Any], tmp_path: Path, data: dict[str, str]) -> None:
    offer(CANDIDATES)
    result = train(recipe(text=ONE), tmp_path / "out", data={"red": data["red"]}, quiet=True)
    assert result.path.exists()
    assert result.card.latents == 3
