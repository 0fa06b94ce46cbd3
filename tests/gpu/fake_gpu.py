"""A GPU whose tensors have shapes and no values, on a machine that has none: where is the device left?

PyTorch's PrivateUse1 device is set up as a backend written in Python, "gpu", so that autograd and optimisers take it.
Its tensors are FakeTensors: each operation checks shapes and devices. (Fake "cuda" tensors will not do: autograd of a
build without CUDA ends the process at the first of them.) Tensors on the CPU are real all the while. What crosses is
noted, with the line that asked for it:

read      a value asked for on the host (.item(), float(), an `if`): it waits for the device
d2h, h2d  a copy between the two; the latter, of memory that is not pinned, waits too and is in no CUDA graph
mixed     an operation on tensors of both: an error on a GPU
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ROOT = Path(__file__).parents[2]
aten = torch.ops.aten


class Crossing(NamedTuple):
    """Something that left the device, in which part of a test, and the line of the library that asked for it."""

    phase: str
    kind: str
    operation: str
    line: str


if not hasattr(torch._C, "_acc"):
    pytest.skip(f"torch {torch.__version__} takes no backend made in Python", allow_module_level=True)


class _Hooks(torch._C._acc.PrivateUse1Hooks):
    def is_available(self) -> bool:
        return True

    def has_primary_context(self, index: int) -> bool:
        return True

    def is_built(self) -> bool:
        return True


class _Guard(torch._C._acc.DeviceGuard):
    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1


class _Backend:
    is_available = is_initialized = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    get_rng_state = staticmethod(lambda device=None: torch.zeros(16, dtype=torch.uint8, device="cpu"))
    set_rng_state = staticmethod(lambda state, device=None: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])


def install() -> torch.device:
    """Make the device known to torch, for the rest of the process, and return it."""
    if not hasattr(torch, "gpu"):
        backend_registration._setup_privateuseone_for_python_backend(
            "gpu", backend_module=_Backend, hook=_Hooks(), device_guard=_Guard()
        )
    return torch.device("gpu:0")


class FakeGPU(TorchDispatchMode):
    """The GPU, there while this context is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.device = install()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.crossings: Counter[Crossing] = Counter()
        self.phase = ""

    def kinds(self, *kinds: str, phase: str = "") -> list[Crossing]:
        """Return what crossed in these ways, in phases whose name has `phase` in it."""
        return [crossing for crossing in self.crossings if crossing.kind in kinds and phase in crossing.phase]

    def over(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the GPU like `tensor`, without a note."""
        if isinstance(tensor, FakeTensor):
            return tensor
        with self.fake:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)

    def __enter__(self) -> FakeGPU:
        self._patches = contextlib.ExitStack()
        mode = self

        def patch(owner: Any, name: str, make: Any) -> None:
            old = getattr(owner, name)
            setattr(owner, name, make(old))
            self._patches.callback(setattr, owner, name, old)

        def maker(old: Any) -> Any:  # these copy beneath the dispatcher
            def make(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
                if device is not None and torch.device(device).type == "gpu":
                    return old(data, *args, **kwargs).to(device)
                return old(data, *args, **kwargs, **({} if device is None else {"device": device}))

            return make

        def reader(old: Any) -> Any:
            def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                if isinstance(tensor, FakeTensor):
                    mode._note("read", old.__name__)
                    tensor = mode._values(tensor)
                return old(tensor, *args, **kwargs)

            return read

        def applier(old: Any) -> Any:  # a module's own exchanges what is beneath its parameters
            def apply(module: nn.Module, function: Any, recurse: bool = True) -> nn.Module:
                held = [*module.parameters(), *module.buffers()]
                moved = {id(value): function(value.detach()) for value in held}
                if not any(isinstance(value, FakeTensor) for value in [*held, *moved.values()]):
                    return old(module, function, recurse)
                for owner in module.modules():
                    for name, value in owner._parameters.items():
                        if value is not None:
                            owner._parameters[name] = nn.Parameter(moved[id(value)], value.requires_grad)
                    for name, value in owner._buffers.items():
                        owner._buffers[name] = value if value is None else moved[id(value)]
                return module

            return apply

        patch(torch, "tensor", maker)
        patch(torch, "as_tensor", maker)
        patch(Tensor, "tolist", reader)
        patch(Tensor, "numpy", reader)
        patch(Tensor, "__format__", reader)
        patch(nn.Module, "_apply", applier)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if not any(isinstance(x, FakeTensor) or (isinstance(x, torch.device) and x.type == "gpu") for x in leaves):
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            self._note("read", func)
            return self._values(args[0]).item()
        if func is aten._to_copy.default and kwargs.get("device") is not None:
            here, there = isinstance(args[0], FakeTensor), torch.device(kwargs["device"]).type == "gpu"
            if here != there:
                self._note("h2d" if there else "d2h", func)
                if here:
                    return func(self._values(args[0]), **kwargs)
                with self.fake:
                    return torch.empty(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=self.device)
        if func is aten.copy_.default and isinstance(args[0], FakeTensor) != isinstance(args[1], FakeTensor):
            self._note("d2h" if isinstance(args[1], FakeTensor) else "h2d", func)
            return func(args[0], self._values(args[1])) if isinstance(args[1], FakeTensor) else args[0]
        if func is aten.equal.default:
            self._note("read", func)
            return True
        if func is aten.nonzero.default:
            self._note("read", func)
            return self.over(self._values(args[0]).nonzero())
        indexes = func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)
        if indexes and any(isinstance(i, Tensor) and not isinstance(i, FakeTensor) for i in args[1]):
            self._note("h2d", f"{func} by an index on the CPU")
            args = (args[0], [i if i is None else self.over(i) for i in args[1]], *args[2:])
        if indexes and any(isinstance(i, FakeTensor) and i.dtype is torch.bool for i in args[1]):
            self._note("read", f"{func} by a mask, whose count is the result's shape")
            args = (args[0], [each for i in args[1] for each in self._counted(i)], *args[2:])
        try:
            result = self._run(func, args, kwargs)
        except Exception as error:
            if "same device" not in str(error) and "two different devices" not in str(error):
                raise
            self._note("mixed", func)
            result = self._run(func, *tree_map_only(Tensor, self.over, (args, kwargs)))
        if func._schema.name in ("aten::any", "aten::all") and isinstance(result, FakeTensor):
            result._answer = func._schema.name == "aten::all"  # as in a computation without trouble
        return result

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        with self.fake:
            return func(*args, **kwargs)

    def _counted(self, index: Tensor | None) -> list[Tensor | None]:
        """Return the indices that stand for an index: a mask is one for each of its dimensions."""
        if index is None or index.dtype is not torch.bool:
            return [index]
        return [self.over(each) for each in self._values(index).nonzero(as_tuple=True)]

    def _values(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the CPU with values as a computation without trouble would have them."""
        shape = tuple(tensor.shape)
        if tensor.dtype is torch.bool:
            return torch.full(shape, getattr(tensor, "_answer", True))
        if tensor.is_floating_point():
            return torch.linspace(0.1, 0.9, tensor.numel(), dtype=tensor.dtype).reshape(shape)
        return torch.zeros(shape, dtype=tensor.dtype)

    def _note(self, kind: str, func: Any) -> None:
        self.crossings[Crossing(self.phase, kind, str(func), _line())] += 1


def _line() -> str:
    """Return the innermost line of the library or of an example, and of the other library that it called there."""
    own = deeper = ""
    for frame in traceback.extract_stack()[:-3]:
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "tests"):
            own, deeper = f"{path.relative_to(ROOT)}:{frame.lineno}", ""
        elif any(part in path.parts for part in ("pyro", "distributions", "optim")):
            deeper = f" > {path.parent.name}/{path.name}:{frame.lineno}"
    return own + deeper
