"""The state of an optimizer in a plan's order: training goes on as if nothing had moved, and the rest is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moeload_bench.errors import PlacementError
from moeload_bench.ops.interchange.checkpoints import permute_checkpoint, what_stays
from moeload_bench.ops.interchange.optimizer_states import Parameters, permute_optimizer
from tests.conftest import full_disk, need

torch = need("torch", "pip install '.[torch]'")
transformers = need("transformers", "pip install '.[record]'")

E, ORDER = 8, (3, 0, 7, 2, 5, 1, 6, 4)
ORDERS = {0: ORDER, 1: ORDER[::-1]}
HALF, STEPS = 6, 12


def config() -> Any:
    return transformers.AutoConfig.for_model(
        "qwen3_moe", vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        head_dim=16, intermediate_size=16, moe_intermediate_size=16, num_experts=E, num_experts_per_tok=2,
        max_position_embeddings=64, use_cache=False,
    )  # fmt: skip


class Tokens:
    def __len__(self) -> int:
        return 4 * STEPS

    def __getitem__(self, i: int) -> dict[str, Any]:
        ids = torch.randint(0, 96, (16,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": ids, "labels": ids}


def trainer(folder: Path, optim: str, checkpoint: Path | None = None) -> Any:
    """Its model is new, or that of a checkpoint: to resume alone loads no stacked experts (transformers 5.24)."""
    torch.manual_seed(0)
    args = transformers.TrainingArguments(
        str(folder), max_steps=STEPS, per_device_train_batch_size=4, save_steps=HALF, logging_steps=1, optim=optim,
        learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True, train_sampling_strategy="sequential",
    )  # fmt: skip
    kind = transformers.AutoModelForCausalLM
    model = kind.from_config(config()) if checkpoint is None else kind.from_pretrained(checkpoint)
    return transformers.Trainer(model=model, args=args, train_dataset=Tokens())


def losses(trained: Any) -> list[float]:
    """The losses after the checkpoint."""
    return [row["loss"] for row in trained.state.log_history if "loss" in row and row["step"] > HALF]


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_the_trainer_goes_on_with_equal_losses_from_a_permuted_checkpoint(optim: str, tmp_path: Path) -> None:
    """Within 1e-5; with the state of the old order they would be others."""
    torch.set_num_threads(1)
    unmoved = trainer(tmp_path / "whole", optim)
    unmoved.train()
    checkpoint = tmp_path / f"whole/checkpoint-{HALF}"
    assert what_stays(checkpoint) == []
    done = permute_checkpoint(checkpoint, ORDERS, tmp_path / "placed")
    moved = len(ORDERS) * 3  # of each layer the router, and two stacked tensors of experts
    assert done.states == (0 if optim == "sgd" else moved)  # without momentum SGD keeps nothing
    assert done.left_out == ()
    for name in ("scheduler.pt", "rng_state.pth", "trainer_state.json"):
        assert (tmp_path / "placed" / name).read_bytes() == (checkpoint / name).read_bytes()
    again = trainer(tmp_path / "again", optim, tmp_path / "placed")
    again.train(resume_from_checkpoint=str(tmp_path / "placed"))
    assert losses(again) == pytest.approx(losses(unmoved), abs=1e-5)
    if optim != "sgd":
        (tmp_path / "placed/optimizer.pt").write_bytes((checkpoint / "optimizer.pt").read_bytes())
        wrong = trainer(tmp_path / "wrong", optim, tmp_path / "placed")
        wrong.train(resume_from_checkpoint=str(tmp_path / "placed"))
        assert losses(wrong) != pytest.approx(losses(unmoved), abs=1e-5)
        factored = torch.load(checkpoint / "optimizer.pt", weights_only=True)
        factored["state"][0]["exp_avg_sq_row"] = torch.zeros(2)
        torch.save(factored, checkpoint / "optimizer.pt")
        assert "exp_avg_sq_row of model.embed_tokens.weight is unknown" in what_stays(checkpoint)[0]
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "optimizer_0").mkdir()
    assert what_stays(checkpoint) == [
        "not taken along: optimizer_0", "no optimizer.pt: the optimizer would begin without its state"
    ]  # fmt: skip


BATCHES = torch.randint(0, 96, (STEPS, 4, 16), generator=torch.Generator().manual_seed(0))


def started(weights: Path | None = None, named: bool = False) -> tuple[Any, Any]:
    """Return a model, new or that of a checkpoint, and its optimizer."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind = transformers.AutoModelForCausalLM
    model = kind.from_config(config()) if weights is None else kind.from_pretrained(weights)
    return model, torch.optim.AdamW(model.named_parameters() if named else model.parameters(), lr=1e-2)


def train(model: Any, optimizer: Any, tokens: Any) -> list[float]:
    """Train on these batches; return the losses."""
    found = []
    for batch in tokens:
        optimizer.zero_grad()
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("flat", [False, True])
def test_a_distributed_checkpoint_that_torch_converted_goes_on_with_equal_losses(flat: bool, tmp_path: Path) -> None:
    """States by the names of parameters, flattened or not, with the model's tensors in the same file."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
    from torch.distributed.checkpoint.state_dict_saver import save

    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = started()
    train(model, optimizer, BATCHES[:HALF])
    weights, states = get_state_dict(model, optimizer, options=options)
    save({"model": weights, "optim": states}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    dcp_to_torch_save(tmp_path / "dcp", folder / "optimizer.pt")
    expected = train(model, optimizer, BATCHES[HALF:])
    permute_checkpoint(folder, ORDERS, tmp_path / "placed")
    model, optimizer = started()
    saved = torch.load(tmp_path / "placed/optimizer.pt", weights_only=True)
    set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optim"], options=options)
    assert train(model, optimizer, BATCHES[HALF:]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("named", [False, True])
def test_a_plain_loop_goes_on_with_equal_losses(named: bool, tmp_path: Path) -> None:
    """The optimizer of `model.parameters()`, one group whose order is not the Trainer's; or of named parameters."""
    model, optimizer = started(None, named)
    train(model, optimizer, BATCHES[:HALF])
    checkpoint = tmp_path / "checkpoint"
    model.save_pretrained(checkpoint)
    torch.save(optimizer.state_dict(), checkpoint / "optimizer.pt")
    expected = train(model, optimizer, BATCHES[HALF:])
    assert permute_checkpoint(checkpoint, ORDERS, tmp_path / "placed").states == len(ORDERS) * 3
    model, optimizer = started(tmp_path / "placed", named)
    optimizer.load_state_dict(torch.load(tmp_path / "placed/optimizer.pt", weights_only=True))
    assert train(model, optimizer, BATCHES[HALF:]) == pytest.approx(expected, abs=1e-5)
    done = permute_checkpoint(checkpoint, ORDERS, tmp_path / "bare", optimizer=False)
    assert (done.left_out, (tmp_path / "bare/optimizer.pt").exists()) == (("optimizer.pt",), False)


GATE, UP = "model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.{}.up_proj.weight"


def saved_state(**change: Any) -> dict[str, Any]:
    """The state of a router and of two single experts, by name."""
    names = [GATE, UP.format(0), UP.format(1)]
    state = {name: {"step": torch.tensor(3.0), "exp_avg": torch.full((2, 4), float(i))} for i, name in enumerate(names)}
    return {"state": state, "param_groups": [{"lr": 0.1, "params": names}], **change}


def permuted(saved: Any, folder: Path) -> Any:
    shapes = {GATE: (2, 4), **{UP.format(i): (2, 4) for i in range(2)}}
    torch.save(saved, folder / "optimizer.pt")
    permute_optimizer(folder / "optimizer.pt", folder / "new.pt", Parameters(shapes, [[GATE], []]), {0: (1, 0)})
    return torch.load(folder / "new.pt", weights_only=True)


def test_states_of_single_experts_change_their_names(tmp_path: Path) -> None:
    """Expert 1's state is that of expert 0 in the new order; settings of groups stay."""
    new = permuted(saved_state(), tmp_path)
    assert [float(new["state"][UP.format(i)]["exp_avg"][0, 0]) for i in range(2)] == [2.0, 1.0]
    assert new["param_groups"] == [{"lr": 0.1, "params": [GATE, UP.format(1), UP.format(0)]}]


def numbered(*shapes: tuple[int, ...]) -> dict[str, Any]:
    """States by number in two groups of two parameters."""
    state = {n: {"exp_avg": torch.full(shape, float(n))} for n, shape in enumerate(shapes)}
    return {"state": state, "param_groups": [{"params": [0, 1]}, {"params": [2, 3]}]}


def test_numbers_mean_the_order_that_gives_each_state_its_shape(tmp_path: Path) -> None:
    """The Trainer's groups are (router, weight), (bias, norm), the model's order has the bias second.

    Where every parameter has one shape both fit. That is refused with what to do, as is a parameter too few.
    """
    names = [GATE, "bias", "weight", "norm"]
    trainer = [[GATE, "weight"], ["bias", "norm"]]

    def moved(saved: Any, shapes: Any) -> Any:
        torch.save(saved, tmp_path / "optimizer.pt")
        parameters = Parameters(dict(zip(names, shapes, strict=True)), trainer, names)
        permute_optimizer(tmp_path / "optimizer.pt", tmp_path / "new.pt", parameters, {0: (1, 0)})
        return torch.load(tmp_path / "new.pt", weights_only=True)

    own = ((2, 4), (4,), (3, 4), (4,))
    for order in (own, ((2, 4), (3, 4), (4,), (4,))):
        rows = torch.arange(2.0)[:, None].expand(2, 4).clone()
        saved = numbered(*order)
        saved["state"][0]["exp_avg"] = rows
        new = moved(saved, own)["state"]
        assert new[0]["exp_avg"][:, 0].tolist() == [1.0, 0.0]
        assert [float(new[n]["exp_avg"].flatten()[0]) for n in (1, 2, 3)] == [1.0, 2.0, 3.0]
    with pytest.raises(PlacementError, match=r"not known whose they are\. .*--without-optimizer: .* fresh moments"):
        moved(numbered(*[(2, 4)] * 4), [(2, 4)] * 4)
    short = numbered(*own[:3])
    short["param_groups"][1]["params"] = [2]
    with pytest.raises(PlacementError, match=r"\[2, 1\] parameters, expected \[2, 2\] .* or 4 in the order of model.*"):
        moved(short, own)


def _entry(name: str, value: Callable[[], Any]) -> dict[str, Any]:
    return saved_state(state={GATE: {"step": 1, name: value()}})


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        (_entry("exp_avg_sq_row", lambda: torch.zeros(2)), "exp_avg_sq_row of .*gate.weight is unknown; of AdamW"),
        (_entry("state1", lambda: torch.zeros(2, 4, dtype=torch.uint8)), "state1 of .* is unknown"),
        (_entry("exp_avg", lambda: torch.zeros(8)), r"has shape \(8,\), its parameter \(2, 4\)"),
        (_entry("exp_avg", lambda: [torch.zeros(2, 4)]), "is a list, expected a whole tensor"),
        (saved_state(state={"module.x": {}}), "module.x is no parameter; there is"),
        (saved_state(state={"model.layers.0.mlp.bias_u": {}}), "bias_u is unknown: it may belong"),
        (saved_state(state={UP.format(7): {}}), "optimizer.pt: "),
        (saved_state(state={0: {}}), r"its groups have \[3\] parameters, expected \[1, 0\]"),
        ({"optimizer": saved_state(), "ema": {"x": torch.zeros(3)}}, "a tensor in ema is unknown"),
        (saved_state(ema=[{"x": torch.zeros(3)}]), "a tensor in its settings is unknown"),
        ({"state": {0: {}}, "param_groups": [{"params": [0, 1], "param_names": [GATE, GATE]}]}, "does not name each"),
        (saved_state(state=[0]), "expected state as a dict, and param_groups as a list"),
        (saved_state(param_groups={"params": []}), "expected state as a dict, and param_groups as a list"),
        (saved_state(param_groups=[{"lr": 0.1}]), "expected state as a dict, and param_groups as a list"),
        (_entry("exp_avg", lambda: torch.zeros(1, 1).expand(2, 4)), "has 32 bytes, which the file does not hold for"),
        (saved_state(state={GATE: dict.fromkeys(("exp_avg", "exp_avg_sq"), torch.zeros(2, 4))}), "for it alone"),
        ({5: 2, "state.x": 1}, "5 is unknown beside an optimizer"),
        ({"weights": {"a": 1}}, "holds weights; expected an optimizer's state"),
        ({}, "holds nothing"),
        ([1], "holds a list"),
    ],
)  # fmt: skip
def test_a_state_that_is_not_adamws_or_sgds_is_refused_by_name(saved: Any, says: str, tmp_path: Path) -> None:
    """Factored, quantised, misshapen, of unknown parameters, or in a place that nothing is known of."""
    with pytest.raises(PlacementError, match=says):
        permuted(saved, tmp_path)


def test_a_state_that_torch_does_not_build_without_code_is_refused(tmp_path: Path) -> None:
    """A pickle of anything else, a damaged file, an empty one: one line."""
    for content in (b"", b"PK\x03\x04 damaged", b"\x80\x04cos\nsystem\n."):
        (tmp_path / "optimizer.pt").write_bytes(content)
        with pytest.raises(PlacementError, match="cannot read it"):
            permute_optimizer(tmp_path / "optimizer.pt", tmp_path / "new.pt", Parameters({}, [[], []]), {})


def test_a_full_disk_is_named_as_such(tmp_path: Path) -> None:
    """Torch itself says "unexpected pos 832 vs 726"."""
    torch.save(_entry("exp_avg", lambda: torch.zeros(2, 100_000)), tmp_path / "optimizer.pt")
    with full_disk(50_000), pytest.raises(OSError, match="large"):
        permute_optimizer(tmp_path / "optimizer.pt", tmp_path / "new.pt", Parameters({}, [[GATE], []]), {0: (1, 0)})


def test_a_state_that_contains_itself_or_nests_deep_is_refused(tmp_path: Path) -> None:
    """Lists of which each is in the next one twice would be looked through 2^70 times."""
    cycle: dict[str, Any] = {}
    cycle["state"] = cycle
    nested: Any = 0
    for _ in range(70):
        nested = [nested, nested]
    for saved in (cycle, saved_state(extra=nested)):
        with pytest.raises(PlacementError, match="it nests deeper than 64"):
            permuted(saved, tmp_path)


def rewritten(path: Path, change: Callable[[str, bytes], tuple[str, bytes]], **options: Any) -> None:
    """Write an archive again with other members."""
    with zipfile.ZipFile(path) as archive:
        members = [change(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)


ZEROS = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
"""A pickle of 2 GiB of zeros, which torch builds as plain data."""


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (lambda name, content: (name, content), {"compression": zipfile.ZIP_DEFLATED}, "is compressed"),
        (lambda name, content: (name, ZEROS if "data.pkl" in name else content), {}, "imports builtins bytearray"),
        (lambda name, content: (name.replace("byteorder", "DATA.pkl"), content), {}, "two members of one name"),
        (lambda name, content: (name, b"." if name.endswith("data.pkl") else content), {}, "cannot read it"),
    ],
)  # fmt: skip
def test_an_archive_that_torch_save_did_not_write_is_refused(
    change: Callable[[str, bytes], tuple[str, bytes]], options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    """Compressed members, a pickle that asks for gigabytes, a name that torch's reader could take for the pickle's."""
    torch.save(saved_state(), tmp_path / "optimizer.pt")
    rewritten(tmp_path / "optimizer.pt", change, **options)
    with pytest.raises(PlacementError, match=says):
        permute_optimizer(tmp_path / "optimizer.pt", tmp_path / "new.pt", Parameters({}, [[], []]), {})
