"""What the doors of the library take for a number, a name, a path: scalars of other libraries, and nothing else."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_vae.core import checks
from ppl_vae.core.errors import InputError, shown


@pytest.mark.parametrize(
    "value", [2, np.int64(2), np.uint8(2), np.array(2), torch.tensor(2), torch.tensor(2, dtype=torch.int8)]
)
def test_a_whole_number_of_any_library_is_an_int(value):
    found = checks.integer_at_least("n", value, 1)
    assert type(found) is int
    assert found == 2


@pytest.mark.parametrize(
    "value", [0.5, np.float64(0.5), np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)]
)
def test_a_number_of_any_library_is_a_float(value):
    for check in (checks.number, checks.positive, checks.not_negative, checks.share):
        found = check("n", value)
        assert type(found) is float
        assert found == 0.5


class Unprintable:
    def __repr__(self):
        raise RuntimeError


NO_NUMBERS = {
    "bool": (True, "True"),
    "NumPy's bool": (np.bool_(True), repr(np.bool_(True))),
    "text": ("1", "'1'"),
    "complex": (1j, "1j"),
    "array": (np.ones(1), r"array\(\[1.\]\)"),
    "no value": (torch.tensor(1.0, device="meta"), r"tensor\(..., device='meta'"),
    "many digits": (10**5000, "a value of type int"),
    "unprintable": (Unprintable(), "a value of type Unprintable"),
    "two lines": (torch.zeros(3, 3), r"tensor\(\[\[0., 0., 0.\], \[0., 0., 0.\]"),
}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_what_is_no_number_is_reported_in_one_line(name):
    value, got = NO_NUMBERS[name]
    for check, expected in (
        (checks.number, "a finite number"),
        (checks.positive, "a finite number > 0"),
        (checks.not_negative, "a number, 0 or more"),
        (checks.share, "a number from 0 to 1"),
        (lambda what, value: checks.integer_at_least(what, value, 1), "an integer >= 1"),
    ):
        with pytest.raises(InputError, match=f"n: expected {expected}.*; got {got}") as caught:
            check("n", value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


def test_sizes_end_where_torch_s_integers_do():
    with pytest.raises(InputError, match=r"n: expected an integer >= 1, at most 2147483647; got 1000000000000"):
        checks.integer_at_least("n", 10**12, 1)
    with pytest.raises(InputError, match=r"seed: expected a whole number, 0 or more, at most 9223372036854775807; got"):
        checks.check_seed(2**63)
    assert checks.check_seed(np.uint64(2**63 - 1)) == 2**63 - 1


def test_infinity_is_a_number_where_it_may_be():
    assert checks.not_negative("n", float("inf"), finite=False) == float("inf")
    for value in (float("nan"), float("-inf")):
        with pytest.raises(InputError, match="n: expected a number, 0 or more"):
            checks.not_negative("n", value, finite=False)


@pytest.mark.parametrize("name", [["tanh"], {}, 3, torch.zeros(2), b"tanh", np.array("tanh")])
def test_a_name_is_text(name):
    with pytest.raises(InputError, match="unknown activation: expected one of relu, tanh; got ") as caught:
        checks.one_of("activation", name, ("relu", "tanh"))
    assert "\n" not in str(caught.value)


def test_plain_values_can_be_written_down():
    given = {"a": np.int64(1), "b": (np.float64(0.5), torch.tensor(2)), "c": {"d": None, "e": "x", "f": np.bool_(True)}}
    found = checks.as_plain("source", given)
    assert json.loads(json.dumps(found)) == {"a": 1, "b": [0.5, 2], "c": {"d": None, "e": "x", "f": True}}
    assert type(found["a"]) is int


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"a": {"b": object}}, "source a b: expected plain values.*; got <class 'object'>"),
        ({"a": [1, np.zeros(2)]}, r"source a \[1\]: expected plain values.*; got array\(\[0., 0.\]\)"),
        ({"a": {1: 2}}, "source a: expected a mapping of names to values; got the key 1"),
        ({"a": float("nan")}, "source a: expected plain values: finite numbers.*; got nan"),
    ],
)
def test_what_is_not_plain_is_named_by_its_key(value, line):
    with pytest.raises(InputError, match=line):
        checks.as_plain("source", value)


def test_paths():
    assert checks.as_path("run_dir", "a") == checks.as_path("run_dir", Path("a")) == Path("a")
    for value in ("", 2, b"a", None, "a\0b", ["a"]):
        with pytest.raises(InputError, match=r"run_dir: expected a path; got .*; try run_dir="):
            checks.as_path("run_dir", value)


def test_a_value_is_shown_in_one_short_line():
    assert shown("a") == "'a'"
    assert "\n" not in shown(torch.zeros(100, 100))
    assert len(shown("long" * 1000)) == 80


def test_sizes_that_no_memory_holds_are_told():
    from ppl_vae.models import PPCA, VAE

    with pytest.raises(InputError, match=r"PPCA: expected sizes that fit into memory; got .*"):
        PPCA(2**31 - 1, 2**31 - 1)
    with pytest.raises(
        InputError, match=r"x_shape: expected at most 2147483647 numbers in all; got \(100000, 100000\)"
    ):
        VAE((100_000, 100_000), 2)
