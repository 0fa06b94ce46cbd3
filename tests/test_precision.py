"""Products in less than float32: what is rounded, what is not, and what it does to the bound."""

import pytest
import torch
from pairs import PAIRS
from torch.nn import functional as F

import ppl_vae
from ppl_vae.errors import InputError
from ppl_vae.precision import in_precision, products_in


def test_bf16_rounds_the_inputs_of_products_and_nothing_else():
    torch.manual_seed(0)
    x, w, b = torch.randn(5, 7), torch.randn(3, 7), torch.randn(3)

    def program():
        return F.linear(x, w, b), x @ w.T, x.exp()

    linear, product, exp = in_precision(program, "bf16")()
    assert linear.dtype == product.dtype == exp.dtype == torch.float32
    assert torch.equal(linear, F.linear(x.bfloat16(), w.bfloat16(), b.bfloat16()).float())
    assert torch.equal(product, (x.bfloat16() @ w.T.bfloat16()).float())
    assert not torch.equal(product, x @ w.T)
    assert torch.equal(exp, x.exp())
    assert in_precision(program, "tf32") is program


@pytest.mark.parametrize("name", ["float32", "tf32"])
def test_the_setting_of_products_is_put_back(name):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with products_in(name):
        assert torch.get_float32_matmul_precision() == ("high" if name == "tf32" else "highest")
        assert torch.backends.cudnn.allow_tf32 is (name == "tf32")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize("path", ["off", "graph"])
def test_a_fit_in_bf16_says_what_it_did_to_the_bound(path):
    case = PAIRS["vae-bernoulli"]
    runs = {}
    for precision in ("float32", "bf16"):
        pair = ppl_vae.Pair(*case.build())
        runs[precision] = ppl_vae.fit(pair, case.batch(60), epochs=2, batch_size=20, compile=path, precision=precision)
    told = runs["bf16"].config["precision"]
    assert told["name"] == "bf16"
    assert told["data"] == 60
    assert 0 < abs(told["bound_bf16"] - told["bound_float32"]) < 0.1
    assert "precision" not in runs["float32"].config
    first, second = (run.history["train_bound"] for run in runs.values())
    assert first != second
    assert first == pytest.approx(second, abs=0.1)
    assert next(runs["bf16"].pair.parameters()).dtype is torch.float32


def test_an_unknown_precision_is_refused():
    case = PAIRS["vae-bernoulli"]
    with pytest.raises(InputError, match=r"unknown precision: expected one of .*; got 'fp16'"):
        ppl_vae.fit(ppl_vae.Pair(*case.build()), case.batch(60), precision="fp16")
