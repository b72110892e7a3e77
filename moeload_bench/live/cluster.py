"""The cluster that advice is given for: where experts can go, and what moving them costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from moeload_bench.placement.plans import ClusterShape, headline_shapes
from moeload_bench.placement.replan import CostModel

STEP_MS = 100.0
EXPERT_MB = 200.0
BANDWIDTH_GB_S = 25.0


@dataclass(frozen=True)
class Cluster:
    """One expert-parallel group and its costs, in the units of `moeload-bench plan` (docs/methods/placement.md).

    ``shape`` None: the headline shape for the model's number of experts, one spare slot on each of E / 4 devices.
    ``cost``: by default a step of 100 ms of which half waits for the most loaded device, experts of 200 MB, and 25 GB/s
    into each device. They are assumptions: say yours.
    """

    shape: ClusterShape | None = None
    cost: CostModel = field(default_factory=lambda: CostModel(STEP_MS, EXPERT_MB, BANDWIDTH_GB_S))

    def shape_for(self, experts: int) -> ClusterShape | None:
        """The shape, or the headline one; None for models too small to have one (fewer than 4 experts).

        Raises `PlacementError` when the given shape does not hold so many experts.
        """
        if self.shape is not None:
            self.shape.check(experts)
            return self.shape
        return next(iter(headline_shapes(experts)), None)

    def in_words(self, shape: ClusterShape) -> str:
        """One line with the constants, so that nobody takes an assumption for a measurement."""
        cost = self.cost
        where = f"{shape.devices} devices with {shape.slots} slots"
        nodes = f" on {shape.nodes} nodes" if shape.nodes > 1 else ""
        hidden = f", {100 * cost.overlap:g} % of moving hidden" if cost.overlap else ""
        fixed = f", {cost.replan_ms:g} ms for each re-plan" if cost.replan_ms else ""
        return (
            f"{where}{nodes}, {cost.expert_mb:g} MB per expert, {cost.bandwidth_gb_s:g} GB/s, steps of "
            f"{cost.step_ms:g} ms of which {100 * cost.expert_fraction:g} % wait for the most loaded device"
            f"{hidden}{fixed}"
        )


def cluster_options(shape: ClusterShape, cost: CostModel) -> str:
    """The options of `moeload-bench plan`, `report` and `watch` for this cluster, but for what they suppose."""
    options = {"devices": shape.devices, "slots": shape.slots}
    if shape.nodes > 1:
        options["nodes"] = shape.nodes
    if shape.groups != shape.nodes:
        options["groups"] = shape.groups
    numbers = {"expert_mb": cost.expert_mb, "bandwidth": cost.bandwidth_gb_s, "step_ms": cost.step_ms}
    usual = CostModel(cost.step_ms, cost.expert_mb, cost.bandwidth_gb_s)
    for name in ("expert_fraction", "overlap", "replan_ms"):
        if getattr(cost, name) != getattr(usual, name):
            numbers[name] = getattr(cost, name)
    words = [f"--{name} {value}" for name, value in options.items()]
    return " ".join([*words, *(f"--{name.replace('_', '-')} {value:.12g}" for name, value in numbers.items())])
