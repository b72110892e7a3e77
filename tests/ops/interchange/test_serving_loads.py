"""Load histories and arrays of routed experts: what is counted, what is left out, and which layers a log lacks."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import MissingExtraError, TraceError
from moeload_bench.ops.interchange.importing import FORMATS, import_log
from moeload_bench.ops.interchange.load_history import read_load_history
from moeload_bench.ops.interchange.model_layers import layers_of, read_layers
from moeload_bench.ops.interchange.routed import read_routed
from moeload_bench.ops.interchange.rows import Options
from moeload_bench.ops.interchange.wandb import read_wandb
from moeload_bench.traces.store import read_trace
from tests.support.foreign import logs
from tests.support.foreign.formats import CHOSEN, TORCH, imported, made

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide" / "interchange.md"
LINES = re.findall(
    r"^\|.*\| `(moeload-bench import .* --out run.parquet)` \|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE
)
DEEPSEEK = {"num_hidden_layers": 5, "first_k_dense_replace": 2, "moe_layer_freq": 1, "num_nextn_predict_layers": 1}


@pytest.mark.parametrize("line", LINES, ids=[line.split()[2] for line in LINES])
def test_what_you_type_for_what_you_have_reads_a_sample(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line of the guide's first table, on a log in the form of its engine, gives the counts that were routed."""
    words = shlex.split(line)[1:]
    name, source = words[1], tmp_path / words[2]
    if name == "megatron-tokens" and "--expert-parallel" not in words:
        folder, chosen = logs.megatron_tokens(tmp_path / name, CHOSEN[:, :1], expert=1, pipeline=1), CHOSEN[:, :1]
    else:
        folder, chosen = made(name, tmp_path), CHOSEN
    place = source.parent if source.suffix else source
    place.parent.mkdir(parents=True, exist_ok=True)
    for file in [folder] if place != tmp_path else folder.iterdir():
        file.rename(place if place != tmp_path else tmp_path / file.name)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exception is None, f"{done.output} {done.exception}"
    np.testing.assert_array_equal(read_trace(tmp_path / "run.parquet").load_SLE, logs.truth(chosen))


def test_the_table_has_a_line_for_every_format() -> None:
    """Formats that need torch too."""
    assert {line.split()[2] for line in LINES} == {one.name for one in FORMATS}
    assert set(TORCH) <= {line.split()[2] for line in LINES}


def test_a_history_of_losses_says_that_no_loads_follow(tmp_path: Path) -> None:
    """What trl and Megatron-LM log by default."""
    (tmp_path / "history.csv").write_text("step,aux_loss,loss\n0,1.0,2.0\n")
    with pytest.raises(TraceError, match="'aux_loss' sums up all experts, and no loads follow from it"):
        read_wandb([tmp_path / "history.csv"])


def test_entries_of_a_history_add_up_their_interval(tmp_path: Path) -> None:
    """Steps are multiples of the interval, and the trace says how many a row counts."""
    folder = logs.load_history(tmp_path / "log", CHOSEN)
    trace = import_log(folder, tmp_path / "out.parquet", format="load-history", interval=50, top_k=2)
    assert (trace.step_S.tolist(), trace.meta.row_steps, trace.meta.stride) == ([0, 50, 100], 50, 50)


def test_a_history_without_its_reader_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ijson is not a part of the core."""
    monkeypatch.setitem(sys.modules, "ijson", None)
    with pytest.raises(MissingExtraError, match=r"moeload-bench\[import\]"):
        read_load_history([logs.load_history(tmp_path / "log", CHOSEN)])


@pytest.mark.slow
def test_a_history_of_224_mb_takes_less_than_300_mib(tmp_path: Path) -> None:
    """As the one that circulates: 58 layers x 256 experts."""
    rng = np.random.default_rng(0)
    loads = [rng.multinomial(80_000, rng.dirichlet(np.full(256, 0.5)), size=58).tolist() for _ in range(16)]
    texts = [json.dumps({"logical_expert_load": load}) for load in loads]
    size = sum(map(len, texts))
    path = tmp_path / "expert-load.json"
    with path.open("w", encoding="utf-8") as file:
        file.write('{"load_history": [' + ", ".join(texts * (224_000_000 // size + 1)) + "]}")
    command = [sys.executable, "-m", "moeload_bench", "import", "load-history", str(path), "--top-k", "8", "--out"]
    code = f"""
import resource, subprocess
subprocess.run({[*command, str(tmp_path / "out.parquet")]!r}, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout.split()[-1]) * unit < 300 << 20


def test_a_log_of_very_many_layers_is_refused(tmp_path: Path) -> None:
    """Each has a record in the metadata: three million of them in 12 MB of JSON took four minutes."""
    np.save(tmp_path / "a.npy", np.full((1, 1 << 17, 2), [0, 1], dtype=np.int8))
    with pytest.raises(TraceError, match="131072 layers, expected at most 65536"):
        imported("routed", tmp_path / "a.npy", tmp_path / "out.parquet")


def test_padding_is_left_out_and_counted(tmp_path: Path) -> None:
    """-1 in each place, or one id in each place; a batch of sequences is one step."""
    index_TLK = CHOSEN[0, 0].swapaxes(0, 1)
    padded = np.concatenate([index_TLK, np.zeros_like(index_TLK), np.full_like(index_TLK, -1)])
    np.save(tmp_path / "batch.npy", padded.reshape(3, -1, *padded.shape[1:]))
    log = read_routed([tmp_path], 8)
    (row,) = log.rows
    np.testing.assert_array_equal(row.load_LE, logs.load_of(CHOSEN[0, 0]))
    assert row.tokens_L is not None
    assert row.tokens_L.tolist() == [12] * 4
    assert "24 tokens without experts left out as padding" in log.notes


def test_dense_layers_of_routed_arrays_have_to_be_named(tmp_path: Path) -> None:
    """An array with a place for every layer of the model: the first ones hold -1, or zeros."""
    index_TLK = CHOSEN[0, 0].swapaxes(0, 1)
    dense = np.concatenate([np.full_like(index_TLK[:, :1], -1), np.zeros_like(index_TLK[:, :1]), index_TLK], axis=1)
    np.save(tmp_path / "request.npy", dense)
    np.save(tmp_path / "request2.npy", np.concatenate([dense, np.full_like(dense, -1)]))
    with pytest.raises(TraceError, match="no token has experts in layers 0-1: if these are dense, say --layers 2-5"):
        import_log(tmp_path, tmp_path / "out.parquet", format="routed", experts=8)
    trace = import_log(tmp_path, tmp_path / "out.parquet", format="routed", experts=8, layers=range(2, 6))
    assert [layer.index for layer in trace.meta.layers] == [2, 3, 4, 5]
    assert {"layers 0-1 hold no experts and are left out", "12 tokens without experts left out as padding"} <= set(
        trace.meta.notes
    )


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (DEEPSEEK, ((2, 3, 4), (5,))),
        ({"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]}, ((1, 5), ())),
        ({"num_hidden_layers": 4, "moe_layers": [1, 3]}, ((1, 3), ())),
        ({"num_hidden_layers": 3, "mlp_layer_types": ["dense", "sparse", "sparse"]}, ((1, 2), ())),
    ],
    ids=["DeepSeek", "Qwen", "Llama 4", "GLM"],
)
def test_a_models_configuration_says_which_layers_are_moe(
    config: dict[str, object], layers: tuple[object, ...]
) -> None:
    """And which of them are of multi-token prediction."""
    assert layers_of(config) == layers


@pytest.mark.parametrize(
    "text", ["[]", "[" * 9999, "{}", '{"num_hidden_layers": 1e400}', '{"num_hidden_layers": 4611686018427387904}']
)
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    """In one line, by name."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TraceError, match=r"config\.json: expected the config\.json of a MoE model"):
        read_layers(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("found", "layers", "predicting", "numbers", "absent"),
    [
        (
            range(3),
            (2, 3, 4, 5),
            (5,),
            (2, 3, 4),
            ["layers of the model that the log lacks: 5 (multi-token prediction)"],
        ),
        (range(4), (2, 3, 4, 5), (5,), (2, 3, 4, 5), []),
        ((2, 3, 4), (2, 3, 4, 5), (), (2, 3, 4), ["layers of the model that the log lacks: 5"]),
        ((2, 4), (2, 3, 4), (), (2, 4), ["layers of the model that the log lacks: 3"]),
    ],
)
def test_layers_that_a_log_lacks_are_named(
    found: tuple[int, ...], layers: tuple[int, ...], predicting: tuple[int, ...], numbers: object, absent: list[str]
) -> None:
    """Where the log's own numbers, or the model's configuration, say which."""
    options = Options(layers=layers, predicting=predicting)
    assert options.numbered(tuple(found), "a.log") == numbers
    assert options.absent(options.numbered(tuple(found), "a.log")) == absent


def test_layers_that_nobody_can_tell_are_refused() -> None:
    """A log that numbers its layers from 0 and lacks one: it may be any."""
    with pytest.raises(TraceError, match="got the numbers of 4 layers, expected 3"):
        Options(layers=(2, 3, 4, 5)).numbered((0, 1, 2), "a.log")


def test_the_command_takes_the_models_configuration(tmp_path: Path) -> None:
    """`--model config.json` numbers the layers and names the one that hooks skipped."""
    (tmp_path / "config.json").write_text(json.dumps({**DEEPSEEK, "num_hidden_layers": 6}))
    folder = made("csv", tmp_path)
    words = ["import", "csv", str(folder / "counts.csv"), "--model", str(tmp_path / "config.json"), "--out"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "out.parquet")])
    assert "4 layers (numbers 2-5)" in done.output
    assert "layers of the model that the log lacks: 6 (multi-token prediction)" in done.output
