"""Samples that go through a paged model together, block by block, so that each block is read once for many of them.

Each sample runs in a thread of its own, one at a time, and waits where it calls a block that is not in memory:

    block 0       block 1       block 2
    sample 0 ->   sample 0 ->   sample 0 -> loss, backward to the last block's output
    sample 1 ->   sample 1 ->   sample 1 -> loss, backward to the last block's output

A block runs without gradients, and what it returns is a leaf that wants one. Backwards, block after block, each
sample's call is repeated with gradients, from the leaf's gradient to those of the call's inputs. Memory holds what
blocks return, and one call's activations.
"""

import enum
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from transformers import Cache

from ...errors import InputError
from ..prepare.pages import Forward, Page, Pages
from .recompute import See, again

__all__ = ["run_each"]

_KEPT_BYTES = 512 << 20
"""What blocks return, of all samples that run together."""

_ONCE = "expected blocks that are called once and pass on tensors (leave out layer by layer)"

_PLAIN = (
    Tensor, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, torch.layout, enum.Enum,
    slice, type, FunctionType, MethodType, nn.Module,
)  # fmt: skip
"""What a block may be given beside containers of it: nothing that carries a gradient unseen."""

_MOST = 16
"""Samples that run together where nothing is kept of them."""


def run_each(jobs: Sequence[Callable[[], Any]], pages: Pages | None) -> Iterator[int]:
    """Run `jobs`, which call a model and go backward where gradients are on; gives, again and again, how many ended.

    They run one by one, or, where the model is in `pages`, so many together as memory allows. The sums that hooks make
    are the same. Raises what a job raises.
    """
    if pages is None:
        for job in jobs:
            job()
            yield 1
        return
    begin, size = 0, 1
    while begin < len(jobs):
        runners = [_Runner(job) for job in jobs[begin : begin + size]]
        _run(pages, runners)
        yield len(runners)
        begin += len(runners)
        kept = max((runner.kept for runner in runners), default=0)
        size = max(1, min(_MOST, _KEPT_BYTES // max(kept, 1)))


def _run(pages: Pages, runners: Sequence["_Runner"]) -> None:
    before = pages.call
    pages.call = _call
    try:
        waiting = list(runners)
        while waiting:
            wanted = waiting[0].wanted
            if wanted is not None:
                wanted.open()
            for runner in waiting:
                if runner.wanted is wanted:
                    runner.resume()
            waiting = [runner for runner in waiting if not runner.done]
    finally:
        for runner in runners:
            runner.stop()
        pages.call = before
    while any(runner.steps for runner in runners):
        page = next(runner.steps[-1].page for runner in runners if runner.steps)
        page.open()
        for runner in runners:
            while runner.steps and runner.steps[-1].page is page:
                runner.backward(runner.steps.pop())


@dataclass
class _Step:
    """A block's call: what it was given, in leaves, those of them that want a gradient, and, by place among what it
    returned, the leaves that do."""

    page: Page
    forward: Forward
    given: list[Any]
    inputs: list["_Input"]
    spec: TreeSpec
    returned: dict[int, Tensor]


class _Stopped(BaseException):
    """Ends the thread of a job that is not wanted any more."""


class _Runner(threading.Thread):
    """One job's thread, which runs only within `resume`."""

    def __init__(self, job: Callable[[], Any]):
        super().__init__(daemon=True)
        self._job = job
        self._gradients = torch.is_grad_enabled()
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._stopped = False
        self.wanted: Page | None = None
        self.done = False
        self.steps: list[_Step] = []
        self.kept = 0
        self._inputs: dict[int, _Input] = {}
        self._plain: dict[int, int] = {}

    def run(self) -> None:
        self._go.acquire()
        try:
            with torch.set_grad_enabled(self._gradients):
                if not self._stopped:
                    self._job()
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error
        self.done = True
        self._paused.release()

    def resume(self) -> None:
        """Run until the job wants another page, or its end. Raises what it raises."""
        if not self.is_alive():
            self.start()
        self._go.release()
        self._paused.acquire()
        if self._error is not None:
            raise self._error

    def wait_for(self, page: Page) -> None:
        """In the thread: pause until `page` is open."""
        self.wanted = page
        while page.pages.open is not page:
            self._paused.release()
            self._go.acquire()
            if self._stopped:
                raise _Stopped

    def stop(self) -> None:
        """End the thread, wherever it is."""
        if self.is_alive():
            self._stopped = True
            self._go.release()
            self.join()

    def keep(self, page: Page, forward: Forward, given: list[Any], spec: TreeSpec, returned: dict[int, Tensor]) -> None:
        """Keep a call for the way back."""
        if any(step.page is page for step in self.steps):
            raise InputError(f"block {page.name}: called twice in a sample, {_ONCE}")
        inputs = [self._inputs.setdefault(id(leaf), _Input(leaf)) for leaf in _wanting(given)]
        for item in inputs:
            item.readers += 1
        for x in given:
            if _differentiable(x) and not x.requires_grad:
                self._plain[id(x)] = self._plain.get(id(x), 0) + 1
        self.steps.append(_Step(page, forward, given, inputs, spec, returned))
        self.kept += sum(leaf.nbytes for leaf in returned.values())

    def backward(self, step: _Step) -> None:
        """Repeat a call with gradients; hand those of its inputs on once all calls that read them were repeated."""
        inputs = step.inputs
        own = {id(item.leaf): item.leaf.detach().requires_grad_() for item in inputs}
        given = [own.get(id(leaf), leaf) for leaf in step.given]
        with again(list(own.values())) as asked, torch.enable_grad():
            args, kwargs = tree_unflatten(given, step.spec)
            outputs = tree_flatten(step.forward(*args, **kwargs))[0]
            pairs = [(outputs[i], leaf.grad) for i, leaf in step.returned.items() if leaf.grad is not None]
            pairs = [(output, gradient) for output, gradient in pairs if output.requires_grad]
            torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
        for item, copy, functions in zip(inputs, own.values(), asked, strict=True):
            item.add(copy.grad, functions)
            if not item.readers:
                del self._inputs[id(item.leaf)]
        begun = [x for x in step.given if _differentiable(x) and x.requires_grad and id(x) not in own]
        if any(self._plain.get(id(x), 0) > 1 for x in begun):
            raise InputError(f"block {step.page.name}: a linear reads what several blocks are given, {_ONCE}")


class _Input:
    """A tensor that wants a gradient and is given to several calls."""

    def __init__(self, leaf: Tensor):
        self.leaf = leaf
        self.readers = 0
        self._gradient: Tensor | None = None
        self._functions: list[See] = []

    def add(self, gradient: Tensor | None, functions: list[See]) -> None:
        """Add what one of the calls gave; after the last one, the sum goes to `functions` and further back."""
        self.readers -= 1
        self._functions += functions
        if gradient is not None:
            self._gradient = gradient if self._gradient is None else self._gradient + gradient
        if self.readers == 0 and self._gradient is not None:
            for function in self._functions:
                function(self._gradient)
            # Between blocks there may be more than one way.
            torch.autograd.backward([self.leaf], [self._gradient], retain_graph=True)
            self._gradient = None


def _wanting(leaves: Sequence[Any]) -> list[Tensor]:
    """The tensors among `leaves` that want a gradient, each once."""
    return list({id(x): x for x in leaves if isinstance(x, Tensor) and x.requires_grad}.values())


def _call(page: Page, forward: Forward, args: Any, kwargs: Any) -> Any:
    runner = threading.current_thread()
    if not isinstance(runner, _Runner):
        page.open()
        return forward(*args, **kwargs)
    runner.wait_for(page)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise InputError("autocast: on, expected a loss without it layer by layer")
    given, spec = tree_flatten((args, kwargs))
    if any(isinstance(x, Cache) for x in given):
        raise InputError(f"block {page.name}: given a cache, expected a loss that calls the model with use_cache=False")
    opaque = next((x for x in given if not isinstance(x, _PLAIN)), None)
    if opaque is not None:
        raise InputError(f"block {page.name}: given a {type(opaque).__name__}, which may carry gradients, {_ONCE}")
    with _unwritten(page, given, args, kwargs), torch.no_grad():
        result, shape = tree_flatten(forward(*args, **kwargs))
    returned = {i: x.detach().requires_grad_() for i, x in enumerate(result) if _differentiable(x)}
    runner.keep(page, forward, given, spec, returned)
    return tree_unflatten([returned.get(i, x) for i, x in enumerate(result)], shape)


def _differentiable(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


@contextmanager
def _unwritten(page: Page, given: Sequence[Any], args: Any, kwargs: Any) -> Iterator[None]:
    """Raise InputError if a block writes to what it is given: its call could not be repeated."""
    versions = [(x, x._version) for x in given if isinstance(x, Tensor)]
    yield
    after = tree_flatten((args, kwargs))[0]
    same = len(after) == len(given) and all(x is y for x, y in zip(after, given, strict=True))
    if not same or any(x._version != version for x, version in versions):
        raise InputError(
            f"block {page.name}: writes to its input, expected one that can be called again (leave out layer by layer)"
        )
