"""Private interfaces of torch: each does what it is called for, and stands behind a function of the compile room alone.

A release of torch may change any of them without a word. Each has a test here that fails with its name and the release.
"""

import ast
import inspect

import pytest
import torch
from source_tree import modules
from torch import distributions as dist
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

RELEASE = f"torch {torch.__version__}"


class LowRank(nn.Linear):
    """A layer with a buffer."""

    def __init__(self):
        super().__init__(3, 2)
        self.register_buffer("shift", torch.ones(2))

    def forward(self, x):
        return super().forward(x) + self.shift


def equal(found, expected, rtol=0.0):
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=rtol, atol=0)


# --- one test for each interface --------------------------------------------------------------------------------------


def inductor():
    from ppl_vae.compile.inductor import fused, has_compiler

    if not has_compiler():
        pytest.skip("Inductor needs a C++ compiler")
    x = torch.arange(6.0).view(2, 3)
    compute = lambda x: [(x * 2).sum(1) + torch.rand(2)]  # noqa: E731
    graph = make_fx(compute)(x)
    torch.manual_seed(0)
    (expected,) = compute(x)
    torch.manual_seed(0)
    (found,) = fused(graph, [x])(x)
    equal(found, expected, rtol=1e-6)  # drawn from torch's own random numbers


def one_fake_mode():
    from ppl_vae.compile.graph import record

    x = torch.arange(6.0).view(2, 3)
    (found,) = record(lambda x: [(x @ x.t()).tanh()], [x + 1])(x)
    equal(found, (x @ x.t()).tanh())


def onednn():
    from ppl_vae.compile.onednn import linear

    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    x, weight, bias = torch.arange(6.0).view(2, 3) / 10, torch.arange(12.0).view(4, 3) / 10, torch.arange(4.0)
    equal(linear(x, weight, bias, "none"), x @ weight.t() + bias, rtol=1e-6)
    equal(linear(x, weight, None, "tanh"), (x @ weight.t()).tanh(), rtol=1e-5)
    equal(linear(x, weight, bias, "sigmoid"), (x @ weight.t() + bias).sigmoid(), rtol=1e-5)


def onednn_off():
    from ppl_vae.compile.onednn import without_onednn

    before = torch.backends.mkldnn.enabled
    with without_onednn():
        assert not torch.backends.mkldnn.enabled
    assert torch.backends.mkldnn.enabled == before


def precision_settings():
    from ppl_vae.compile.precision import products_in

    before = torch.get_float32_matmul_precision()
    with products_in("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def adam():
    from ppl_vae.compile.adam import fused_adam

    p, average, square, count = (torch.tensor([value]) for value in (1.0, 0.5, 0.25, 3.0))
    gradient = torch.tensor([2.0])
    group = {"betas": (0.8, 0.9), "lr": 0.1, "weight_decay": 0.0, "eps": 1e-8, "maximize": False}
    fused_adam([p], [gradient], [average], [square], [count], group)
    m, v = 0.8 * 0.5 + 0.2 * 2, 0.9 * 0.25 + 0.1 * 4  # Kingma and Ba (2015), algorithm 1, at t = 3
    equal(torch.cat([average, square, count]), [m, v, 3.0], rtol=1e-6)
    equal(p, [1 - 0.1 * (m / (1 - 0.8**3)) / ((v / (1 - 0.9**3)) ** 0.5 + 1e-8)], rtol=1e-6)


def step_hooks():
    from ppl_vae.compile.adam import has_step_hooks

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook):
        assert not has_step_hooks(optimizer)
        handle = register(lambda *_: None)
        assert has_step_hooks(optimizer)
        handle.remove()


def foreach():
    from ppl_vae.compile.foreach import copy_in_place, differences, largest_sizes, multiply_in_place

    tensors = [torch.tensor([1.0, -3.0]), torch.tensor([[2.0, torch.nan]])]
    equal(largest_sizes(tensors)[0], 3.0)
    assert largest_sizes(tensors)[1].isnan()
    equal(differences(tensors, [torch.ones(2), tensors[1]])[0], [0.0, -4.0])
    multiply_in_place(tensors, 2.0)
    equal(tensors[0], [2.0, -6.0])
    copy_in_place(tensors, [torch.zeros(2), torch.ones(1, 2)])
    equal(torch.cat([tensors[0], tensors[1][0]]), [0.0, 0.0, 1.0, 1.0])


def dispatch():
    from ppl_vae.compile.dispatch import DispatchMode, arguments_of, map_tensors

    seen = []

    class Mode(DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append((func, map_tensors(lambda t: t.clone(), [args[0], 1])))
            return func(*args, **(kwargs or {}))

    with Mode():
        tripled = torch.ones(2).mul_(3.0)
    equal(tripled, [3.0, 3.0])
    func, (before, one) = seen[-1]
    equal(before, [1.0, 1.0])
    assert one == 1
    changed = {a.name: a.alias_info is not None and a.alias_info.is_write for a in arguments_of(func)}
    assert changed == {"self": True, "other": False}


def kernels():
    from ppl_vae.compile.dispatch import is_operation, kernel_of

    multiply = torch.ops.aten.mul.Tensor
    equal(kernel_of(multiply)(torch.tensor([2.0]), 3.0), [6.0])
    assert is_operation(multiply)
    assert not is_operation(torch.mul)


def kept_in_the_cache():
    """A graph compiled again is read from the cache on disk: on that the compiler beside a fit relies."""
    from torch._dynamo.utils import counters

    from ppl_vae.compile.inductor import fused, has_compiler

    if not has_compiler():
        pytest.skip("Inductor needs a C++ compiler")
    x = torch.arange(6.0).view(2, 3)
    for _ in range(2):
        hits = counters["inductor"]["fxgraph_cache_hit"]
        equal(fused(make_fx(lambda x: [x.exp() * 7])(x), [x])(x)[0], x.exp() * 7, rtol=1e-6)
    assert counters["inductor"]["fxgraph_cache_hit"] == hits + 1


def parameters_and_buffers():
    from ppl_vae.compile.substitution import home_of, substituted

    module, x = LowRank(), torch.ones(1, 3)
    before = module(x)
    with substituted(module, {"weight": torch.ones(2, 3), "bias": torch.zeros(2), "shift": torch.zeros(2)}):
        equal(module(x), [[3.0, 3.0]])
    assert torch.equal(module(x), before)
    home, name = home_of("0.shift", nn.Sequential(module))
    home[name] = torch.full((2,), 5.0)
    equal(module.shift, [5.0, 5.0])


def versions():
    from ppl_vae.compile.side_effects import version

    tensor = torch.zeros(2)
    before = version(tensor)
    tensor.add_(1.0)
    assert version(tensor) == before + 1
    tensor + 1
    assert version(tensor) == before + 1


def hooks():
    from ppl_vae.compile.side_effects import unseen_by_a_graph

    module = LowRank()
    assert unseen_by_a_graph(module) == ""
    for register, words in (
        (module.register_forward_hook, "LowRank has a hook"),
        (module.register_forward_pre_hook, "LowRank has a hook"),
        (module.register_full_backward_hook, "LowRank has a hook"),
        (module.weight.register_hook, "parameter 'weight' has a hook"),
        (module.weight.register_post_accumulate_grad_hook, "parameter 'weight' has a hook"),
        (nn.modules.module.register_module_forward_hook, "torch has a hook on all modules"),
    ):
        handle = register(lambda *_: None)
        assert unseen_by_a_graph(module) == words
        handle.remove()
    assert unseen_by_a_graph(module) == ""


def attributes_of_modules():
    from ppl_vae.compile.side_effects import Watch

    module = nn.LSTM(2, 2)
    module.register_buffer("steps", torch.zeros(1))
    with Watch(module) as watch:
        module(torch.ones(1, 2))
        assert watch.changed() == ""
        module.steps.add_(1.0)
        assert watch.changed() == "it changes LSTM.steps as it runs"
        watch.restore()
    equal(module.steps, [0.0])


def gamma():
    from ppl_vae.compile.distributions import standard_gamma

    concentration = torch.tensor([0.5, 2.0, 7.0])
    torch.manual_seed(0)
    expected = dist.Gamma(concentration, torch.ones(3)).sample()
    torch.manual_seed(0)
    equal(standard_gamma(concentration), expected)


def probs_or_logits():
    from ppl_vae.compile.distributions import categorical_of, has_probs

    for kind in (dist.Bernoulli, dist.Categorical):
        by_probs, by_logits = kind(probs=torch.tensor([0.5, 0.5])), kind(logits=torch.zeros(2))
        assert has_probs(by_probs)
        assert by_probs.logits is not None  # which is kept beside what was given
        assert by_logits.probs is not None
        assert has_probs(by_probs)
        assert not has_probs(by_logits)
    one_hot = dist.OneHotCategorical(probs=torch.tensor([0.25, 0.75]))
    equal(categorical_of(one_hot).probs, [0.25, 0.75])
    normal = dist.Normal(0.0, 1.0)
    assert categorical_of(normal) is normal


def cholesky_factor():
    from ppl_vae.compile.distributions import scale_tril_of

    factor = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    equal(scale_tril_of(dist.MultivariateNormal(torch.zeros(5, 2), scale_tril=factor)), factor)


INTERFACES = {
    "torch._inductor.compile": inductor,
    "torch._guards.tracing and torch._subclasses.fake_tensor.FakeTensorMode": one_fake_mode,
    "torch.ops.mkldnn._linear_pointwise": onednn,
    "torch._C._set_mkldnn_enabled": onednn_off,
    "torch._C._set_fp32_precision_setter": precision_settings,
    "torch._fused_adam_": adam,
    "Optimizer._optimizer_step_pre_hooks": step_hooks,
    "torch._foreach_norm, _sub, _mul_ and _copy_": foreach,
    "torch.utils._python_dispatch.TorchDispatchMode, OpOverload._schema and torch.utils._pytree": dispatch,
    "torch._ops.OpOverload and OpOverload._op": kernels,
    "torch._guards.TracingContext, with which Inductor keeps graphs in its cache": kept_in_the_cache,
    "Module._parameters and Module._buffers": parameters_and_buffers,
    "Tensor._version": versions,
    "Module._forward_hooks, Tensor._backward_hooks and _has_any_global_hook": hooks,
    "Module._buffers and RNNBase._flat_weights": attributes_of_modules,
    "torch._standard_gamma": gamma,
    "Bernoulli._param and OneHotCategorical._categorical": probs_or_logits,
    "MultivariateNormal._unbroadcasted_scale_tril": cholesky_factor,
}


def check(name):
    try:
        INTERFACES[name]()
    except Exception as error:
        pytest.fail(f"{RELEASE}: {name}: {error!r}")


SLOW = {"torch._inductor.compile", "torch._guards.TracingContext, with which Inductor keeps graphs in its cache"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in INTERFACES]
)
def test_it_does_what_it_is_called_for(name):
    check(name)


def test_a_release_that_breaks_one_is_named(monkeypatch):
    monkeypatch.delattr(torch, "_foreach_norm")
    with pytest.raises(pytest.fail.Exception, match=r"^torch \S+: torch\._foreach_norm, .*: AttributeError"):
        check("torch._foreach_norm, _sub, _mul_ and _copy_")
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, weight, *_: x @ weight.t())
    if torch.backends.mkldnn.is_available():
        with pytest.raises(pytest.fail.Exception, match=r"^torch \S+: torch\.ops\.mkldnn\._linear_pointwise: "):
            check("torch.ops.mkldnn._linear_pointwise")


# --- nowhere else -----------------------------------------------------------------------------------------------------

#: What torch has a subclass of its Distribution call on itself.
SUBCLASS = {"_validate_args", "_validate_sample", "_extended_shape", "_get_checked_instance"}

#: What takes the name of an attribute.
BY_NAME = {"getattr", "setattr", "hasattr", "delattr"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def attributes_of_objects():
    """Private attributes of torch's objects: modules, tensors, optimisers, operations, distributions."""
    parameters = [nn.Parameter(torch.zeros(1))]
    kinds = [kind for kind in vars(dist).values() if inspect.isclass(kind) and issubclass(kind, dist.Distribution)]
    objects = [
        nn.Linear(1, 1), nn.LSTM(1, 1), nn.BatchNorm1d(1), parameters[0], torch.optim.Adam(parameters),
        torch.ops.aten.add.Tensor, torch.Generator("cpu"), dist.MultivariateNormal(torch.zeros(1), torch.eye(1)),
        dist.Bernoulli(0.5), dist.Categorical(torch.ones(2)), dist.OneHotCategorical(torch.ones(2)), *kinds,
    ]  # fmt: skip
    return {name for thing in objects for name in dir(thing) if is_private(name)} - SUBCLASS


ATTRIBUTES = attributes_of_objects()


def own_names(nodes):
    """Yield the names that a module defines itself: functions, attributes of classes, attributes it sets on `self`."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in (part for whole in targets for part in ast.walk(whole)):
                if isinstance(target, ast.Name):
                    yield target.id
                elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    yield target.attr


def private_uses(source):
    """Yield line and name of every private interface of torch that `source` uses."""
    nodes = list(ast.walk(ast.parse(source)))
    aliases, named = {"torch": "torch"}, []
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            home = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            named += [(node.lineno, home + alias.name) for alias in node.names]
            aliases |= {alias.asname or alias.name: home + alias.name for alias in node.names if home or alias.asname}
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            named.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BY_NAME:
            thing, name = node.args[:2]
            if isinstance(name, ast.Constant) and is_private(name.value):
                named.append((node.lineno, f"{ast.unparse(thing)}.{name.value}"))
    own = None
    for line, name in named:
        root, _, rest = name.partition(".")
        full = f"{aliases.get(root, root)}.{rest}" if rest else root
        last = full.rpartition(".")[2]
        if full.startswith("torch."):
            if any(map(is_private, full.split("."))):
                yield line, full
        elif last in ATTRIBUTES:
            own = set(own_names(nodes)) if own is None else own
            if root not in ("self", "cls", "super()") or last not in own:
                yield line, full


OUTSIDE = {name: path for name, path in modules().items() if not name.startswith("ppl_vae.compile")}


@pytest.mark.parametrize("module", OUTSIDE)
def test_the_compile_room_alone_uses_them(module):
    found = [
        f"{module}:{line} uses {name}: call a function of ppl_vae.compile"
        for line, name in private_uses(OUTSIDE[module].read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch\ntorch._foreach_norm([])", "torch._foreach_norm"),
        ("import torch as t\nt._C._set_mkldnn_enabled(True)", "torch._C._set_mkldnn_enabled"),
        ("def f():\n    import torch._inductor", "torch._inductor"),
        ("from torch._guards import tracing", "torch._guards.tracing"),
        ("from torch.nn.modules.module import _has_any_global_hook", "torch.nn.modules.module._has_any_global_hook"),
        ("from torch.optim import adam as a\na._fused_adam()", "torch.optim.adam._fused_adam"),
        ("from torch import ops\nops.mkldnn._linear_pointwise()", "torch.ops.mkldnn._linear_pointwise"),
        ("import torch\ngetattr(torch, '_foreach_norm')", "torch._foreach_norm"),
        ("module._buffers", "module._buffers"),
        ("class Mine:\n    def f(self):\n        return self._parameters", "self._parameters"),
        ("(x + y)._version", "(x + y)._version"),
        ("getattr(fn, '_categorical', fn)", "fn._categorical"),
        ("q._unbroadcasted_scale_tril", "q._unbroadcasted_scale_tril"),
        ("optimizer._optimizer_step_pre_hooks", "optimizer._optimizer_step_pre_hooks"),
    ],
)
def test_the_check_finds_one(source, name):
    assert name in {found for _, found in private_uses(source)}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.zeros(1).__class__",
        "class Mine:\n    def __init__(self):\n        self._param = 1\n    def f(self):\n        return self._param",
        "from ppl_vae.compile import foreach\nforeach._mine()",
        "row._replace(name='z')",
    ],
)
def test_the_check_lets_others_pass(source):
    assert list(private_uses(source)) == []


def test_the_attributes_that_are_looked_for_are_known():
    known = {"_version", "_buffers", "_parameters", "_modules", "_flat_weights", "_param", "_schema", "_backward_hooks"}
    assert known <= ATTRIBUTES
