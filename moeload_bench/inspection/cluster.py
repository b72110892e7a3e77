"""The cluster that advice is given for: where experts can go, and what moving them costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from moeload_bench.inspection.decision import Constant, Source
from moeload_bench.placement.plans import ClusterShape, default_shape
from moeload_bench.placement.replan import CostModel
from moeload_bench.traces.meta import TraceMeta

ASSUMED: Mapping[str, float] = {
    "step_ms": 100.0, "expert_mb": 200.0, "bandwidth_gb_s": 25.0, "expert_fraction": 0.5, "overlap": 0.0,
    "replan_ms": 0.0,
}  # fmt: skip
WORDS: Mapping[str, tuple[Callable[[float], str], str]] = {
    "step_ms": (lambda x: f"steps of {x:,.4g} ms", "--step-ms"),
    "expert_mb": (lambda x: f"{x:,.4g} MB per expert", "--expert-mb"),
    "bandwidth_gb_s": (lambda x: f"{x:,.4g} GB/s into a device", "--bandwidth"),
    "expert_fraction": (lambda x: f"{100 * x:g} % of a step waits for the most loaded device", "--expert-fraction"),
    "overlap": (lambda x: f"{100 * x:g} % of a move is hidden behind training", "--overlap"),
    "replan_ms": (lambda x: f"{x:g} ms for each re-plan", "--replan-ms"),
}
"""Each constant in words, and the option that states it."""


class Costs(NamedTuple):
    """The cost model of a run, and where each of its constants comes from."""

    model: CostModel
    constants: tuple[Constant, ...]


@dataclass(frozen=True)
class Cluster:
    """One expert-parallel group and its costs, in the units of `moeload-bench plan` (docs/methods/placement.md).

    ``shape`` None: one spare slot on each of E / 4 devices (the next smaller divisor of E). ``stated``: what you know
    of the cost model, as a whole or by name, such as ``{"expert_mb": 350}``. A constant that you do not state comes
    from the run (step time) or its model (size of an expert); if these do not say it, it is assumed and called so.
    """

    shape: ClusterShape | None = None
    stated: CostModel | Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        CostModel(**{**ASSUMED, **self._stated})  # raises for what no cost model holds

    @property
    def _stated(self) -> dict[str, float]:
        return asdict(self.stated) if isinstance(self.stated, CostModel) else dict(self.stated)

    def shape_for(self, experts: int) -> ClusterShape | None:
        """Return the shape, or one that fits; None for models too small to have one (fewer than 4 experts).

        Raises `PlacementError` when the given shape does not hold so many experts.
        """
        if self.shape is not None:
            self.shape.check(experts)
            return self.shape
        return default_shape(experts)

    def costs(self, meta: TraceMeta, shape: ClusterShape, step_ms: float | None) -> Costs:
        """Return the costs for a run; ``step_ms``: the median of its steps so far, None if it has no times."""
        known: dict[str, tuple[float, Source]] = {name: (value, "ASSUMED") for name, value in ASSUMED.items()}
        if step_ms is not None:
            known["step_ms"] = (step_ms, "of this run")
        size = expert_mb(meta)
        if size is not None:
            known["expert_mb"] = (size, "of the model")
        known |= {name: (value, "stated") for name, value in self._stated.items()}
        nodes = f" on {shape.nodes} nodes" if shape.nodes > 1 else ""
        where = Constant(
            f"{shape.devices} devices with {shape.slots} slots{nodes}",
            "ASSUMED" if self.shape is None else "stated", "--devices, --slots",
        )  # fmt: skip
        rest = (Constant(WORDS[name][0](value), source, WORDS[name][1]) for name, (value, source) in known.items())
        return Costs(CostModel(**{name: value for name, (value, _) in known.items()}), (where, *rest))

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
        numbers = {WORDS[name][1]: f"{value:.12g}" for name, value in self._stated.items()}
        return "".join(f" {name} {value}" for name, value in {**options, **numbers}.items())


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
