"""A recipe's model cut over the processes (FSDP2): weights, gradients and optimizer of each layer in equal parts.

A checkpoint holds the whole state, as that of one process does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def shard(model: Any, device: torch.device) -> nn.Module:
    """Cut each layer of a transformers model, and what is outside of layers, over all processes; in place."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in reversed(list(model.modules())):  # layers within layers first
        if module is not model and type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    whole: nn.Module = fully_shard(model, mesh=mesh)
    return whole


def gathered(value: Any, keep: bool) -> Any:
    """A nested state with whole tensors on the CPU in place of cut ones; None in their place unless ``keep``.

    All processes call it together.
    """
    if isinstance(value, dict):
        return {key: gathered(item, keep) for key, item in value.items()}
    if hasattr(value, "full_tensor"):
        whole = value.full_tensor()
        return whole.cpu() if keep else None
    return value


def scattered(whole: Any, like: nn.Parameter) -> Any:
    """This process's part of a whole tensor, cut as ``like`` is; anything of another shape as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or getattr(whole, "shape", None) != like.shape:
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_whole(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Set model and optimizer from whole tensors, of which each process takes its part."""
    held = model.state_dict()
    model.load_state_dict({name: scattered(value, held[name]) for name, value in state["model"].items()})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        number: {name: scattered(value, parameters[number]) for name, value in cells.items()}
        for number, cells in state["optimizer"]["state"].items()
    }
    optimizer.load_state_dict({**state["optimizer"], "state": moments})
