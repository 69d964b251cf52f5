"""Import what a user's own module or an installed package adds: recipes and methods."""

from __future__ import annotations

import importlib
import os
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path

from zoo.errors import UserError, reason_of

_REFERENCE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


def import_object(reference: str) -> object:
    """Return the object that ``module:name`` names; ``FILE.py:name`` imports a file under its own name.

    The working folder is searched last, so that a folder there never hides an installed package.

    Raises:
        UserError: the text has another form, the module cannot be imported, or has no such name.
    """
    file = _file_of(reference)
    if file is not None and not file.stem.isidentifier():
        raise UserError(f"{file} is imported as a module: give it a name of letters, digits and underscores alone")
    match = _REFERENCE.fullmatch(by_module(reference))
    if match is None:
        raise UserError(f"{reference!r} is not MODULE:NAME, such as mypackage.barlow:recipe")
    _search_last(os.getcwd())
    # Whatever a user's module raises while it is imported is a problem of that module.
    try:
        module = importlib.import_module(match[1])
    except Exception as error:
        raise UserError(
            f"{match[1]} cannot be imported ({type(error).__name__}: {reason_of(error)}): run in the folder that holds "
            "it, install it, or add its folder to PYTHONPATH"
        ) from error
    found_at = getattr(module, "__file__", None)
    if file is not None and (found_at is None or Path(found_at).resolve() != file.resolve()):
        raise UserError(f"{file} is hidden by another module {match[1]} ({found_at or 'a built-in one'}): rename it")
    if not hasattr(module, match[2]):
        raise UserError(f"{match[1]} has no {match[2]}: it is {found_at or 'a built-in module'}")
    found: object = getattr(module, match[2])
    return found


def by_module(reference: str) -> str:
    """Return ``FILE.py:name`` as ``module:name``, and let the module be found; return other texts as they are.

    A file is imported as a module of its folder, so that a later run finds it by the same name.
    """
    path, _, name = reference.rpartition(":")
    if not path.endswith(".py"):
        return reference
    if not Path(path).is_file():
        raise UserError(f"no file {path}: give MODULE:NAME or FILE.py:NAME")
    _search_last(str(Path(path).resolve().parent))
    return f"{Path(path).stem}:{name}"


def _file_of(reference: str) -> Path | None:
    """Return FILE.py of ``FILE.py:name``."""
    path, _, _ = reference.rpartition(":")
    return Path(path) if path.endswith(".py") else None


def entry_point(group: str, name: str) -> object | None:
    """Return what an installed package offers under a name of an entry point group; ``None`` if none does.

    Raises:
        UserError: two packages offer the name, or the offer cannot be imported.
    """
    found = list(entry_points(group=group, name=name))
    if not found:
        return None
    if len({point.value for point in found}) > 1:
        packages = ", ".join(sorted(point.dist.name for point in found if point.dist))
        raise UserError(f"{name} is offered by several packages ({packages}): uninstall all but one")
    try:
        loaded: object = found[0].load()
    except Exception as error:
        raise UserError(f"{name} cannot be imported ({type(error).__name__}: {reason_of(error)})") from error
    return loaded


def _search_last(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)
