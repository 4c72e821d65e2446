"""Which bytes autograd keeps for a backward pass, and which it would keep if blocks were checkpointed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Storages = dict[int, int]  # bytes of each storage, by its address


@dataclass
class SavedStorages:
    """Collects what autograd keeps."""

    excluded: set[int]
    storages: Storages = field(default_factory=dict)
    _alive: list[Any] = field(default_factory=list)  # an address must not be used again while it counts

    def add(self, tensor: Tensor) -> Tensor:
        """Note the storage of a tensor."""
        if (address := storage_address(tensor)) not in self.excluded:
            self.storages[address] = tensor.untyped_storage().nbytes()
            self._alive.append(tensor.untyped_storage())
        return tensor

    def hooks(self) -> saved_tensors_hooks:
        """Return the context in which everything kept is noted."""
        return saved_tensors_hooks(self.add, lambda tensor: tensor)


class BlockWatch:
    """Stands where a library would checkpoint a block, and notes what that would keep and compute."""

    def __init__(self, outside: SavedStorages, flops: FlopCounterMode) -> None:
        self.outside = outside
        self.inside: Storages = {}
        self.boundary: Storages = {}
        self.recompute_flops = 0
        self.largest_block = 0
        self._flops = flops
        self._blocks: list[SavedStorages] = []
        self._in_block = False

    def __call__(self, block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a block in the place of `torch.utils.checkpoint.checkpoint`."""
        if self._in_block:  # within a checkpointed block nothing is checkpointed again
            return block(*args, **kwargs)
        entering = SavedStorages(self.outside.excluded)
        for leaf in tree_leaves((args, kwargs, getattr(block, "keywords", {}))):
            if isinstance(leaf, Tensor):
                entering.add(leaf)
        saved = SavedStorages(self.outside.excluded)
        flops_before = flops_at_last = self._flops.get_total_flops()

        def add(tensor: Tensor) -> Tensor:
            nonlocal flops_at_last  # the second computation stops once the last tensor kept is there again
            flops_at_last = self._flops.get_total_flops()
            return saved.add(tensor)

        self._in_block = True
        try:
            with saved_tensors_hooks(add, lambda tensor: tensor):
                output = block(*args, **kwargs)
        finally:
            self._in_block = False
        self.recompute_flops += flops_at_last - flops_before
        self.inside |= saved.storages
        self.boundary |= entering.storages
        own = [size for address, size in saved.storages.items() if address not in entering.storages]
        self.largest_block = max(self.largest_block, sum(own))
        self._blocks += [entering, saved]
        return output

    @contextmanager
    def installed_in(self, module: nn.Module) -> Iterator[None]:
        """Take the place of the checkpoint function in every block of a module, and give it back."""
        names = ("gradient_checkpointing", "_gradient_checkpointing_func", "training")
        blocks = [child for child in module.modules() if hasattr(child, "gradient_checkpointing")]
        before = [{name: vars(block)[name] for name in names if name in vars(block)} for block in blocks]
        for block in blocks:
            block.__dict__["gradient_checkpointing"] = True
            block.__dict__["_gradient_checkpointing_func"] = self
            block.__dict__["training"] = True  # transformers checkpoints only then; children keep their mode
        try:
            yield
        finally:
            for block, values in zip(blocks, before, strict=True):
                for name in names:
                    vars(block).pop(name, None)
                vars(block).update(values)


def storage_address(tensor: Tensor) -> int:
    """Return what tells one storage from another, meta device included."""
    # Every meta tensor has the data pointer 0; the address of the storage itself tells them apart.
    return tensor.untyped_storage()._cdata
