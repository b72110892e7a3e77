"""The optimizer's state of a checkpoint in a plan's order: what AdamW and SGD keep of an expert moves with it.

Read are the `optimizer.pt` of transformers' Trainer and of other loops, whose states have numbers, and the file that
torch's own `dcp_to_torch` makes of a distributed checkpoint, whose states have the names of parameters. A number means
the name that its group gives (`param_names`, of an optimizer made from `named_parameters()`); else the place in the
Trainer's groups or in `model.parameters()`, whichever gives each state the shape of its parameter. All are read by
`torch.load(weights_only=True)`, which runs no code, from an archive whose pickle imports nothing but what builds plain
tensors.

Axis letters: E experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from moeload_bench.errors import PlacementError, printable
from moeload_bench.ops.interchange.torch_archive import check_archive, imported_names

OPTIMIZER = "optimizer.pt"
KEPT = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
"""What AdamW and SGD keep of a parameter, in its shape."""
COUNTED = ("step",)
"""What they keep of it in one number."""
REMEDY = (
    "Make the optimizer from model.named_parameters(), which names them (torch 2.6), or leave it behind by "
    "--without-optimizer: training then goes on with fresh moments, and its loss may rise for some steps"
)
_WRAPPED = re.compile(r"^(module\.|_orig_mod\.)+")
"""What DDP and `torch.compile` put before the names of parameters."""
NUMBER = "(0|[1-9][0-9]{0,5})"
_BLOCK = re.compile(rf"(?s)((?:.*\.)?layers\.{NUMBER}\.(?:mlp|block_sparse_moe)\.)(?:experts\.{NUMBER}\.)?(.+)")
_PLAIN = re.compile(
    r"torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)|torch Size|collections OrderedDict"
    r"|torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)
"""What a pickle of plain tensors imports."""
MAX_DEPTH = 64
"""Of containers in each other."""
_BY_ROWS = re.compile(
    r"(gate|router|router\.layer)\.(weight|bias|e_score_correction_bias)|experts\..+|(input|output)_linear\.weight"
)
"""Tensors of a block that have a row for each expert: the router's, and stacked ones."""
SHARED = r"shared_experts?\..+|shared_expert_gate\..+"
"""Tensors of a block that every token uses: they stay."""


@dataclass(frozen=True)
class Parameters:
    """The parameters of a model: ``shapes`` by name, buffers too; ``groups`` as the Trainer makes them.

    ``names``: in the order of `model.parameters()`.
    """

    shapes: Mapping[str, tuple[int, ...]]
    groups: Sequence[Sequence[str]]
    names: Sequence[str] = ()


class NewPlace(NamedTuple):
    """Where a tensor is in the new order: its name there, and the order of its rows, None where they stay."""

    name: str
    order: Sequence[int] | None


class Orders:
    """The order of the experts of some layers, by the layer's number: the expert of each slot."""

    def __init__(self, orders: Mapping[int, Sequence[int]]) -> None:
        self._orders = orders
        self._slots = {layer: {expert: slot for slot, expert in enumerate(order)} for layer, order in orders.items()}

    def place(self, name: str) -> NewPlace:
        """Return where a tensor is in the new order; raise `PlacementError` for one of a block that is unknown."""
        match = _BLOCK.fullmatch(name)
        if match is None or int(match[2]) not in self._orders:
            return NewPlace(name, None)
        layer, expert, tail = int(match[2]), match[3], match[4]
        if expert is not None:
            slot = self._slots[layer].get(int(expert))
            if slot is None:
                raise PlacementError(f"{name}: the plan has no expert {expert} in layer {layer}")
            return NewPlace(f"{match[1]}experts.{slot}.{tail}", None)
        if _BY_ROWS.fullmatch(tail):
            return NewPlace(name, self._orders[layer])
        if not re.fullmatch(SHARED, tail):
            raise PlacementError(f"{name} is unknown: it may belong to the router or to experts")
        return NewPlace(name, None)


def parameters_of(checkpoint: Path, layers: int) -> Parameters:
    """Return the parameters of the model that a checkpoint's config describes, built without memory for weights.

    ``layers``: how many the weights have at most. Raise `PlacementError` where transformers is missing, where the
    config has more layers, or where no model can be made of it.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, Trainer
    except ImportError as error:
        raise PlacementError(
            f"{checkpoint / OPTIMIZER}: its states are numbered as the Trainer groups parameters, which needs "
            f"{error.name}: pip install 'moeload-bench[record]'"
        ) from None
    try:
        config = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
        if config.num_hidden_layers > layers:
            raise PlacementError(
                f"{checkpoint}/config.json: num_hidden_layers is {config.num_hidden_layers}, the weights have {layers}"
            )
        with torch.device("meta"):  # eager: a name in the config could otherwise have a kernel loaded from the Hub
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", trust_remote_code=False)
        model.tie_weights()
    except PlacementError:
        raise
    except Exception as error:  # whatever transformers raises at a config that it cannot build
        text = printable(str(error))[:200]
        raise PlacementError(f"{checkpoint}/config.json: no model can be made of it: {text}") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in (*model.named_buffers(), *model.named_parameters())}
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    names = [name for name, _ in model.named_parameters()]
    return Parameters(shapes, [[n for n in names if n in decayed], [n for n in names if n not in decayed]], names)


def permute_optimizer(
    path: Path, target: Path | None, parameters: Parameters, orders: Mapping[int, Sequence[int]]
) -> int:
    """Write the state at ``path`` in the new order to ``target`` (None: check alone); return how many parameters'
    states moved.

    Raise `PlacementError` for a file of another form, a state that is not AdamW's or SGD's (factored, sharded,
    quantised: by name), one in another shape than its parameter, and numbers that are not the Trainer's.
    """
    states = _States(path, parameters, Orders(orders), set(), set())
    permuted = states.permuted(_loaded(path))
    if target is not None:
        _save(permuted, target)
    return len(states.moved)


def _save(states: Any, target: Path) -> None:
    """Write states; raise `OSError` where the disk cannot take them."""
    import torch

    with target.open("wb") as file:
        try:
            torch.save(states, file)
        except RuntimeError as error:  # raised over the error of a full disk
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def _loaded(path: Path) -> Any:
    """Return what a file holds; raise `PlacementError` for one that is not of plain tensors, numbers and texts."""
    import torch

    try:
        check_archive(path, path.stat().st_size)
        unwanted = next((name for name in imported_names(path) if not _PLAIN.fullmatch(name)), None)
        if unwanted is not None:
            raise ValueError(f"it imports {printable(unwanted)[:80]}")
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        for _ in _levels(saved):
            pass
    except Exception as error:  # a stranger's pickle can raise almost anything
        text = printable(" ".join(str(error).split()))[:200]
        raise PlacementError(
            f"{path}: torch.load(weights_only=True) cannot read it ({text}); expected what the Trainer or "
            "`dcp_to_torch` wrote, with plain tensors"
        ) from None
    return saved


@dataclass(frozen=True)
class _States:
    path: Path
    parameters: Parameters
    orders: Orders
    moved: set[str]
    storages: set[int]
    """Of tensors whose rows were moved, by address: a second one on them would take memory without bytes of its own."""

    def permuted(self, saved: Any) -> Any:
        """Return what was saved in the new order: one optimizer's state, or one beside the model's tensors."""
        if not isinstance(saved, dict):
            raise PlacementError(f"{self.path}: holds a {type(saved).__name__}, expected a dict")
        if (state := self._optimizer(saved)) is not None:
            return state
        parts = {key: self._part(value) for key, value in saved.items() if isinstance(value, dict)}
        parts = {key: part for key, part in parts.items() if part is not None}
        if not parts:
            keys = ", ".join(printable(str(key)) for key in list(saved)[:8]) or "nothing"
            raise PlacementError(f"{self.path}: holds {keys}; expected an optimizer's state and param_groups")
        self._refuse_tensors({key: value for key, value in saved.items() if key not in parts})
        return {**saved, **parts}

    def _part(self, value: dict[Any, Any]) -> dict[Any, Any] | None:
        """Return the model's tensors or an optimizer's state in the new order, None for anything else."""
        if value and all(self._is_parameter(name) for name in value):
            return dict(self._tensor(name, "", tensor) for name, tensor in value.items())
        return self._optimizer(value)

    def _is_parameter(self, name: Any) -> bool:
        return name in self.parameters.shapes or (isinstance(name, str) and _BLOCK.fullmatch(name) is not None)

    def _optimizer(self, saved: Mapping[Any, Any]) -> dict[Any, Any] | None:
        """Return an optimizer's state in the new order, None for anything else."""
        if "state" not in saved or "param_groups" not in saved:
            flat = any(isinstance(key, str) and key.startswith("state.") for key in saved)
            return self._flattened(saved) if flat else None
        states, groups = saved["state"], saved["param_groups"]
        lists = isinstance(groups, list) and all(
            isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups
        )
        if not isinstance(states, dict) or not lists:
            raise PlacementError(
                f"{self.path}: expected state as a dict, and param_groups as a list of dicts with params"
            )
        self._refuse_tensors({"its settings": [value for key, value in saved.items() if key != "state"]})
        if all(isinstance(number, int) for number in states):
            return {**saved, "state": self._states_by_number(states, groups)}
        state = {self._place(name).name: self._entries(name, entries) for name, entries in states.items()}
        renamed = [{**group, "params": [self._place(name).name for name in group["params"]]} for group in groups]
        return {**saved, "state": state, "param_groups": renamed}

    def _states_by_number(self, states: Mapping[int, Any], groups: Sequence[Mapping[str, Any]]) -> dict[int, Any]:
        """Return states by number: each group's parameters have the numbers that follow those of the one before."""
        names = self._names(states, groups)
        number_of = {name: number for number, name in enumerate(names)}
        state = {}
        for number, entries in states.items():
            if not 0 <= number < len(names):
                raise PlacementError(f"{self.path}: state of parameter {number}, there are {len(names)}")
            new = self._place(names[number]).name
            if new not in number_of:
                raise PlacementError(f"{self.path}: it has {names[number]} without {new}, where its state would go")
            state[number_of[new]] = self._entries(names[number], entries)
        return state

    def _names(self, states: Mapping[int, Any], groups: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the name of each numbered parameter; raise `PlacementError` where it is not known, with the remedy."""
        if all(isinstance(group.get("param_names"), list) for group in groups):
            named = [_WRAPPED.sub("", str(name)) for group in groups for name in group["param_names"]]
            if len(set(named)) != sum(len(group["params"]) for group in groups):
                raise PlacementError(f"{self.path}: param_names does not name each parameter of its groups once")
            return named
        sizes = [len(group["params"]) for group in groups]
        trainer = [name for group in self.parameters.groups for name in group]
        orders = [trainer] if sizes == [len(group) for group in self.parameters.groups] else []
        if sum(sizes) == len(self.parameters.names) and self.parameters.names != trainer:
            orders.append(list(self.parameters.names))
        if not orders:
            expected = [len(group) for group in self.parameters.groups]
            raise PlacementError(
                f"{self.path}: its groups have {sizes} parameters, expected {expected} as the Trainer groups them, or "
                f"{len(self.parameters.names)} in the order of model.parameters(): frozen or added parameters? {REMEDY}"
            )
        fitting = [names for names in orders if self._fits(names, states)] or orders[:1]
        if any([names[n] for n in states] != [fitting[0][n] for n in states] for names in fitting[1:]):
            raise PlacementError(
                f"{self.path}: its states fit the parameters both as the Trainer groups them and in the order of "
                f"model.parameters(), so it is not known whose they are. {REMEDY}"
            )
        return fitting[0]

    def _fits(self, names: Sequence[str], states: Mapping[int, Any]) -> bool:
        """Return whether each state has the shape of its parameter."""
        return all(
            tuple(value.shape) == self.parameters.shapes[names[number]]
            for number, entries in states.items()
            if 0 <= number < len(names) and isinstance(entries, dict)
            for entry, value in entries.items()
            if entry in KEPT and hasattr(value, "shape")
        )

    def _flattened(self, saved: Mapping[str, Any]) -> dict[Any, Any]:
        """Return states whose keys are `state.PARAMETER.ENTRY`, beside `param_groups.PARAMETER.SETTING`."""
        out = {}
        for key, value in saved.items():
            kind, _, rest = str(key).partition(".")
            name, _, entry = rest.rpartition(".")
            if kind == "state":
                new, out_value = self._tensor(name, entry, value)
                out[f"state.{new}.{entry}"] = out_value
            elif kind == "param_groups":
                self._refuse_tensors({key: value})
                out[f"param_groups.{self._place(name).name}.{entry}"] = value
            else:
                raise PlacementError(f"{self.path}: {printable(str(key))} is unknown beside an optimizer's state")
        return out

    def _entries(self, name: str, entries: Any) -> dict[str, Any]:
        if not isinstance(entries, dict):
            raise PlacementError(f"{self.path}: the state of {name} is a {type(entries).__name__}, expected a dict")
        return {entry: self._tensor(name, entry, value)[1] for entry, value in entries.items()}

    def _tensor(self, name: str, entry: str, value: Any) -> tuple[str, Any]:
        """Return the new name of a parameter, and a value that is kept of it ("" for the parameter itself)."""
        import torch

        place = self._place(name)
        if entry in COUNTED or value is None:
            return place.name, value
        what = f"{self.path}: {printable(str(entry)) or 'the tensor'} of {name}"
        if entry and entry not in KEPT:
            raise PlacementError(f"{what} is unknown; of AdamW and SGD there are {', '.join((*KEPT, *COUNTED))}")
        if type(value) is not torch.Tensor and type(value) is not torch.nn.Parameter:
            raise PlacementError(f"{what} is a {type(value).__name__}, expected a whole tensor")
        shape = self.parameters.shapes.get(name)
        if shape is not None and tuple(value.shape) != shape:
            raise PlacementError(f"{what} has shape {tuple(value.shape)}, its parameter {shape}")
        if place.name != name or place.order is not None:
            self.moved.add(name)
        if place.order is None:
            return place.name, value
        if value.shape[:1] != (len(place.order),):
            raise PlacementError(f"{what} has shape {tuple(value.shape)}, expected {len(place.order)} rows")
        storage = value.untyped_storage()
        if value.nbytes and (value.nbytes > storage.nbytes() or storage.data_ptr() in self.storages):
            raise PlacementError(f"{what} has {value.nbytes} bytes, which the file does not hold for it alone")
        self.storages.add(storage.data_ptr())
        rows = list(place.order)
        return place.name, value if rows == sorted(rows) else value[rows]

    def _place(self, name: Any) -> NewPlace:
        if not self._is_parameter(name):
            some = ", ".join(list(self.parameters.shapes)[:3])
            raise PlacementError(f"{self.path}: {printable(str(name))[:200]} is no parameter; there is {some}, ...")
        try:
            return self.orders.place(name)
        except PlacementError as error:
            raise PlacementError(f"{self.path}: {error}") from None

    def _refuse_tensors(self, values: Mapping[Any, Any]) -> None:
        """Raise `PlacementError` for a tensor in a place that nothing is known of."""
        import torch

        for where, value in values.items():
            if any(torch.is_tensor(leaf) and leaf.dim() for level in _levels(value) for leaf in level):
                place = printable(str(where))
                raise PlacementError(f"{self.path}: a tensor in {place} is unknown: it may belong to experts")


def _levels(value: Any) -> Iterator[list[Any]]:
    """Yield a value, what it contains, what that contains: each container once in a level, however many contain it.

    Raise `ValueError` from the level `MAX_DEPTH` on, as for a container that contains itself.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        yield level
        containers = {id(value): value for value in level if isinstance(value, dict | list | tuple)}.values()
        level = [child for value in containers for child in (value.values() if isinstance(value, dict) else value)]
        if not level:
            return
    raise ValueError(f"it nests deeper than {MAX_DEPTH}")
