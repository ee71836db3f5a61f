"""From `module:app` to the user's `App`.

Owns: the import of the user's module, in which nothing may be enqueued, and the texts for what
goes wrong there.
Must never: be used by the pump: user code is imported in runners and by the command line's
`enqueue`, and nowhere else.
Called by: `runners/child.py`, `cli/`.
"""

import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING

from dibs.errors import AppImportFailed, AppNotFound
from dibs.producer.producer import importing

if TYPE_CHECKING:
    from dibs.app import App

DEFAULT_NAME = "app"


def import_app(path: str) -> "App":
    """Return the app at `path`: "module:name" or "module", whose app is then called `app`.

    The working directory is put on the import path, as `python -m` does.

    Raises:
        AppNotFound: there is no such module, or nothing of that name, or it is no `App`.
        AppImportFailed: the module raised; its own traceback is in the text.
    """
    from dibs.app import App  # imports user-side modules, which the pump must not pay for

    module_name, _, name = path.partition(":")
    name = name or DEFAULT_NAME
    if module_name.endswith(".py") and os.path.exists(module_name):
        module = os.path.relpath(module_name).removesuffix(".py").replace(os.sep, ".")
        if _is_module(module):
            raise AppNotFound(f"{path!r} names a file; name its module: `{module}:{name}`")
    if not _is_module(module_name):
        raise AppNotFound(f"{path!r} is not of the form module:app, as in `photos:app`")
    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")
    imported = _import(module_name)
    found: object = imported
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, App):
        return found
    there = sorted(key for key, value in vars(imported).items() if isinstance(value, App))
    hint = f"; it has {', '.join(f'{module_name}:{n}' for n in there)}" if there else ""
    what = "has nothing of that name" if found is None else f"has `{type(found).__name__}` there"
    raise AppNotFound(f"{path!r} leads to no App: the module {what}{hint}")


def _is_module(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _import(module_name: str) -> object:
    try:
        with importing():
            return importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module_name + ".").startswith(exc.name + "."):
            module, _, name = module_name.rpartition(".")
            hint = (
                f"; did you mean `{module}:{name}`?" if module and exc.name == module_name else ""
            )
            raise AppNotFound(
                f"there is no module {exc.name!r} here; the working directory and the installed"
                f" packages were searched{hint}"
            ) from exc
        raise _failed(module_name, exc) from exc
    except (Exception, SystemExit) as exc:
        raise _failed(module_name, exc) from exc


def _failed(module_name: str, exc: BaseException) -> AppImportFailed:
    """Wrap what the module raised; the frames of the import machinery say nothing to its author."""
    ours = os.path.dirname(__file__) + os.sep
    frames = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)
        if "importlib" not in frame.filename and not frame.filename.startswith(ours)
    ]
    lines = [*traceback.format_list(frames), *traceback.format_exception_only(exc)]
    return AppImportFailed(f"importing {module_name!r} failed:\n" + "".join(lines).rstrip())
