"""A model whose blocks lie in files, one of them in memory at a time (docs/quantize.md, "Layer by layer")."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...errors import InputError
from ...files import whole_file
from .linears import LinearExperts, prepare

__all__ = ["Page", "Pages", "blocks_of", "in_memory", "page_of", "written"]

Forward = Callable[..., Any]


class Page:
    """The parameters of one block, by their names in it."""

    def __init__(self, pages: "Pages", name: str, block: nn.Module, path: Path, parameters: dict[str, nn.Parameter]):
        self.pages, self.name, self.block, self.path = pages, name, block, path
        self.parameters = parameters
        self.forward: Forward | None = None  # one that the block had of its own
        self.changed = False

    def open(self) -> None:
        """Have the block's parameters in memory, in place of those of the page that was open."""
        self.pages.turn_to(self)


class Pages:
    """The blocks of a model, in files of a folder; the parameters of one block at a time are in memory.

    Of all others a parameter has its shape, dtype and device, but NaN for values. A block's own call brings its
    parameters; whoever reads them otherwise asks `in_memory`, and says `written` after a change. What stands outside of
    the blocks, or in several, stays in memory.

    Attributes:
        call: what calls a block: `(page, forward, args, kwargs)`. May be replaced for a time.
        closing: called with a page before its parameters are let go.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        ignore: Sequence[str],
        fetch: Callable[[nn.Module], None] = lambda _: None,
    ):
        """Write the blocks of `model` into `folder`, each made of linears first (`prepare`, with `ignore`).

        `fetch` brings the parameters of a block whose values are not there yet. Raises InputError for a model without
        blocks.
        """
        blocks = blocks_of(model)
        if not blocks:
            raise InputError(
                f"model {type(model).__name__}: has no list of blocks, expected one to go through layer by layer"
            )
        folder.mkdir(parents=True, exist_ok=True)
        # Modes that watch tensors belong to a thread; in this one nobody watches.
        self._thread = ThreadPoolExecutor(1)
        self._open: Page | None = None
        self.call: Callable[[Page, Forward, Any, Any], Any] = _call
        self.closing: list[Callable[[Page], None]] = []
        self.pages: list[Page] = []
        for index, (name, block) in enumerate(blocks.items()):
            fetch(block)
            prepare(model, ignore, within=name)
            elsewhere = _others(model, block)
            own = {n: p for n, p in block.named_parameters() if id(p) not in elsewhere and p.is_floating_point()}
            page = Page(self, name, block, folder / f"block-{index}.safetensors", own)
            page.changed = True
            self._close(page)
            for parameter in own.values():
                parameter._fgmp_page = page
            page.forward = block.__dict__.get("forward")
            block.forward = _forward(page, block.forward)
            self.pages.append(page)

    def turn_to(self, page: Page) -> None:
        """Have `page` open, and no other."""
        if self._open is page:
            return
        if self._open is not None:
            for watcher in self.closing:
                watcher(self._open)
        self._thread.submit(self._turn, page).result()

    @property
    def open(self) -> Page | None:
        """The page whose parameters are in memory."""
        return self._open

    def close(self) -> None:
        """Keep in memory what the blocks still hold, and let the files go."""
        for page in self.pages:
            held = {id(p) for p in page.block.parameters()}
            page.open()
            page.parameters = {n: p for n, p in page.parameters.items() if id(p) in held}
            for parameter in page.parameters.values():
                parameter.data = parameter.data.clone()  # apart from the file
                del parameter._fgmp_page
            del page.block.forward
            if page.forward is not None:
                page.block.forward = page.forward
            page.path.unlink()
            self._open = None
        self._thread.shutdown()

    def _turn(self, page: Page) -> None:
        if self._open is not None:
            self._close(self._open)
            self._open = None
            _trim()
        if page.parameters:
            device = str(next(iter(page.parameters.values())).device)
            for name, values in load_file(page.path, device).items():
                page.parameters[name].data = values
        self._open = page

    def _close(self, page: Page) -> None:
        """Write the page if it was changed, and let its parameters go."""
        if page.changed:
            with whole_file(page.path) as partial:
                save_file({n: p.data.contiguous().clone() for n, p in page.parameters.items()}, partial)
            page.changed = False
        for parameter in page.parameters.values():
            parameter.data = _absent(parameter.data)
        for module in page.block.modules():
            if isinstance(module, LinearExperts):  # which shared memory with the parameters that they came from
                for parameter in module.fused.parameters():
                    parameter.data = _absent(parameter.data)


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The members of a model's outermost lists of modules, by name, those with parameters, each once.

    Lists in lists are opened, and plain linears are none: what is done to a block would make them special.
    """
    found: dict[str, nn.Module] = {}

    def look(name: str, module: nn.Module) -> None:
        for key, child in module.named_children():
            path = f"{name}.{key}" if name else key
            whole = isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList | nn.Linear)
            if not whole:
                look(path, child)
            elif next(child.parameters(), None) is not None and all(child is not b for b in found.values()):
                found[path] = child

    look("", model)
    return found


def page_of(parameter: Tensor) -> Page | None:
    """Where a parameter lies; None if it stays in memory."""
    return getattr(parameter, "_fgmp_page", None)


def in_memory(parameter: Tensor) -> Tensor:
    """`parameter`, once its values are in memory; they are until another block's are asked for."""
    page = page_of(parameter)
    if page is not None:
        page.open()
    return parameter


def written(parameter: Tensor) -> None:
    """Say that the values of a parameter, which are in memory, were changed."""
    page = page_of(parameter)
    if page is not None:
        page.changed = True


def _others(model: nn.Module, block: nn.Module) -> set[int]:
    """Ids of the parameters that modules outside of `block` hold."""
    inside = {id(m) for m in block.modules()}
    shared = {id(m) for m in _modules_outside(model, block)} & inside
    return {
        id(p)
        for m in model.modules()
        if id(m) not in inside or id(m) in shared
        for p in m._parameters.values()
        if p is not None
    }


def _modules_outside(model: nn.Module, block: nn.Module) -> Iterator[nn.Module]:
    """All modules that can be reached without passing through `block`."""
    waiting, seen = [model], {id(block)}
    while waiting:
        module = waiting.pop()
        if id(module) not in seen:
            seen.add(id(module))
            yield module
            waiting.extend(module.children())


def _absent(values: Tensor) -> Tensor:
    """Of the shape, dtype and device of `values`, in the memory of one number: NaN, which no check lets pass."""
    return torch.full((), float("nan"), dtype=values.dtype, device=values.device).expand(values.shape)


def _trim() -> None:
    """Give back to the system what the C library keeps of freed memory: whole blocks, by and by."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _call(page: Page, forward: Forward, args: Any, kwargs: Any) -> Any:
    page.open()
    return forward(*args, **kwargs)


def _forward(page: Page, forward: Forward) -> Forward:
    def paged(*args: Any, **kwargs: Any) -> Any:
        return page.pages.call(page, forward, args, kwargs)

    return paged
