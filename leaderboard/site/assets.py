"""Scripts and styles of the site: those of the installed packages and the site's own. Nothing is fetched."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moeload_bench.errors import MissingExtraError, MoeloadError

STATIC = Path(__file__).parent / "static"
_EXPORT = re.compile(r"export\{(?P<names>[^{}]*)\};?")


def asset_files() -> Iterator[tuple[str, bytes]]:
    """(path, content) of every asset."""
    for path in sorted(STATIC.iterdir()):
        yield f"assets/{path.name}", path.read_bytes()
    yield "assets/datatables.js", datatables_script().encode()
    yield "assets/vega.js", vega_script().encode()


def datatables_script() -> str:
    """DataTables of the installed itables, as a classic script: pages opened from disk cannot load modules."""
    try:
        import itables
    except ImportError:
        raise MissingExtraError("itables", "site", "the site's tables") from None
    source = (Path(itables.__file__).parent / "html" / "dt_bundle.js").read_text()
    exports = _EXPORT.findall(source)
    names = dict(reversed(pair.split(" as ")) for pair in exports[0].split(",")) if len(exports) == 1 else {}
    if "default" not in names:
        raise MoeloadError(f"itables {itables.__version__}: its bundle does not export DataTables as this site expects")
    return _scoped(_EXPORT.sub("", source) + f"\nwindow.DataTable = {names['default']};")


@functools.cache
def vega_script() -> str:
    """Vega, Vega-Lite and vega-embed of the installed vl-convert; bundling takes seconds, so once per process."""
    try:
        import vl_convert
    except ImportError:
        raise MissingExtraError("vl-convert-python", "site", "the site's charts") from None
    return _scoped(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def script_data(call: str, *arguments: Any) -> str:
    """Return a call with JSON arguments, as the text of a script; nothing in them can end a script element."""
    return f"{call}({','.join(map(json_text, arguments))});\n"


def json_text(value: Any) -> str:
    """JSON that is safe inside a script element and in a script file."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _scoped(source: str) -> str:
    """Return the script with its top-level names kept to itself."""
    return f"(() => {{\n{source}\n}})();\n"
