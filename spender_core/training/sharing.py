"""Weights that processes share out among them (FSDP): each has pieces, and trains those.

FSDP turns the parameters of what it is given into pieces, for good. So a copy of the model is given
to it in each phase, and the model gets the weights back when the phase ends.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from spender_core.errors import InputError
from spender_core.interfaces import Model
from spender_core.training.objective import Losses

if TYPE_CHECKING:
    from accelerate import Accelerator

_REFUSED = ("DEEPSPEED", "MEGATRON_LM")
"""Ways of accelerate that want a loop of their own."""


def check_sharing(accelerator: Accelerator) -> None:
    """Refuse ways of sharing out weights that are not supported, and settle what FSDP does.

    Raises:
        InputError: accelerate is configured for one of them.
    """
    kind = accelerator.distributed_type.value
    if kind in _REFUSED or (kind == "FSDP" and not accelerator.is_fsdp2):
        way = "FSDP of version 1" if kind == "FSDP" else kind
        raise InputError(
            f"accelerate is configured for {way}, which these trainings do not know; launch with "
            "--multi_gpu or torchrun, or with --use_fsdp --fsdp_version 2 where the weights of a "
            "model are to be shared out"
        )
    if accelerator.is_fsdp2:
        plugin = accelerator.state.fsdp_plugin
        plugin.cpu_ram_efficient_loading = False  # all processes have made the same weights
        plugin.mixed_precision_policy = None  # `Shared` does what data parallelism does


class Shared(nn.Module):
    """An objective as FSDP takes it: the loss that is back-propagated is told from the others."""

    def __init__(self, objective: nn.Module, accelerator: Accelerator) -> None:
        super().__init__()
        self.objective = objective
        self._precision = accelerator.autocast

    def forward(self, *given: Any) -> tuple[Tensor, Losses]:
        """Return the losses, and before them the total, at which FSDP hooks in."""
        with self._precision():
            losses: Losses = self.objective(*given)
        return losses.total, losses


def copied(model: Model, accelerator: Accelerator) -> Model:
    """Return a copy of a model on the device."""
    made: Model = copy.deepcopy(model).to(accelerator.device)
    return made


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the pieces that this process has, to change them in place; without gradients.

    Tensors that are not shared out are returned as they are.
    """
    return [one.to_local() if hasattr(one, "to_local") else one for one in tensors]


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the pieces of all processes, which all call this at once."""
    gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def put(tensor: Any, values: Any) -> None:
    """Give a tensor values, of which each process puts its piece; without gradients."""
    if hasattr(tensor, "device_mesh"):
        from torch.distributed.tensor import DTensor, Replicate

        mesh = tensor.device_mesh
        everywhere: Any = DTensor.from_local(values, mesh, [Replicate()] * mesh.ndim)
        values = everywhere.redistribute(placements=tensor.placements).to_local()
        tensor = tensor.to_local()
    tensor.copy_(values)


def return_weights(objective: nn.Module, model: Model) -> None:
    """Give a model the weights of the copy in a shared objective. All processes call this at once."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True)
    start = "objective.model."
    found = get_model_state_dict(objective, options=options)
    model.load_state_dict({name.removeprefix(start): tensor for name, tensor in found.items()})
