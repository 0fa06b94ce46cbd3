"""Descriptions of objects as plain values, and the objects again."""

from __future__ import annotations

import json

import pytest
import torch
from pairs import PAIRS
from torch import nn

from ppl_vae.core.config import configurable, describe, is_known, rebuild
from ppl_vae.core.errors import InputError, NonFiniteError, PairError, PplVaeError, RunError, unknown_name
from ppl_vae.objectives import ELBO


@configurable
class Shape:
    """An object of plain values and others like it."""

    def __init__(self, sizes, inner=None, *, scale=1.0, **rest):
        self.sizes, self.inner, self.scale, self.rest = sizes, inner, scale, rest


@configurable
class Net(nn.Module):
    def __init__(self, width, activation=torch.tanh):
        super().__init__()
        self.layer, self.activation = nn.Linear(2, width), activation


@configurable
class Child(Net):
    def __init__(self, depth):
        super().__init__(width=depth + 1)
        self.depth = depth


class Undeclared(Net):
    """A subclass that does not opt in."""


@configurable
class Bare(nn.Module):
    """No constructor of its own."""


@configurable
class Variadic:
    def __init__(self, *sizes, name="a"):
        self.sizes, self.name = sizes, name


@configurable
class Nameless:
    def __init__(self, size, /):
        self.size = size


def through_json(obj):
    return rebuild(json.loads(json.dumps(describe(obj))))


def test_values_survive():
    before = Shape((3, (4, 5)), Shape([1], scale=2), scale=0.1, extra={"a": None, "b": [True, "x"]}, name="n")
    after = through_json(before)
    assert after.sizes == (3, (4, 5))  # lists come back as tuples
    assert after.inner.sizes == (1,)
    assert after.inner.scale == 2
    assert after.scale == 0.1
    assert after.rest == {"extra": {"a": None, "b": (True, "x")}, "name": "n"}
    assert describe(after) == describe(before)


def test_defaults_are_told_too():
    assert describe(Shape(1)) == describe(Shape(sizes=1, scale=1.0))
    assert describe(Shape(1)) != describe(Shape(sizes=1, scale=3))
    arguments = {"num_particles": 2, "kl": "auto", "gradient": "reparameterised", "free_bits": 0.0}
    assert describe(ELBO(2)) == {"class": "ppl_vae.objectives.elbo.ELBO", "arguments": arguments}


def test_later_changes_to_an_argument_are_not_told():
    sizes = [1, 2]
    shape = Shape(sizes)
    sizes.append(3)
    assert describe(shape)["arguments"]["sizes"] == [1, 2]


def test_modules_parents_and_children():
    child = through_json(Child(3))
    assert type(child) is Child
    assert child.layer.out_features == 4
    assert describe(child)["arguments"] == {"depth": 3}
    assert describe(Net(2))["arguments"] == {"width": 2}
    assert isinstance(through_json(Bare()), Bare)


def test_what_cannot_be_described():
    assert describe(Net(2, activation=torch.relu)) is None
    assert describe(Shape(torch.ones(2))) is None
    assert describe(Shape({1: 2})) is None
    assert describe(Shape(1, inner=Net(2, torch.relu))) is None
    assert describe(Undeclared(2)) is None  # else it would be rebuilt as its parent
    assert describe(3) is None
    assert describe(Shape) is None
    # Arguments without a name: rebuilding could not pass them.
    assert describe(Variadic(1, 2)) is None
    assert describe(Nameless(1)) is None
    assert Variadic(1, 2).sizes == (1, 2)
    assert through_json(Variadic(name="b")).name == "b"


def test_constructors_work_as_before():
    assert Shape.__init__.__wrapped__
    assert Net.__name__ == "Net"
    with pytest.raises(TypeError, match="missing a required argument: 'sizes'"):
        Shape()
    assert Shape(sizes=2).sizes == 2


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_of_the_table(name):
    for module in PAIRS[name].build():
        again = through_json(module)
        assert type(again) is type(module)
        shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (module, again)]
        assert shapes[0] == shapes[1]
        assert str(again) == str(module)  # layers, activations


def test_mistakes():
    with pytest.raises(InputError, match=r"unknown configurable class: expected one of .*; got 'os.system'"):
        rebuild({"class": "os.system", "arguments": {"command": "true"}})
    with pytest.raises(InputError, match=r"description of .*Net: got .*'depht'.*; try the version that wrote it"):
        rebuild({"class": f"{__name__}.Net", "arguments": {"width": 3, "depht": 1}})
    with pytest.raises(InputError, match=r"description of .*Net: got 'arguments'"):
        rebuild({"class": f"{__name__}.Net"})


def test_known_all_the_way_down():
    description = describe(Shape((1, Shape(2)), inner=Child(1), more={"a": [Shape(3)]}))
    assert is_known(description)
    description["arguments"]["more"]["a"][0]["class"] = "elsewhere.Shape"
    assert not is_known(description)
    assert not is_known({"class": "elsewhere.Shape", "arguments": {}})
    assert is_known({"class": "just a word"})
    assert is_known(3)


def test_errors_are_one_line_with_what_was_given():
    assert str(InputError("x")) == "x"
    assert str(InputError("x", got="3")) == "x: got 3"
    assert str(InputError("x", expected="2", got="3", hint="4")) == "x: expected 2; got 3; try 4"
    assert (
        str(unknown_name("pet", "dgo", ["cat", "dog"])) == "unknown pet: expected one of cat, dog; got 'dgo'; try 'dog'"
    )
    assert str(unknown_name("pet", "zzz", ["cat", "dog"])) == "unknown pet: expected one of cat, dog; got 'zzz'"


def test_errors_are_also_the_builtin_ones():
    for error, builtin in ((InputError, ValueError), (PairError, InputError), (NonFiniteError, ArithmeticError)):
        assert issubclass(error, builtin)
        assert issubclass(error, PplVaeError)
    assert issubclass(RunError, OSError)
    assert str(RunError("one line")) == "one line"
