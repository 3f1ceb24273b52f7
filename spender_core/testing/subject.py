"""What checks look at: an instrument, what its plugin says of it, and files with their truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from spender_core.batch import SpectrumBatch
from spender_core.interfaces import Instrument, Loader
from spender_core.records import InstrumentSpec, PluginStatus
from spender_core.testing.example import Example
from spender_core.testing.faults import ContractError, NotApplicable, expect


class Subject:
    """An instrument under check.

    Args:
        make: Makes the instrument; called once, when it is first needed.
        folder: An empty folder for files that checks write.
        example: Files of the instrument, or what writes them when they are first needed; without
            it, what needs files is not checked.
        name: The name under which a plugin offers it.
        spec: What the plugin says of it; None if it comes from no plugin.
        statuses: How the installed plugins fared.
    """

    def __init__(
        self,
        make: Callable[[], Instrument],
        folder: Path,
        example: Example | Callable[[], Example] | None = None,
        *,
        name: str = "",
        spec: InstrumentSpec | None = None,
        statuses: Sequence[PluginStatus] = (),
    ) -> None:
        self._make, self.folder, self._example = make, folder, example
        self.name, self.spec, self.statuses = name, spec, tuple(statuses)
        self._raw: dict[Path, SpectrumBatch] = {}
        self._told: set[object] = set()

    @cached_property
    def instrument(self) -> Instrument:
        """The instrument.

        Raises:
            ContractError: It cannot be made.
            NotApplicable: That was told before.
        """
        self._once("instrument", "the instrument cannot be made; see above")
        try:
            made = self._make()
        except Exception as error:
            raise ContractError(
                "the instrument's class can be imported, and called without arguments",
                f"{type(error).__name__}: {error}",
                "import the class in a Python session and call it; mend what that shows",
            ) from error
        self._told.discard("instrument")
        return made

    @cached_property
    def example(self) -> Example:
        """The files of the instrument.

        Raises:
            ContractError: They cannot be written, or are not there.
            NotApplicable: There are none, or that was told before.
        """
        given = self._example
        if given is None:
            raise NotApplicable("no file of the instrument was given")
        self._once("example", "the example cannot be used; see above")
        rule = "an Example whose paths are files"
        fix = "let the function write files into the folder that it is given, and return an Example"
        try:
            made = given if isinstance(given, Example) else given()
        except Exception as error:
            raise ContractError(rule, f"{type(error).__name__}: {error}", fix) from error
        expect(isinstance(made, Example), expected=rule, found=f"a {type(made).__name__}", fix=fix)
        absent = [str(path) for path in made.paths if not path.is_file()]
        found = f"no file {absent[0]}" if absent else "no paths"
        expect(made.paths and not absent, expected=rule, found=found, fix=fix)
        self._told.discard("example")
        return made

    @property
    def loader(self) -> Loader:
        """The loader of the instrument.

        Raises:
            ContractError: It has none, though there are files.
        """
        if not isinstance(self.instrument.loader, Loader):
            raise ContractError(
                "the instrument has a loader, since it has files",
                f"loader is {self.instrument.loader!r}",
                "set `loader` of the instrument to an object of a class derived from Loader",
            )
        return self.instrument.loader

    def raw(self, path: Path | None = None) -> SpectrumBatch:
        """Return what `load` gives of a file, the first by default; read once.

        Raises:
            ContractError: It cannot be loaded.
            NotApplicable: That was told before.
        """
        path = path or self.example.paths[0]
        if path not in self._raw:
            loader = self.loader
            self._once(path, f"{path.name} cannot be loaded; see above")
            try:
                batch = loader.load(str(path))
            except Exception as error:
                raise ContractError(
                    f"load reads {path.name}; flux is finite, ivar is finite and >= 0, and 0 where "
                    "a pixel is bad",
                    f"{type(error).__name__}: {error}",
                    "let load set flux and ivar of pixels to 0 where either is not a number or the "
                    "survey masks them, and give ids of its id_dtype",
                ) from error
            if not isinstance(batch, SpectrumBatch):
                raise ContractError(
                    "load returns a SpectrumBatch", f"a {type(batch).__name__}", "return one"
                )
            self._raw[path] = batch
            self._told.discard(path)
        return self._raw[path]

    def _once(self, key: object, told: str) -> None:
        """Raise `NotApplicable` when something is tried again that failed."""
        if key in self._told:
            raise NotApplicable(told)
        self._told.add(key)
