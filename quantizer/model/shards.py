"""A model's tensors as safetensors shards, one in memory at a time."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ...processes import exhausted

__all__ = ["Shard", "write_shards"]


class Shard(NamedTuple):
    """A tensor that is made when it is written: its size in bytes, and what makes it."""

    nbytes: int
    make: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> "Shard":
        """One that is there already."""
        return cls(tensor.nbytes, lambda: tensor)


def write_shards(
    folder: Path,
    tensors: Mapping[str, Shard],
    limit: int,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write `tensors` into files of about `limit` bytes at most, and their index if there is more than one.

    `on_tensor` is told how many are done, of how many.
    """
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.nbytes
    where: dict[str, str] = {}
    for index, names in enumerate(groups, 1):
        file = "model.safetensors" if len(groups) == 1 else f"model-{index:05}-of-{len(groups):05}.safetensors"
        made = {}
        for name in names:
            made[name] = tensors[name].make().contiguous()
            on_tensor(len(where) + len(made), len(tensors))
        try:
            save_file(made, folder / file, {"format": "pt"})
        except SafetensorError as error:
            exhausted(str(error), folder / file)
            raise
        where.update(dict.fromkeys(names, file))
    if len(groups) > 1:
        index_file = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index_file, indent=1) + "\n")
