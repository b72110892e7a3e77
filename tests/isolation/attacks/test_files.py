"""Files of strangers: traces, archives, suites. Each is refused by name, at no cost, whatever it holds."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moeload_bench import bounds
from moeload_bench.bounds import check_depth, parse_json
from moeload_bench.cli.app import app
from moeload_bench.errors import MoeloadError, SuiteError, TraceError
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.ops.interchange.counts import read_npz
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.pages import chunks, page_bytes
from moeload_bench.traces.store import read_trace, write_trace
from tests.conftest import synthetic_trace

MIB = 2**20


def said_of(path: Path, read: Callable[[Path], object] = read_trace) -> str:
    """Why it was refused; asserts that it was, in one line."""
    with pytest.raises(MoeloadError) as caught:
        read(path)
    text = str(caught.value)
    assert path.name in text
    assert len(text) < 2000
    return text


def peak_mib(code: str, path: Path) -> float:
    """Run a script on a file in a process of its own, where it may raise what it likes; returns its peak memory."""
    script = f"import sys\npath = sys.argv[1]\ntry:\n    {code}\nexcept Exception:\n    pass\n"
    script += "print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout.partition("VmHWM:")[2].split()[0]) / 1024


READ = "from moeload_bench.traces.store import read_trace; read_trace(path)"
IMPORT = "from pathlib import Path; from moeload_bench.ops.interchange.counts import read_npz; read_npz(Path(path))"


# ------------------------------------------------------------------------------------------------ sizes


def swollen(path: Path, steps: int) -> Path:
    """A trace of 8 layers of 64 experts whose every count is the same: each column compresses to nothing."""
    part = min(steps, 8192)
    load = pa.FixedSizeListArray.from_arrays(pa.array(np.full(part * 512, 4, dtype=np.int64)), 64)
    columns = {
        "run": pa.array(np.zeros(part, dtype=np.int32)),
        "step": pa.array(np.zeros(part, dtype=np.int64)),
        "tokens": pa.FixedSizeListArray.from_arrays(pa.array(np.full(part * 8, 128, dtype=np.int64)), 8),
        "load": pa.FixedSizeListArray.from_arrays(load, 8),
    }
    layers = [{"index": i, "experts": 64, "top_k": 2} for i in range(8)]
    record = {"recipe": "x", "layers": layers, "experts": 64, "data_sha256": "", "meta_sha256": ""}
    table = pa.table(columns).replace_schema_metadata({"moeload": json.dumps(record)})
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(steps // part):
            writer.write_table(table)
    return path


@pytest.mark.slow
def test_a_small_file_that_decodes_to_much_is_refused_from_its_footer(tmp_path: Path) -> None:
    """Some kilobytes of parquet, a third of a gigabyte of loads: nothing is decoded."""
    path = swollen(tmp_path / "swollen.parquet", 10 * 8192)
    assert path.stat().st_size < 300_000
    assert "decoded, expected at most 268435456 for a file of" in said_of(path)
    assert peak_mib(READ, path) < 200
    assert peak_mib("import pyarrow.parquet as pq; pq.read_table(path)", path) > 300, "the attack works on Arrow"


def test_who_knows_a_file_may_raise_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an environment variable, which the message names; it must be a number."""
    monkeypatch.setattr(bounds, "FREE_BYTES", MIB)
    path = swollen(tmp_path / "swollen.parquet", 1024)
    assert f"{bounds.MAX_BYTES_ENV}=42" in said_of(path)
    monkeypatch.setenv(bounds.MAX_BYTES_ENV, str(8 * MIB))
    with pytest.raises(TraceError, match="repeat after step 0"):
        read_trace(path)
    monkeypatch.setenv(bounds.MAX_BYTES_ENV, "1G")
    with pytest.raises(TraceError, match="is '1G', expected a number of bytes"):
        read_trace(path)


def test_an_honest_file_has_no_need_of_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of a real training compress to a fifth."""
    monkeypatch.setattr(bounds, "FREE_BYTES", 0)
    assert read_trace(write_trace(synthetic_trace(2000), tmp_path / "t.parquet")).steps == 2000


def varint(number: int, width: int = 0) -> bytes:
    """A number as Thrift's compact protocol writes it, made longer where ``width`` says so: readers do not mind."""
    number, out = number << 1, bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    while len(out) < width:
        out[-1] |= 128
        out.append(0)
    return bytes(out)


@pytest.mark.slow
def test_a_page_larger_than_its_footer_says_is_refused(tmp_path: Path) -> None:
    """The footer is patched to speak of ten rows; the page's own header says what decompressing it would take."""
    steps = 60_000_000
    path = tmp_path / "lying.parquet"
    trace = synthetic_trace(10)
    with pq.ParquetFile(write_trace(trace, tmp_path / "t.parquet")) as file:
        metadata = file.schema_arrow.metadata
    columns = {"step": pa.array(np.zeros(steps, dtype=np.int64))}
    options: dict[str, Any] = {"use_dictionary": False, "data_page_size": 2**31 - 1, "write_batch_size": steps}
    if int(pa.__version__.partition(".")[0]) >= 23:
        options["max_rows_per_page"] = steps  # before, a page had as many as fit
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=steps, compression="zstd", **options)
    content = bytearray(path.read_bytes())
    start = len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]
    footer = bytes(content[start:-8])
    for number in (steps, steps * 8 + 81):
        footer = footer.replace(varint(number), varint(10, len(varint(number))))
    content[start:-8] = footer
    path.write_bytes(content)
    with pq.ParquetFile(path) as file:
        assert file.metadata.row_group(0).column(0).num_values == 10
        assert max(page_bytes(bytes(content), chunks(file.metadata), "")) >= 8 * steps
    arrow = "import pyarrow.parquet as pq; pq.ParquetFile(path).read()"
    assert peak_mib(arrow, path) > 400, "the attack works on Arrow"


def save_npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": shape})
    return header.getvalue() + content


def test_an_archive_with_an_empty_axis_of_many_layers_is_refused(tmp_path: Path) -> None:
    """Shape (0, 10^12, 4) holds no byte, and would make a record for each of its layers."""
    path = save_npz(tmp_path / "a.npz", load=npy((0, 10**12, 4)))
    assert "[0, 1000000000000, 4], expected no empty axis" in said_of(path, read_npz)
    assert peak_mib(IMPORT, path) < 300


def test_an_archive_of_many_layers_is_refused(tmp_path: Path) -> None:
    """Each would have a record in the metadata."""
    path = save_npz(tmp_path / "a.npz", load=npy((1, 2**20, 1), bytes(2**23)))
    assert "load has 1048576 layers" in said_of(path, read_npz)


def test_an_archive_that_unpacks_to_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros: a thousandth of their size."""
    monkeypatch.setattr(bounds, "FREE_BYTES", MIB)
    path = save_npz(tmp_path / "a.npz", load=npy((2**18, 1, 1), bytes(2**21)))
    assert "decoded, expected at most 1048576" in said_of(path, read_npz)


# ------------------------------------------------------------------------------------------------ no traceback


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def with_metadata(text: str | bytes) -> Callable[[Path], None]:
    return lambda path: rewritten(path, lambda table: table.replace_schema_metadata({"moeload": text}))


def with_fields(**fields: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        record = json.loads(pq.read_schema(path).metadata[b"moeload"]) | fields
        with_metadata(json.dumps(record))(path)

    return change


def with_column(name: str, column: pa.Array) -> Callable[[Path], None]:
    return lambda path: rewritten(path, lambda t: t.set_column(t.column_names.index(name), name, column))


def duplicate(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.append_column("loss", table.column("loss")), path)


def other_name(path: Path) -> None:
    """The same length, so that nothing else of the file moves."""
    path.write_bytes(path.read_bytes().replace(b"loss", b"lo\xff\xfe"))


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "metadata nested 100,000 deep": (with_metadata("[" * 100_000), "metadata is not JSON: nested deeper than 64"),
    "metadata nested in a field": (with_metadata('{"config": ' + '{"a":' * 5000 + "1" + "}" * 5001), "nested deeper"),
    "metadata of 5 MB": (with_metadata('{"a": "' + "x" * (5 << 20) + '"}'), "at most 4194304 are read"),
    "an infinity": (with_metadata('{"capacity_factor": Infinity}'), "holds Infinity, which is no number of JSON"),
    "an infinity in digits": (with_metadata('{"capacity_factor": 1e999}'), "holds 1e999, which is beyond a 64-bit"),
    "not a number": (with_metadata('{"capacity_factor": NaN}'), "holds NaN"),
    "a huge integer": (with_metadata('{"seed": ' + "9" * 100_000 + "}"), "holds 9+, which is beyond a 64-bit integer"),
    "a name twice": (with_metadata('{"config": {"a": 1, "a": 2}}'), "not JSON: 'a' occurs twice in one object"),
    "text that is not UTF-8": (with_metadata(b'{"recipe": "\xff\xfe"}'), "not JSON"),
    "a list": (with_metadata("[]"), "metadata is a JSON list"),
    "a field of the wrong kind": (with_fields(layers={"a": "b" * 10_000}), "metadata field layers"),
    "a column twice": (duplicate, "column 'loss' occurs 2 times, expected once"),
    "a name that is not UTF-8": (other_name, "not UTF-8|unknown column|not a readable parquet"),
    "strings for loads": (with_column("load", pa.array(["x" * 1000] * 40)), "column load has type string, expected"),
    "large lists": (
        with_column("load", pa.array([[[1, 2, 3, 4]] * 2] * 40, pa.large_list(pa.large_list(pa.int64())))),
        "column load has type large_list",
    ),
    "structs": (with_column("loss", pa.array([{"a": 1}] * 40)), "column loss has type struct"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_trace_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """Each with what is wrong, and by the command line in one line without a traceback."""
    make, message = HOSTILE[name]
    path = write_trace(synthetic_trace(40), tmp_path / "hostile.parquet")
    make(path)
    with pytest.raises(TraceError, match=message):
        read_trace(path)
    done = CliRunner().invoke(app, ["validate", str(path)])
    assert done.exit_code == 1
    assert done.output.startswith("refused ")
    assert done.output.count("\n") == 1


ARCHIVES: dict[str, tuple[bytes, str]] = {
    "a header of nested tuples": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, "not a NumPy ar"),
    "a header of a list as key": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 10) + b"{[]: 1}   ", "not a NumPy ar"),
    "a header of endless length": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1), "not a NumPy array"),
    "a version from the future": (b"\x93NUMPY\x09\x09" + bytes(64), "not a NumPy ar"),
    "negative axes": (npy((2, 1, 2), bytes(32)).replace(b"(2, 1, 2)", b"(-2,1,-2)"), "expected no empty axis"),
    "a shape of booleans": (npy((2, 1, 2), bytes(32)).replace(b"(2, 1, 2)", b"(2,True,2)"), "not a NumPy ar"),
    "dates": (npy((2, 1, 2), bytes(32)).replace(b"'<i8'", b"'M8' "), "expected plain numbers"),
    "records": (npy((2, 1, 2), bytes(32)).replace(b"'<i8'", b"'O'  "), "expected plain numbers"),
    "a terabyte in 128 bytes": (npy((2**37, 1, 1)), "in 128 bytes, expected plain numbers"),
    "nothing": (b"", "not a NumPy array"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """What stands for an array in it is anything."""
    content, message = ARCHIVES[name]
    assert message in said_of(save_npz(tmp_path / "a.npz", load=content), read_npz)


@pytest.mark.parametrize(("field", "value"), [("flags", 1), ("method", 99), ("method", 12)])
def test_an_encrypted_or_oddly_packed_archive_is_refused(field: str, value: int, tmp_path: Path) -> None:
    """Python says so by exceptions of other kinds."""
    path = tmp_path / "a.npz"
    np.savez(path, load=np.ones((2, 1, 2), dtype=np.int64))
    content = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x03\x04", {"flags": 6, "method": 8}), (b"PK\x01\x02", {"flags": 8, "method": 10})):
        where = content.index(magic) + at[field]
        content[where : where + 2] = struct.pack("<H", value)
    path.write_bytes(content)
    assert "not a NumPy archive" in said_of(path, read_npz)


SUITE = 'name = "x"\nhorizons = [1]\ntraces = []\n'
SUITES: dict[str, tuple[str, str]] = {
    "nested deep": ("a = " + "[" * 100_000, "nested too deep|not TOML"),
    "a huge integer": (SUITE + "seed = " + "9" * 10_000, "not TOML"),
    "a huge hexadecimal integer": (SUITE + "seed = 0x" + "f" * 10_000, "seed: .*got a number of 40000 bits"),
    "a huge origin": (
        'name = "x"\nhorizons = [1]\n[[traces]]\nid = "a/test/seed1"\ndata_sha256 = "' + "0" * 64 + '"\n'
        "stable = [0x" + "f" * 10_000 + "]",
        "traces.0.stable.0: .*got a number of",
    ),
    "an endless horizon": ('name = "x"\nhorizons = [1, 1000000000000000000]\ntraces = []', "horizons.1"),
    "an infinite rule": (SUITE + "[rule]\nlow = nan", "rule.low: .*finite number|rule: a state rule needs"),
    "a rule that is none": (SUITE + "[rule]\nhold = -1", "a state rule needs a hold"),
    "quantiles that are none": (SUITE.replace("traces", "quantiles = [0.5, 7.0]\ntraces"), "quantiles.1"),
    "a name that leads elsewhere": (SUITE.replace('"x"', '"a/../../b"'), "expected no '..'"),
    "another hub": (SUITE + '[hub]\nrepo = "../x"\nrevision = "main"', "hub.repo"),
    "too much of it": ("#" * (5 << 20), "bytes, at most"),
}


@pytest.mark.parametrize("name", SUITES)
def test_a_hostile_suite_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """Without a traceback, in one line."""
    text, message = SUITES[name]
    path = tmp_path / "hostile.toml"
    path.write_text(text)
    with pytest.raises(SuiteError, match=message) as caught:
        load_suite(path)
    assert len(str(caught.value)) < 1000


def test_a_suite_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Nor UTF-8."""
    (tmp_path / "hostile.toml").write_bytes(b'name = "\xff\xfe"')
    with pytest.raises(SuiteError, match="not TOML"):
        load_suite(tmp_path / "hostile.toml")


@pytest.mark.parametrize(
    ("baselines", "variants"),
    [
        ('["evil.x"]', '"evil.x" = "{path}:Forecaster"'),
        ('["evil.x"]', '"evil.x" = "evil_module:Forecaster"'),
        ('["{path}:Forecaster"]', ""),
        ('["evil_module:Forecaster"]', ""),
        ('["sw_avg"]', '"sw_avg" = "uniform"'),
        ('["sw_avg.w10"]', '"sw_avg.w10" = "uniform"'),
        ('["my.py:Mine"]', '"my.py:Mine" = "uniform"'),
    ],
)
def test_a_suite_names_baselines_only(baselines: str, variants: str, tmp_path: Path) -> None:
    """What a suite names runs without being asked for: a path or a module in it would be a stranger's code."""
    evil = tmp_path / "evil_module.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    text = f"baselines = {baselines}\n{SUITE}[variants]\n{variants}\n".replace("{path}", str(evil))
    (tmp_path / "hostile.toml").write_text(text)
    with pytest.raises(SuiteError, match=r"expected the name of a baseline|Extra inputs are not permitted"):
        evaluate(None, str(tmp_path / "hostile.toml"))
    assert not (tmp_path / "ran").exists()


def test_brackets_are_counted_in_linear_time() -> None:
    """Quotes and backslashes without end, 4 MB: a search that goes back at each of them would take hours."""
    for text in (b'"' + b'\\"' * 2_000_000, b'"\\' * 2_000_000, b"[]" * 2_000_000, b"\\" * 4_000_000):
        check_depth(text)


@pytest.mark.parametrize("text", ['{"a": "[[[[\\"]]"}', '"\\\\"', '{"\\\\": [1, {"b": "}"}]}', "[]", '"[" '])
def test_brackets_in_strings_do_not_count(text: str) -> None:
    """What is JSON of small depth is read as Python reads it."""
    assert parse_json(text, max_depth=3) == json.loads(text)


# ------------------------------------------------------------------------------------------------ text as text


@pytest.mark.parametrize(
    "text",
    [
        "[/]",
        "[link=https://evil.example]x[/link]",
        "[bold red]x",
        "\x1b[2J",
        "\x1b]8;;https://evil.example\x07x",
        ":smile:",
    ],
)
def test_what_stands_in_a_file_is_printed_as_text(text: str, tmp_path: Path) -> None:
    """Neither markup nor an escape reaches the terminal, and markup that is none ends nothing."""
    trace = synthetic_trace(400, licence=text, notes=(text,), config={text: text})
    path = write_trace(trace, tmp_path / "x" / "test" / "seed0.parquet")
    done = CliRunner().invoke(app, ["traces", "meta", str(path)])
    assert done.exit_code == 0, done.output
    shown = text if text.isprintable() else text.replace("\x1b", "\\u001b").replace("\x07", "\\u0007")
    assert shown in done.output.replace("\n", "").replace("  ", "")
    assert "\x1b" not in done.output
    damaged = write_trace(trace, tmp_path / "y.parquet")
    with_fields(family=text + "x", seed=text)(damaged)
    done = CliRunner().invoke(app, ["validate", str(damaged)])
    assert done.exit_code == 1
    assert "\x1b" not in done.output
