"""Forecaster targets: a baseline's name, `file.py:Class` or `package.module:Class`, each with optional arguments.

A target is of one small class per kind, which says where the code is.

Baselines and submissions are loaded the same way.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeGuard

from moeload_bench.baseline_facts import BASELINES_PACKAGE, baseline_facts
from moeload_bench.errors import MissingExtraError, TargetError, not_found
from moeload_bench.forecaster import TraceInfo
from moeload_bench.isolation.arguments import parse_arguments
from moeload_bench.isolation.sources import CONTRACT, file_sha256, installed, module_sha256
from moeload_bench.words import page

ADAPTERS_PACKAGE = "moeload_bench.adapters"
PLUGIN_GROUP = "moeload_bench.forecasters"
MAX_CODE_BYTES = 64 << 20
_OURS = f"{BASELINES_PACKAGE}."
_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_ANY_RUN = TraceInfo(1, 2, None, (0,), None, 1, "unknown", 0.0, 0)


@dataclass(frozen=True, kw_only=True)
class _NamedClass:
    """What every kind of target says: the text that asked for it, the class ("" = the only one there), its arguments.

    ``packages`` is a folder of installed packages that the forecaster's process finds before those of this
    installation; not used at level `none`. ``name`` is what its results are called where that is not its text.
    """

    text: str
    class_name: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    packages: Path | None = None
    name: str = ""

    @property
    def label(self) -> str:
        """Return what its results are called."""
        return self.name or self.text


@dataclass(frozen=True, kw_only=True)
class FileTarget(_NamedClass):
    """A class in a file of code."""

    file: Path


@dataclass(frozen=True, kw_only=True)
class ModuleTarget(_NamedClass):
    """A class in a module that Python finds: an installed package's."""

    module: str


@dataclass(frozen=True, kw_only=True)
class BaselineTarget(ModuleTarget):
    """A class of this project's own baselines: the only ones that the harness imports into its own process."""

    def __post_init__(self) -> None:
        if not self.module.startswith(_OURS):
            raise TargetError(f"{self.text!r}: {self.module!r} is no module of {BASELINES_PACKAGE}")

    @property
    def baseline(self) -> str:
        """Return its name among the baselines."""
        return self.module.removeprefix(_OURS)


@dataclass(frozen=True, kw_only=True)
class ClassTarget(_NamedClass):
    """A class that exists in this process only (a notebook); it can run at isolation level `none` only."""

    cls: type[Any]


StoredTarget = FileTarget | ModuleTarget
"""What another process can load too."""

Target = StoredTarget | ClassTarget


def parse_target(text: str) -> StoredTarget:
    """Parse without importing anything; raise `TargetError` or `NotFoundError`.

    A name that tables print stands for its target (`sw_avg.w500` for `sw_avg@window=500`). A file's name that tables
    do not print is taken too, with a `FutureWarning`.
    """
    location = text.partition("@")[0]
    if (printed := _printed_for(location)) is not None:
        warnings.warn(f"{location!r} is called {printed!r} now", FutureWarning, stacklevel=2)
    return stored_target(text)


def stored_target(text: str) -> StoredTarget:
    """Return the target that a stored result names, by the spelling of any version; raise as `parse_target`."""
    location, _, arguments = text.partition("@")
    if location in printed_names():
        stands_for = printed_names()[location]
        with_arguments = f"{stands_for}{',' if '@' in stands_for else '@'}{arguments}" if arguments else stands_for
        return replace(_parse(with_arguments), name=text)
    printed = _printed_for(location)
    return replace(_parse(text), name="" if printed is None else text.replace(location, printed, 1))


def _printed_for(location: str) -> str | None:
    """Return what tables call a baseline by the name of its file, None where that is its name."""
    return next((name for name, target in printed_names().items() if target == location), None)


@functools.cache
def printed_names() -> Mapping[str, str]:
    """Return what tables call a forecaster whose name is not that of its file, and the target that this stands for."""
    return {name: facts.target for name, facts in baseline_facts().items() if facts.target}


def _parse(text: str) -> StoredTarget:
    """Return the target of a text that is no printed name."""
    location, _, arguments = text.partition("@")
    kwargs = parse_arguments(arguments, text) if arguments else {}
    place, _, class_name = location.rpartition(":") if ":" in location else (location, "", "")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise TargetError(f"{text!r}: no file {place!r}")
        if path.stat().st_size > MAX_CODE_BYTES:
            raise TargetError(f"{text!r}: {path.stat().st_size} bytes, at most {MAX_CODE_BYTES} are read as code")
        if not class_name:
            raise TargetError(f"{text!r}: name the class, as in {place}:Mine")
        return FileTarget(text=text, file=path.resolve(), class_name=class_name, kwargs=kwargs)
    if class_name:
        return module_target(text, place, class_name, kwargs)
    if location not in baseline_names():
        plugins = plugin_places()
        if location not in plugins:
            names = [*forecaster_names(), *sorted(plugins), "FILE.py:Class", "package.module:Class"]
            raise not_found("forecaster", location, names)
        module, _, class_name = plugins[location].partition(":")
        return module_target(text, module, class_name, kwargs)
    _warn_of_namesake(location)
    return BaselineTarget(text=text, module=f"{_OURS}{location}", kwargs=kwargs)


@functools.cache
def _warn_of_namesake(baseline: str) -> None:
    """Warn of an installed plug-in that takes a baseline's name: it is not what runs, and results would mix them up."""
    place = plugin_places().get(baseline)
    if place is not None:
        text = f"the installed plug-in {baseline!r} is refused: a baseline has this name; name the plug-in {place!r}"
        warnings.warn(text, UserWarning, stacklevel=3)


def module_target(text: str, module: str, class_name: str, kwargs: Mapping[str, Any]) -> ModuleTarget:
    """Return a target for a class in a module: a baseline where the module is one of ours, by whatever text it was
    named.
    """
    kind = BaselineTarget if module.startswith(_OURS) else ModuleTarget
    return kind(text=text, module=module, class_name=class_name, kwargs=kwargs)


def class_target(cls: type[Any], **kwargs: Any) -> ClassTarget:
    """Return a target for a class that exists in this process; raise `TargetError` for anything else."""
    if not isinstance(cls, type):
        kind = type(cls).__name__
        raise TargetError(
            f"got an object of type {kind}, expected a forecaster's class or a text: each run makes its own, "
            "with arguments by 'my.py:Mine@decay=0.9'"
        )
    text = f"{cls.__module__}:{cls.__qualname__}"
    return ClassTarget(text=text, class_name=cls.__name__, kwargs=kwargs, cls=cls)


def baseline_names() -> list[str]:
    """Return the baselines that are installed, by module name."""
    package = importlib.import_module(BASELINES_PACKAGE)
    names = (info.name for info in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def forecaster_names() -> list[str]:
    """Return the names of the forecasters that come with the package, as tables print them."""
    names = printed_names()
    return sorted({*baseline_names(), *names} - set(names.values()))


def plugin_places() -> dict[str, str]:
    """Return forecasters of other installed packages, name to `package.module:Class`, by their entry points; none is
    imported.

    A package names them under `[project.entry-points."moeload_bench.forecasters"]`. A baseline keeps its name.
    """
    import importlib.metadata  # here: it loads what no forecaster's process needs

    points = importlib.metadata.entry_points(group=PLUGIN_GROUP)
    return {point.name: point.value for point in points if _PLACE.fullmatch(point.value)}


def is_baseline(target: Target) -> TypeGuard[BaselineTarget]:
    """Return whether the class is one of this project's own."""
    return isinstance(target, BaselineTarget)


def load_class(target: Target) -> type[Any]:
    """Import the target's class; raise `TargetError`, or `MissingExtraError` when an optional package is missing."""
    if isinstance(target, ClassTarget):
        return _checked(target.cls, target)
    try:
        if isinstance(target, FileTarget):
            _from_source("")
            module, place = _import_file(target.file), str(target.file)
        else:
            if not is_baseline(target):
                _from_source(target.module.partition(".")[0])
            module, place = importlib.import_module(target.module), target.module
    except MissingExtraError:
        raise
    except ImportError as error:
        raise TargetError(f"{target.text!r}: cannot import it: {error}") from error
    cls = getattr(module, target.class_name, None) if target.class_name else _only_class(module)
    if not inspect.isclass(cls):
        names = ", ".join(_classes(module)) or "none"
        raise TargetError(f"{target.text!r}: {place} has no class {target.class_name!r}; there is: {names}")
    return _checked(cls, target)


def load_function(text: str) -> Callable[..., Any]:
    """Return the function that ``FILE.py:NAME`` names, imported into this process; raise `TargetError`."""
    place, _, name = text.rpartition(":")
    if not place.endswith(".py") or not Path(place).is_file():
        raise TargetError(f"{text!r}: expected FILE.py:function, where the file exists")
    try:
        function = getattr(_import_file(Path(place).resolve()), name, None)
    except Exception as error:
        raise TargetError(f"{text!r}: cannot import it: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise TargetError(f"{text!r}: {place} has no function {name!r}")
    loaded: Callable[..., Any] = function
    return loaded


def _checked(cls: type[Any], target: Target) -> type[Any]:
    for method in ("observe", "forecast"):
        if not callable(getattr(cls, method, None)):
            raise TargetError(
                f"{target.text!r}: {cls.__name__} has no method {method}(); expected observe(block) and "
                f"forecast(request), see {page('docs/guide/api.md')}"
            )
    return cls


def preflight(target: Target) -> None:
    """Refuse before any work what can be told without a stranger's code: baselines and classes of this process.

    Raise `MissingExtraError` for a baseline whose packages are missing, `TargetError` for an unknown argument and for
    a value that the baseline's constructor refuses.
    """
    if isinstance(target, ClassTarget):
        check_kwargs(target, load_class(target))
    elif is_baseline(target):
        cls = load_class(target)
        check_kwargs(target, cls)
        if target.kwargs:
            _try_values(cls, target)


def _try_values(cls: type[Any], target: Target) -> None:
    """Raise only refusals: warnings and other failures belong to the run, which reports them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cls(_ANY_RUN, 0, **target.kwargs)
        except (TargetError, MissingExtraError):
            raise
        except Exception:
            return


def check_kwargs(target: Target, cls: type[Any]) -> None:
    """Raise `TargetError` for an argument that the class does not take, listing those that it takes."""
    parameters = inspect.signature(cls).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    takes = [name for name in list(parameters)[2:] if name != "fitted"]
    for name in target.kwargs:
        if name not in takes:
            raise TargetError(f"{target.text!r}: unknown parameter {name!r}; it takes: {', '.join(takes) or 'none'}")


def source_sha256(target: Target) -> str:
    """Return the hash of the target's source, found without executing it; a module's with its own package's imports.

    Weights beside the code (`sources.WEIGHTS_SUFFIXES`) are part of it.
    """
    if isinstance(target, ClassTarget):
        return _class_sha256(target)
    if isinstance(target, FileTarget):
        return file_sha256(target.file)
    sha256 = module_sha256(target.module)
    if sha256 is None:
        raise TargetError(
            f"{target.text!r}: no source file of a module {target.module!r}; expected a baseline's name, "
            "FILE.py:Class, or package.module:Class of a module that Python finds as a file"
        )
    return sha256


def _class_sha256(target: ClassTarget) -> str:
    """Return the hash of a class's source; in a notebook Python finds only that of its methods."""
    for parts in ([target.cls], [part for _, part in sorted(vars(target.cls).items()) if inspect.isfunction(part)]):
        try:
            text = "".join(map(inspect.getsource, parts))
        except (OSError, TypeError):
            continue
        if text:
            return hashlib.sha256(text.encode()).hexdigest()
    raise TargetError(f"{target.text!r}: Python has no source of this class; expected it in a file")


class _SourceAlone(SourceFileLoader):
    """Neither reads nor writes bytecode: a submission's folder stays as it was, and what runs is its source."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _SourceFinder:
    """Has what a forecaster's hash names run from its source: its own package, and helpers that are not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return what the finders behind this one find, without its bytecode."""
        top = name.partition(".")[0]
        if top == CONTRACT[0]:
            return None
        specs = (
            finder.find_spec(name, path, target) for finder in sys.meta_path if not isinstance(finder, _SourceFinder)
        )
        spec = next((candidate for candidate in specs if candidate is not None), None)
        if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        if top != self.package and installed(Path(spec.origin)):
            return None
        spec.loader, spec.cached = _SourceAlone(name, spec.origin), None
        return spec


def _from_source(package: str) -> None:
    """Import from now on a package, and modules that are not installed, from source."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _SourceFinder)]
    sys.meta_path.insert(0, _SourceFinder(package))


def _import_file(path: Path) -> ModuleType:
    name = f"moeload_target_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    loader = _SourceAlone(name, str(path))
    module = importlib.util.module_from_spec(ModuleSpec(name, loader, origin=str(path)))
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        loader.exec_module(module)
    except SyntaxError as error:
        raise TargetError(f"{path}: line {error.lineno}: {error.msg}") from error
    return module


def _classes(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and hasattr(value, "forecast")
    ]


def _only_class(module: ModuleType) -> Any:
    names = [name for name in _classes(module) if not name.startswith("_")]
    if len(names) != 1:
        raise TargetError(f"{module.__name__} has the classes {names}, expected one forecaster")
    return getattr(module, names[0])
