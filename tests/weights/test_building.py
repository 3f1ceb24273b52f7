"""A card may ask for anything; what it gets is bounded by its file, and makes sense."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from growth import outcomes
from safetensors.torch import save_file
from torch import Tensor, nn

from spender_core import registry, weights
from spender_core.errors import GridError, SpenderError, UnknownNameError, WeightsError
from spender_core.interfaces import Flow, Model
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.nn.flow import MaskedAutoregressiveFlow
from spender_core.records import ModelCard, ServedInstrument

MIB = 2**20
WIDTHS: dict[str, Any] = {"filters": [2, 4, 4], "encoder_hidden": [4], "decoder_hidden": [4]}
CARD = ModelCard(name="tiny", architecture="spectrum_autoencoder", latents=3)


def tiny(**extra: Any) -> SpectrumAutoencoder:
    sdss = registry.instrument("sdss")
    return SpectrumAutoencoder([sdss], range(2500, 9500, 10), 3, **WIDTHS, **extra)


def flow_card() -> ModelCard:
    served = ServedInstrument(name="sdss", grid=registry.instrument("sdss").grid.sha256)
    return ModelCard(name="f", kind="flow", architecture="maf", latents=3, instruments=(served,))


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.safetensors"
    registry.save(path, tiny(lsf_taps={"sdss": 5}), CARD)
    return path


@pytest.fixture
def sound_flow(tmp_path: Path) -> Path:
    path = tmp_path / "flow.safetensors"
    registry.save(path, MaskedAutoregressiveFlow(3, hidden=6, transforms=2), flow_card())
    return path


def altered(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Write a file anew with another card, and its tensors as they are."""
    content = source.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    card = json.loads(header["__metadata__"]["spender"])
    change(card)
    header["__metadata__"]["spender"] = json.dumps(card)
    raw = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + size :])
    return target


def with_tensor(source: Path, name: str, tensor: Tensor) -> Path:
    """Write a file anew with another tensor."""
    card, tensors = weights.read(source)
    save_file(tensors | {name: tensor}, source, metadata={"spender": card.to_json()})
    return source


GREEDY: list[dict[str, Any]] = [
    {"n_latent": 10**9},
    {"n_latent": 10**30},
    {"n_latent": "3"},
    {"n_latent": -1},
    {"n_latent": 3.0},
    {"n_latent": None},
    {"n_latent": True},
    {"decoder_hidden": [10**7] * 50},
    {"decoder_hidden": [1] * 100_000},
    {"decoder_hidden": ["4"]},
    {"decoder_hidden": 4},
    {"decoder_hidden": "44"},
    {"decoder_hidden": [[4]]},
    {"decoder_hidden": {"4": 4}},
    {"decoder_hidden": [True]},
    {"decoder_hidden": [0]},
    {"encoder_hidden": [10**12]},
    {"filters": [2, 4, 10**10]},
    {"filters": [2, 4, 0]},
    {"filters": [2, 4]},
    {"filters": [2, 4, -4]},
    {"sizes": [3, 5, 10**12 + 1]},
    {"sizes": [10**18 + 1, 3, 3]},
    {"sizes": [3, 5, 3.5]},
    {"lsf_taps": {"sdss": 10**12}},
    {"lsf_taps": {"sdss": "5"}},
    {"lsf_taps": {"sdss": -5}},
    {"lsf_taps": [5]},
    {"lsf_taps": 5},
    {"activation": "relu"},
    {"activation": ["speculator"]},
    {"calibration": {"sdss": 1}},
    {"wave_rest": [1, 2]},
    {"instruments": []},
    {"colour": "red"},
]
GREEDY_FLOWS: list[dict[str, Any]] = [
    {"transforms": 10**9},
    {"transforms": 10**30},
    {"transforms": "2"},
    {"hidden": 10**9},
    {"hidden": 10**6},
    {"blocks": 10**9},
    {"blocks": -1},
    {"blocks": 1.5},
    {"n_latent": 10**9},
    {"n_latent": 10**6},
    {"n_latent": [3]},
]


@pytest.mark.parametrize("config", GREEDY, ids=lambda c: str(c)[:40])
def test_a_config_of_nonsense_is_refused(sound: Path, tmp_path: Path, config: Any) -> None:
    bad = altered(sound, tmp_path / "bad.safetensors", lambda card: card["config"].update(config))
    with pytest.raises(SpenderError):
        registry.load(bad)


@pytest.mark.parametrize("config", GREEDY_FLOWS, ids=str)
def test_a_flow_of_nonsense_is_refused(sound_flow: Path, tmp_path: Path, config: Any) -> None:
    bad = altered(
        sound_flow, tmp_path / "bad.safetensors", lambda card: card["config"].update(config)
    )
    with pytest.raises(SpenderError):
        registry.load(bad)


def test_no_config_takes_more_than_its_file_can_fill(
    sound: Path, sound_flow: Path, tmp_path: Path
) -> None:
    files = []
    for source, configs in ((sound, GREEDY), (sound_flow, GREEDY_FLOWS)):
        for config in configs:
            files.append(tmp_path / f"{len(files)}.safetensors")
            altered(source, files[-1], lambda card, config=config: card["config"].update(config))
    files.append(altered(sound_flow, tmp_path / "s.safetensors", lambda c: c.update(latents=10**9)))
    for file, outcome in zip(files, outcomes("sdss", sound, files), strict=True):
        assert outcome.error, file.name
        assert outcome.grown < 4 * file.stat().st_size + 32 * MIB, (file.name, outcome)
        assert outcome.seconds < 5, (file.name, outcome)


def test_a_network_beyond_its_file_is_told(sound: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    altered(sound, bad, lambda card: card["config"].update(n_latent=10**9))
    with pytest.raises(WeightsError, match=r"bad\.safetensors asks for a far larger network than"):
        registry.load(bad)


def test_loading_takes_little_more_memory_than_the_file(tmp_path: Path) -> None:
    sdss = registry.instrument("sdss")
    model = SpectrumAutoencoder([sdss], range(2500, 9500), 6)
    registry.save(tmp_path / "m.safetensors", model, CARD.model_copy(update={"latents": 6}))
    registry.save(tmp_path / "s.safetensors", tiny(), CARD)
    (outcome,) = outcomes("sdss", tmp_path / "s.safetensors", [tmp_path / "m.safetensors"])
    assert outcome.error == ""
    assert outcome.grown < 2 * (tmp_path / "m.safetensors").stat().st_size


def test_tensors_are_compared_before_they_are_read(sound: Path) -> None:
    _, tensors = weights.read(sound)
    stored = weights.Stored.held("a file", tensors)
    del stored.shapes["decoder.mlp.0.bias"]  # type: ignore[attr-defined]
    unread = weights.Stored(
        "a file", stored.shapes, lambda names: {n: tensors[n] for n in names if n == "wave_rest"}
    )
    card = weights.read_card(sound)
    with pytest.raises(
        WeightsError, match=r"a file does not fit .*decoder\.mlp\.0\.bias is missing"
    ):
        weights.build(SpectrumAutoencoder, card, unread, [registry.instrument("sdss")])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c.update(kind="flow"), WeightsError, "makes no Flow"),
        (lambda c: c.update(architecture="maf"), WeightsError, "makes no Model"),
        (lambda c: c.update(architecture="os:system"), UnknownNameError, "no architecture named"),
        (lambda c: c.update(architecture="\x1b[2J"), WeightsError, r"control character.*\\x1b"),
        (lambda c: c.update(description="a\x9bb"), WeightsError, r"control character.*\\x9b"),
        (lambda c: c["config"].update({"\x1b": 1}), WeightsError, "config has a control character"),
        (lambda c: c.update(training={"by": ["\u202e"]}), WeightsError, "control character"),
        (lambda c: c.update(citation=["\ud800"]), WeightsError, "invalid model card"),
        (lambda c: c.update(licence="\r"), WeightsError, "control character"),
        (lambda c: c.update(parent="a\nb"), WeightsError, "parent has a control character"),
        (lambda c: c.update(latents=0), WeightsError, "latents"),
        (lambda c: c.update(z_range=[0.5, 0.1]), WeightsError, "z_range"),
        (lambda c: c.update(z_range=[float("nan"), 1]), WeightsError, "z_range"),
        (lambda c: c.update(kind="other"), WeightsError, "kind"),
        (lambda c: c.update(api_version=9), WeightsError, r"version \(9, 1\)"),
        (lambda c: c.update(format_version=9), WeightsError, r"version \(1, 9\)"),
        (lambda c: c.update(instruments=[]), WeightsError, "names no instrument"),
        (lambda c: c["instruments"][0].update(grid="0" * 64), GridError, "another grid of 'sdss'"),
        (lambda c: c["instruments"][0].update(name="mine"), UnknownNameError, "named 'mine'"),
        (lambda c: c.update(requires=["--index-url=http://a"]), WeightsError, "no name of a dist"),
        (lambda c: c.update(requires=["a @ http://a"]), WeightsError, "no name of a dist"),
        (lambda c: c.update(requires=["a\n"]), WeightsError, "no name of a dist"),
    ],
)
def test_a_card_that_does_not_hold_is_refused(
    sound: Path, change: Callable[[Any], Any], error: type[SpenderError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        registry.load(altered(sound, sound.with_name("bad.safetensors"), change))
    assert str(caught.value).isprintable()


def test_free_text_may_have_lines(sound: Path) -> None:
    text = "first line\n\tsecond line, ∆λ and 日本"
    path = altered(sound, sound, lambda card: card.update(description=text))
    assert registry.load(path)[1].card.description == text


def test_a_card_that_gives_something_twice_is_refused(sound: Path) -> None:
    _, tensors = weights.read(sound)
    text = weights.read_card(sound).to_json()
    twice = text.replace("{", '{"name": "other",', 1)
    save_file(tensors, sound, metadata={"spender": twice})
    with pytest.raises(WeightsError, match="invalid model card: 'name' is given twice"):
        registry.load(sound)


# -- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_tensors_that_are_not_finite_are_named(sound: Path, value: float) -> None:
    spoilt = torch.zeros(4, 3)
    spoilt[2, 1] = value
    with_tensor(sound, "decoder.mlp.0.weight", spoilt)
    with pytest.raises(WeightsError, match=r"NaN or infinity in decoder\.mlp\.0\.weight"):
        registry.load(sound)


def test_a_sum_beyond_the_numbers_is_no_infinity(sound: Path) -> None:
    large = torch.full((4, 3), 3e38)
    with_tensor(sound, "decoder.mlp.0.weight", large)
    assert torch.equal(registry.load(sound)[1].decoder.mlp[0].weight, large)


def test_a_model_that_diverged_is_not_written(tmp_path: Path) -> None:
    model = tiny()
    nn.init.constant_(model.decoder.mlp[0].bias, float("nan"))
    with pytest.raises(WeightsError, match=r"the model holds NaN or infinity in decoder\.mlp\.0"):
        registry.save(tmp_path / "m.safetensors", model, CARD)
    assert list(tmp_path.glob("*")) == []


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (torch.arange(2500.0, 9500, 10), "torch.float32 of shape"),
        (torch.arange(2500.0, 9500, 10, dtype=torch.float64)[:, None], "one dimension"),
        (torch.arange(9500.0, 2500, -10, dtype=torch.float64), "increase strictly"),
        (torch.full((700,), float("nan"), dtype=torch.float64), "finite and positive"),
        (torch.arange(-10.0, 690, dtype=torch.float64), "finite and positive"),
        (torch.zeros(0, dtype=torch.float64), "at least two"),
    ],
    ids=["float32", "2d", "falling", "nan", "negative", "empty"],
)
def test_impossible_wavelengths_are_refused(sound: Path, wave: Tensor, message: str) -> None:
    with_tensor(sound, weights.WAVE_REST, wave)
    with pytest.raises(WeightsError, match=rf"wave_rest in .*sound\.safetensors.*{message}"):
        registry.load(sound)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("permutations", torch.tensor([[0, 1, 2], [0, 1, 1]]), "each of 0 to 2 once"),
        ("permutations", torch.tensor([[0, 1, 2], [0, 1, 2**62]]), "each of 0 to 2 once"),
        ("permutations", torch.tensor([[0, 1, 2], [-1, 0, 1]]), "each of 0 to 2 once"),
        ("permutations", torch.zeros(2, 3), "float32 instead of torch.int64"),
        ("permutations", torch.zeros(2, 3, dtype=torch.int32), "int32 instead of torch.int64"),
        ("scale", torch.tensor([1.0, 0.0, 1.0]), "scale must be positive"),
        ("scale", torch.tensor([1.0, -1.0, 1.0]), "scale must be positive"),
    ],
)
def test_impossible_values_of_a_flow_are_refused(
    sound_flow: Path, name: str, tensor: Tensor, message: str
) -> None:
    with_tensor(sound_flow, name, tensor)
    with pytest.raises(WeightsError, match=message):
        registry.load(sound_flow)


def test_a_kernel_that_sums_to_nothing_is_refused(sound: Path) -> None:
    with_tensor(sound, "lsf.sdss.kernel", torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0]))
    with pytest.raises(WeightsError, match=r"lsf\.sdss: the taps .* must not sum to 0"):
        registry.load(sound)


# -- architectures of others ------------------------------------------------------------------


class Buffered(Model):
    """Keeps, beside its weights, tensors that no file holds, and needs their values."""

    def __init__(self, instruments: Any, wave_rest: Any, seed: int = 3) -> None:
        super().__init__(instruments, wave_rest)
        mixer = torch.randn(40, 40, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("mixer", mixer, persistent=False)
        self.register_buffer("ramp", self.wave_rest.float() / 1e3, persistent=False)
        self.scale = float(self.ramp.max())  # type: ignore[operator]
        self.linear = nn.Linear(40, self.rest.size)
        self.config = {"seed": seed}

    def encode_flux(self, flux_BL: Tensor, instrument: str) -> Tensor:
        return flux_BL[:, :40] @ self.mixer

    def decode(self, s_BS: Tensor) -> Tensor:
        return self.linear(s_BS) * self.ramp / self.scale

    config: Any = None


class Greedy(Buffered):
    def __init__(self, instruments: Any, wave_rest: Any) -> None:
        super().__init__(instruments, wave_rest)
        for _ in range(10**9):
            self.register_buffer("more", torch.zeros(1000), persistent=False)


class Odd(Flow):
    def __init__(self, n_latent: int) -> None:
        raise ZeroDivisionError("\x1b[31mno")

    def log_prob(self, s_BS: Tensor) -> Tensor: ...

    def sample(self, n: int, generator: Any = None) -> Tensor: ...


def build(architecture: Any, tensors: dict[str, Tensor], card: ModelCard = CARD) -> Any:
    stored = weights.Stored.held("a file", tensors)
    return weights.build(architecture, card, stored, [registry.instrument("sdss")])


def test_buffers_that_no_file_holds_are_real() -> None:
    model = Buffered([registry.instrument("sdss")], range(2500, 9500, 10))
    tensors = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    made = build(Buffered, tensors | {"wave_rest": model.wave_rest})
    model.load_state_dict(tensors)
    flux = torch.randn(2, registry.instrument("sdss").grid.size)
    assert torch.equal(made.encode(flux), model.encode(flux))
    assert torch.equal(made.decode(made.encode(flux)), model.decode(model.encode(flux)))


def test_an_architecture_without_end_is_stopped() -> None:
    wave = torch.arange(2500.0, 9500, 10, dtype=torch.float64)
    with pytest.raises(WeightsError, match="far larger network"):
        build(Greedy, {"wave_rest": wave})


def test_an_architecture_that_fails_is_told_readably() -> None:
    with pytest.raises(WeightsError, match=r"the config of 'f' makes no Odd: \\x1b\[31mno"):
        build(Odd, {}, flow_card())
