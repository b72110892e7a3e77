"""The cluster that advice is given for: where experts can go, and what moving them costs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import PlacementError, not_found
from moeload_bench.ops.interchange.placement_files import read_slots
from moeload_bench.placement.layouts import LAYOUTS, LINEAR, checked_layout, layout
from moeload_bench.placement.plans import ClusterShape, default_shape
from moeload_bench.placement.replan import CostModel
from moeload_bench.traces.meta import TraceMeta


class CostConstant(NamedTuple):
    """A constant of the cost model: its words, the option that states it, and what is assumed.

    ``worst``: the factor, half or twice, at which moving experts pays least. ``most``: the largest value that there is.
    ``of_live_moves``: of moves that an engine makes while training runs.
    """

    words: Callable[[float], str]
    option: str
    assumed: float
    worst: float
    most: float = math.inf
    of_live_moves: bool = False


CONSTANTS: Mapping[str, CostConstant] = {
    "step_ms": CostConstant(lambda x: f"steps of {x:,.4g} ms", "--step-ms", 100.0, 0.5),
    "expert_mb": CostConstant(lambda x: f"{x:,.4g} MB per expert", "--expert-mb", 200.0, 2.0, of_live_moves=True),
    "bandwidth_gb_s": CostConstant(
        lambda x: f"{x:,.4g} GB/s into a device", "--bandwidth", 25.0, 0.5, of_live_moves=True
    ),
    "expert_fraction": CostConstant(
        lambda x: f"{100 * x:.3g} % of a step waits for the most loaded device", "--expert-fraction", 0.5, 0.5, most=1.0
    ),
    "overlap": CostConstant(
        lambda x: f"{100 * x:g} % of a move is hidden behind training", "--overlap", 0.0, 0.5, 1.0, of_live_moves=True
    ),
    "replan_ms": CostConstant(lambda x: f"{x:g} ms for each re-plan", "--replan-ms", 0.0, 2.0, of_live_moves=True),
}
LEFT = "--steps-left"
"""The option that states the steps that the cost of a move is spread over."""
Source = Literal["stated", "measured", "of the model", "ASSUMED"]


class Constant(NamedTuple):
    """One constant of a run in words, where it comes from, and the option that states it.

    ``saved``: what the candidate taken saves at half and at twice an ASSUMED one, in percent of the step time, moves
    unchanged.
    """

    words: str
    source: Source
    option: str
    saved: tuple[float, float] | None = None

    @property
    def doubt(self) -> str:
        """Return the option, with how far the answer moves from half to twice the constant, where it does."""
        low, high = (0.0, 0.0) if self.saved is None else (round(value, 1) for value in self.saved)
        return self.option if low == high else f"{self.option}; half to twice: saves {low:.1f} to {high:.1f} %"


class Costs(NamedTuple):
    """The cost model of a run, and where each of its constants comes from.

    ``worst``: every assumed constant at its unfavourable end, and ``worst_price_factor``: the factor that assumed
    steps left put on what moves cost.
    """

    model: CostModel
    constants: tuple[Constant, ...]
    worst: CostModel
    worst_price_factor: float


@dataclass(frozen=True)
class Cluster:
    """One expert-parallel group and its costs, in the units of `moeload-bench plan` (docs/methods/placement.md).

    ``shape`` None: a slot for each expert on E / 4 devices (the next smaller divisor of E). ``current``: the layout in
    force when the run begins, one of `placement.layouts.LAYOUTS` or a placement file; None: linear, and called assumed.
    ``stated``: what you know of the cost model, as a whole or by name, such as ``{"expert_mb": 350}``. A constant that
    you do not state comes from the run (step time, part in experts, size of an expert) or its model (size of an
    expert); if these do not say it, it is assumed and called so.

    ``restart_minutes``: what a move takes where training restarts from a permuted checkpoint, which has no replicas: a
    slot for each expert. None: an engine moves experts while it runs.
    """

    shape: ClusterShape | None = None
    stated: CostModel | Mapping[str, float] = field(default_factory=dict)
    restart_minutes: float | None = None
    current: str | None = None

    def __post_init__(self) -> None:
        minutes = self.restart_minutes
        if minutes is not None:
            if not (math.isfinite(minutes) and minutes >= 0):
                raise PlacementError(f"restart_minutes is {minutes}, expected a finite number of at least 0")
            given = sorted(
                name for name, constant in CONSTANTS.items() if constant.of_live_moves and name in self._stated
            )
            if given:
                raise PlacementError(f"{', '.join(given)}: of moves while training runs, not of a restart")
        CostModel(
            **{name: constant.assumed for name, constant in CONSTANTS.items()} | self._stated
        )  # raises for what no cost model holds

    @property
    def _stated(self) -> dict[str, float]:
        return asdict(self.stated) if isinstance(self.stated, CostModel) else dict(self.stated)

    def shape_for(self, experts: int) -> ClusterShape | None:
        """Return the shape, or one that fits; None for models too small to have one (fewer than 4 experts).

        Raises `PlacementError` when the given shape does not hold so many experts.
        """
        if self.shape is not None:
            self.shape.check(experts)
            if self.restart_minutes is not None and self.shape.slots != experts:
                raise PlacementError(
                    f"{self.shape.slots} slots for {experts} experts: a permuted checkpoint has no replicas, expected "
                    f"{experts} slots"
                )
            return self.shape
        return default_shape(experts)

    @property
    def layout_name(self) -> str:
        """Return what the layout in force is called: `linear`, `round_robin`, or the file that has it."""
        return self.current or LINEAR

    def layout_LR(self, layers: Sequence[int], experts: int, shape: ClusterShape) -> IntArray:
        """Return the expert in each slot [L, R] when the run begins; ``layers``: their numbers in the model.

        Raise `PlacementError` for a file that holds no such layout, and as `read_slots`.
        """
        name = self.layout_name
        if name in LAYOUTS:
            return np.tile(layout(name, experts, shape), (len(layers), 1))
        if not Path(name).exists():
            raise not_found("layout", name, [*LAYOUTS, "FILE"])
        slots_LR = checked_layout(read_slots(Path(name), layers), experts, name)
        if slots_LR.shape[1] != shape.slots:
            raise PlacementError(
                f"{name}: {slots_LR.shape[1]} slots in a layer, expected {shape.slots}: say --slots {slots_LR.shape[1]}"
            )
        return slots_LR

    def costs(
        self, meta: TraceMeta, shape: ClusterShape, measured: Mapping[str, float], steps_left: int, steps_stated: bool
    ) -> Costs:
        """Return the costs for a run; ``measured``: constants by name that its rows say so far.

        ``steps_left``: what the cost of a move is spread over; ``steps_stated``: whether that is known.
        """
        restart, stated = self.restart_minutes, self._stated
        size, of_size, alone = expert_size(meta)
        note = "" if "expert_mb" in stated else alone
        if restart is not None:
            stated |= {"overlap": 1.0, "replan_ms": 60_000 * restart}
        sourced: dict[str, tuple[float, Source]] = {
            name: (constant.assumed, "ASSUMED") for name, constant in CONSTANTS.items()
        }
        sourced |= {name: (value, "measured") for name, value in measured.items()}
        sourced |= {} if size is None else {"expert_mb": (size, of_size)}
        sourced |= {name: (value, "stated") for name, value in stated.items()}
        model = {name: value for name, (value, _) in sourced.items()}
        assumed = [name for name, (_, source) in sourced.items() if source == "ASSUMED"]
        worst = model | {name: model[name] * CONSTANTS[name].worst for name in assumed}
        nodes = f" on {shape.nodes} nodes" if shape.nodes > 1 else ""
        spare = (shape.slots - meta.experts) / shape.devices * len(meta.layers)
        room = f" (the spare ones take {spare * model['expert_mb']:,.0f} MB more on a device)" if spare else ""
        where = f"{shape.devices} devices with {shape.slots} slots{nodes}{room}"
        constants = [Constant(where, "ASSUMED" if self.shape is None else "stated", "--devices, --slots")]
        source: Source = "ASSUMED" if self.current is None else "stated"
        constants.append(Constant(f"{self.layout_name} layout in force", source, "--current"))
        for name, (value, source) in sourced.items():
            constant = CONSTANTS[name]
            if restart is None or not constant.of_live_moves:
                words = constant.words(value) + (note if name == "expert_mb" else "")
                constants.append(Constant(words, source, constant.option))
        if restart is not None:
            constants.append(Constant(f"{restart:g} minutes for each restart", "stated", "--restart-minutes"))
        left = f"cost of a move spread over {steps_left:,} steps left"
        if steps_stated:
            constants.append(Constant(left, "stated", LEFT))
        else:
            constants.append(Constant(f"{left}, as many again as were seen", "ASSUMED", LEFT))
        return Costs(CostModel(**model), tuple(constants), CostModel(**worst), 1.0 if steps_stated else 2.0)

    @property
    def options(self) -> str:
        """Return the options of the commands that state this cluster; what is assumed stays so."""
        shape, options = self.shape, {}
        if shape is not None:
            options = {"--devices": shape.devices, "--slots": shape.slots}
            if shape.nodes > 1:
                options["--nodes"] = shape.nodes
            if shape.groups != shape.nodes:
                options["--groups"] = shape.groups
        numbers = {CONSTANTS[name].option: f"{value:.12g}" for name, value in self._stated.items()}
        if self.restart_minutes is not None:
            numbers |= {"--move": "restart", "--restart-minutes": f"{self.restart_minutes:.12g}"}
        if self.current is not None:
            numbers |= {"--current": shlex.quote(self.current)}
        return "".join(f" {name} {value}" for name, value in {**options, **numbers}.items())


def expert_size(meta: TraceMeta) -> tuple[float | None, Source, str]:
    """Return the MB of one expert, where they come from, and " (weights alone)" where the optimizer's state is lacking.

    Measured weights and state come first, then the model's configuration, then measured weights.
    """
    expert, of_model = meta.expert, expert_mb(meta)
    if expert is not None and expert.weight_bytes is not None and expert.state_bytes is not None:
        return (expert.weight_bytes + expert.state_bytes) / 1e6, "measured", ""
    alone = "" if meta.optimizer.get("name") else " (weights alone)"
    if of_model is None and expert is not None and expert.weight_bytes is not None:
        return expert.weight_bytes / 1e6, "measured", " (weights alone)"
    return of_model, "ASSUMED" if of_model is None else "of the model", alone if of_model is not None else ""


def expert_mb(meta: TraceMeta) -> float | None:
    """Return the MB of one expert's weights and optimizer state, None if the model's configuration does not say them.

    Three matrices of a gated expert, two of a Switch Transformer; Adam keeps two moments in fp32, and a copy of the
    weights in fp32 where these are shorter. For example, 3 x 4096 x 1536 in bf16 with AdamW: 264 MB.
    """
    config: Mapping[str, Any] = meta.config
    hidden = config.get("hidden_size") or config.get("d_model")
    inner = config.get("moe_intermediate_size") or config.get("intermediate_size") or config.get("d_ff")
    if not isinstance(hidden, int) or not isinstance(inner, int):
        return None
    weight = 2 if meta.precision.lower() in ("bf16", "fp16", "bfloat16", "float16") else 4
    adam = (8 if weight == 4 else 12) if "adam" in str(meta.optimizer.get("name", "")).lower() else 0
    return (2 if "switch" in meta.family else 3) * hidden * inner * (weight + adam) / 1e6
