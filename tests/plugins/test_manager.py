"""Discovery: one bad plugin never stops the others, and every fault says whose it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from spender_core.errors import DuplicateNameError, PluginError, UnknownNameError
from spender_core.plugins.hookspecs import hookimpl
from spender_core.plugins.manager import Candidate, Discovery, import_target, installed
from spender_core.records import (
    API_VERSION,
    ArchitectureSpec,
    InstrumentSpec,
    ModelCard,
    PluginStatus,
)


def card(name: str, **fields: Any) -> ModelCard:
    return ModelCard(name=name, architecture="spectrum_autoencoder", latents=2, **fields)


def spec(name: str) -> InstrumentSpec:
    return InstrumentSpec(name=name, target="nowhere:Nothing")


def plugin(name: str, load: Callable[[], Any] | None = None, **hooks: Any) -> Candidate:
    """Make a plugin: by how it is loaded, or from the functions in its module."""
    module = ModuleType(f"{name}_plugin")
    for hook, function in hooks.items():
        function.__name__ = hook
        setattr(module, hook, function)
    return Candidate(name, f"spender-{name}", "1.0", load or (lambda: module))


def offering(name: str, *records: Any, hook: str = "spender_models") -> Candidate:
    return plugin(name, **{hook: hookimpl(lambda: list(records))})


GOOD = offering("good", card("good_model", aliases=("best",)))


def examine(*candidates: Candidate) -> tuple[Discovery, dict[str, PluginStatus]]:
    """Examine plugins after a good one, which must come to no harm."""
    discovery = Discovery([GOOD, *candidates])
    statuses = {status.name: status for status in discovery.statuses()}
    assert statuses["good"].ok
    assert statuses["good"].models == ("good_model",)
    assert discovery.get("model", "best").name == "good_model"
    return discovery, statuses


def only_problem(candidate: Candidate) -> str:
    """Return the one problem of a plugin that is bad in one way."""
    _, statuses = examine(candidate)
    status = statuses[candidate.name]
    assert not status.ok
    assert len(status.problems) == 1, status.problems
    return status.problems[0]


def test_a_good_plugin_tells_what_it_offers() -> None:
    candidate = plugin(
        "full",
        spender_models=hookimpl(lambda: [card("full_model", aliases=("full",))]),
        spender_instruments=hookimpl(lambda: (spec("wide"), spec("narrow"))),
        spender_architectures=hookimpl(
            lambda: iter([ArchitectureSpec(name="net", target="nowhere:Net")])
        ),
    )
    discovery, statuses = examine(candidate)
    expected = PluginStatus(
        "full", "spender-full", "1.0", ("wide", "narrow"), ("full_model",), ("net",)
    )
    assert statuses["full"] == expected
    assert discovery.names("model") == ["full_model", "good_model"]
    assert discovery.names("instrument") == ["narrow", "wide"]
    assert discovery.names("architecture") == ["net"]
    assert discovery.get("model", "full") is discovery.get("model", "full_model")


@pytest.mark.parametrize(
    "error",
    [
        ImportError("no module named lost"),
        ValueError("broken at import"),
        SystemExit("gave up"),
        SyntaxError("line 3"),
        RecursionError("too deep"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_at_import_stays_with_its_plugin(error: BaseException) -> None:
    def load() -> ModuleType:
        raise error

    problem = only_problem(plugin("broken", load))
    assert "cannot be imported" in problem
    assert type(error).__name__ in problem
    assert str(error) in problem


def test_an_interrupt_by_the_user_is_not_swallowed() -> None:
    def load() -> ModuleType:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Discovery([plugin("slow", load)])


def test_a_misspelt_hook_with_the_decorator_is_named_with_the_right_one() -> None:
    hooks = {"spender_modells": hookimpl(lambda: [card("lost")])}
    discovery, statuses = examine(plugin("misspelt", **hooks))
    text = " ".join(statuses["misspelt"].problems)
    assert "spender_modells" in text
    assert "did you mean spender_models" in text
    assert discovery.names("model") == ["good_model"]


def test_a_misspelt_hook_without_the_decorator_is_named_with_the_right_one() -> None:
    problem = only_problem(plugin("misspelt", spender_instrument=lambda: [spec("lost")]))
    assert "spender_instrument;" in problem
    assert "did you mean spender_instruments" in problem


def test_a_decorated_function_that_resembles_no_hook_is_named() -> None:
    problem = only_problem(plugin("stray", my_models=hookimpl(lambda: [card("lost")])))
    assert "my_models" in problem


def test_a_hook_without_the_decorator_is_named() -> None:
    problem = only_problem(plugin("bare", spender_models=lambda: [card("lost")]))
    assert "spender_models" in problem
    assert "@hookimpl" in problem


def test_a_misspelt_hook_leaves_the_plugins_other_hooks_at_work() -> None:
    candidate = plugin(
        "half",
        spender_modells=hookimpl(lambda: []),
        spender_instruments=hookimpl(lambda: [spec("sound")]),
    )
    discovery, statuses = examine(candidate)
    assert not statuses["half"].ok
    assert discovery.names("instrument") == ["sound"]


def test_a_hook_with_arguments_is_refused_by_name() -> None:
    problem = only_problem(plugin("greedy", spender_models=hookimpl(lambda config: [])))
    assert "cannot be registered" in problem
    assert "spender_models" in problem
    assert "config" in problem


@pytest.mark.parametrize("error", [RuntimeError("no luck"), SystemExit("no luck")])
def test_a_hook_that_raises_is_named(error: BaseException) -> None:
    def raises() -> list[ModelCard]:
        raise error

    problem = only_problem(plugin("raising", spender_models=hookimpl(raises)))
    assert problem == f"spender_models fails: {type(error).__name__}: no luck"


def test_a_hook_that_raises_leaves_the_plugins_other_hooks_at_work() -> None:
    def raises() -> list[ModelCard]:
        raise RuntimeError("no luck")

    candidate = plugin(
        "half",
        spender_models=hookimpl(raises),
        spender_instruments=hookimpl(lambda: [spec("sound")]),
    )
    discovery, _ = examine(candidate)
    assert discovery.names("instrument") == ["sound"]


def test_a_generator_that_fails_midway_is_named() -> None:
    def midway() -> Iterator[ModelCard]:
        yield card("first")
        raise RuntimeError("ran dry")

    problem = only_problem(plugin("dry", spender_models=hookimpl(midway)))
    assert "spender_models" in problem
    assert "ran dry" in problem


@pytest.mark.parametrize("returned", [None, 3, True], ids=repr)
def test_a_hook_that_returns_no_iterable_is_named(returned: Any) -> None:
    problem = only_problem(plugin("odd", spender_models=hookimpl(lambda: returned)))
    assert "spender_models" in problem
    assert type(returned).__name__ in problem


@pytest.mark.parametrize(
    "returned",
    [card("alone"), "good_model", {"name": "good_model", "latents": 2}],
    ids=lambda value: type(value).__name__,
)
def test_a_hook_that_forgets_the_list_is_named_once(returned: Any) -> None:
    problem = only_problem(plugin("odd", spender_models=hookimpl(lambda: returned)))
    assert "spender_models" in problem
    assert type(returned).__name__ in problem


@pytest.mark.parametrize("wrong", [{"name": "a"}, spec("a"), None, card], ids=repr)
def test_a_record_of_the_wrong_type_is_named_and_the_others_kept(wrong: Any) -> None:
    discovery, statuses = examine(offering("mixed", card("sound"), wrong))
    (problem,) = statuses["mixed"].problems
    assert "spender_models" in problem
    assert type(wrong).__name__ in problem
    assert "ModelCard" in problem
    assert discovery.names("model") == ["good_model", "sound"]


def test_an_invalid_record_is_named_with_what_is_wrong() -> None:
    problem = only_problem(plugin("invalid", spender_models=hookimpl(lambda: [card("no name!")])))
    assert "spender_models fails" in problem
    assert "no name!" in problem


def test_an_unknown_field_is_named() -> None:
    problem = only_problem(
        plugin("newer", spender_models=hookimpl(lambda: [card("a", colour="red")]))
    )
    assert "colour" in problem


def test_a_record_of_another_version_is_refused_by_name_and_the_others_kept() -> None:
    newer = card("newer_model", api_version=API_VERSION + 8, telescope="Rubin")
    discovery, statuses = examine(offering("newer", newer, card("sound")))
    (problem,) = statuses["newer"].problems
    assert "'newer_model'" in problem
    assert f"api_version {API_VERSION + 8}" in problem
    assert f"knows {API_VERSION}" in problem
    assert discovery.names("model") == ["good_model", "sound"]


@pytest.mark.parametrize("kind", ["model", "instrument", "architecture"])
def test_two_plugins_of_one_name_are_both_shown_and_asking_for_it_raises(kind: str) -> None:
    records = {
        "model": card("twin"),
        "instrument": spec("twin"),
        "architecture": ArchitectureSpec(name="twin", target="nowhere:Net"),
    }
    pair = [offering(name, records[kind], hook=f"spender_{kind}s") for name in ("left", "right")]
    discovery, statuses = examine(*pair)
    for name in ("left", "right"):
        (problem,) = statuses[name].problems
        assert f"{kind} 'twin'" in problem
        assert "spender-left 1.0 and spender-right 1.0" in problem
    with pytest.raises(DuplicateNameError, match=r"spender-left 1\.0, spender-right 1\.0"):
        discovery.get(kind, "twin")
    assert "twin" not in discovery.names(kind)


def test_an_alias_that_is_another_plugins_name_counts_as_a_duplicate() -> None:
    left, right = offering("left", card("twin")), offering("right", card("a", aliases=("twin",)))
    discovery, statuses = examine(left, right)
    assert not statuses["left"].ok
    assert not statuses["right"].ok
    with pytest.raises(DuplicateNameError, match=r"spender-left.*spender-right"):
        discovery.get("model", "twin")
    assert discovery.names("model") == ["a", "good_model"]
    assert discovery.get("model", "a").name == "a"


def test_two_aliases_of_one_name_count_as_a_duplicate() -> None:
    pair = [offering(name, card(name, aliases=("twin",))) for name in ("left", "right")]
    discovery, _ = examine(*pair)
    with pytest.raises(DuplicateNameError, match=r"spender-left.*spender-right"):
        discovery.get("model", "twin")
    assert discovery.names("model") == ["good_model", "left", "right"]


@pytest.mark.parametrize(
    "records",
    [(card("twin"), card("twin")), (card("twin"), card("other", aliases=("twin",)))],
    ids=["name", "alias"],
)
def test_a_name_twice_within_one_plugin_is_a_fault_of_that_plugin(records: Any) -> None:
    discovery, statuses = examine(offering("double", *records, card("sound")))
    (problem,) = statuses["double"].problems
    assert "model 'twin'" in problem
    assert "spender-double 1.0, twice" in problem
    with pytest.raises(DuplicateNameError, match="spender-double"):
        discovery.get("model", "twin")
    assert "sound" in discovery.names("model")


def test_the_same_name_for_a_model_and_an_instrument_is_fine() -> None:
    candidate = plugin(
        "both",
        spender_models=hookimpl(lambda: [card("same")]),
        spender_instruments=hookimpl(lambda: [spec("same")]),
    )
    discovery, statuses = examine(candidate)
    assert statuses["both"].ok
    assert isinstance(discovery.get("model", "same"), ModelCard)
    assert isinstance(discovery.get("instrument", "same"), InstrumentSpec)


def test_an_unknown_name_suggests_near_ones_and_lists_all() -> None:
    discovery, _ = examine(offering("more", card("deep_model")))
    with pytest.raises(UnknownNameError) as caught:
        discovery.get("model", "good_modle", hint="Ask for another.")
    message = str(caught.value)
    assert "no model named 'good_modle'" in message
    assert "Did you mean 'good_model'" in message
    assert "Known: best, deep_model, good_model" in message
    assert message.endswith("Ask for another.")


def test_an_unknown_name_where_nothing_is_installed_says_so() -> None:
    with pytest.raises(UnknownNameError, match="Known: none; install a plugin"):
        Discovery([]).get("instrument", "sdss")


def test_core_is_among_the_installed_plugins_with_its_architectures() -> None:
    found = {candidate.distribution: candidate for candidate in installed()}
    assert {"spender-core", "spender-sdss", "spender-desi"} <= found.keys()
    offered = Discovery([found["spender-core"]]).names("architecture")
    assert offered == ["maf", "spectrum_autoencoder", "weighted_autoencoder", "zuko_flow"]


@pytest.mark.parametrize("target", ["no_such_package.module:Class", "json:NoSuchClass"])
def test_a_target_that_cannot_be_imported_is_named(target: str) -> None:
    with pytest.raises(PluginError, match=target):
        import_target(target)


@pytest.mark.parametrize("line", ["raise RuntimeError('late')", "raise SystemExit", "(]"])
def test_a_target_whose_module_is_broken_is_named(
    line: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_target.py").write_text(f"{line}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("broken_target", None)
    with pytest.raises(PluginError, match="broken_target:Class"):
        import_target("broken_target:Class")
