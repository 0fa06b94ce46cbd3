"""Products in less than float32: what is rounded, what is not, and what it does to the bound."""

import json
import os
import subprocess
import sys

import pytest
import torch
from pairs import PAIRS
from torch.nn import functional as F

import ppl_vae
from ppl_vae.compile.precision import in_precision, products_in
from ppl_vae.core.errors import InputError


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


MADE = [
    "",
    'backends.cuda.matmul.fp32_precision = "tf32"',
    'backends.fp32_precision = "tf32"',
    'backends.fp32_precision = "ieee"',
    'backends.cudnn.rnn.fp32_precision = "ieee"',
    'backends.cudnn.fp32_precision = "tf32"; backends.cudnn.conv.fp32_precision = "none"',
    'backends.mkldnn.matmul.fp32_precision = "bf16"',
    "backends.cudnn.allow_tf32 = False",
    'torch.set_float32_matmul_precision("medium")',
    'torch.set_float32_matmul_precision("high"); backends.cuda.matmul.fp32_precision = "ieee"',
]

#: Prints, for each line of MADE, the settings of products before `code`, after it, and with another one for all.
AROUND = """
import json, os, sys
import torch
from torch import backends
import ppl_vae
from ppl_vae.compile.precision import products_in


def read(getter):
    try:
        return getter()
    except RuntimeError:
        return "mixed"


def settings():
    owners = [
        backends, backends.cudnn, backends.mkldnn, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn,
        backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn,
    ]
    old = [lambda: backends.cudnn.allow_tf32, lambda: backends.cuda.matmul.allow_tf32]
    return list(map(read, [torch.get_float32_matmul_precision, *old])), [owner.fp32_precision for owner in owners]


for line in json.loads(sys.argv[1]):
    reading, writing = os.pipe()
    if not os.fork():  # nothing of one line is left for the next
        exec(line)
        before = settings()
        exec(sys.argv[2])
        after = settings()
        backends.fp32_precision = "tf32" if backends.fp32_precision == "ieee" else "ieee"
        os.write(writing, json.dumps([before, after, settings()]).encode())
        os._exit(0)
    os.close(writing)
    print(os.fdopen(reading).read())
"""


def settings_around(code, lines=MADE):
    """Return by line of MADE the settings of products before `code`, after it, and with another one for all."""
    command = [sys.executable, "-c", AROUND, json.dumps(lines), code]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(lines, map(json.loads, done.stdout.splitlines()), strict=True))


newer = pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision") or not hasattr(os, "fork"),
    reason="torch without a precision for each operation",
)

INSIDE = """
for name, matmul, other in (("float32", "highest", "ieee"), ("tf32", "high", "tf32")):
    with products_in(name):
        assert torch.get_float32_matmul_precision() == matmul
        assert backends.cuda.matmul.allow_tf32 is backends.cudnn.allow_tf32 is (name == "tf32")
        assert backends.cuda.matmul.fp32_precision == other
        assert (backends.cudnn.conv.fp32_precision == "tf32") is (name == "tf32")
"""


@pytest.mark.slow
@newer
def test_settings_by_either_interface_are_put_back():
    untouched = settings_around("")
    assert untouched[MADE[1]][0][0] == ["mixed", True, "mixed"]
    for line, (before, after, later) in settings_around(INSIDE).items():
        assert after == before, line
        # but cuDNN's, whose default gives way to what is set for all: torch has no way back to it
        assert [*later[1][:4], *later[1][6:]] == [*untouched[line][2][1][:4], *untouched[line][2][1][6:]], line


@pytest.mark.slow
@newer
def test_a_program_of_the_newer_interface_fits():
    code = """
for precision in ("float32", "tf32"):
    pair = ppl_vae.Pair(ppl_vae.models.PPCA(3, 1), ppl_vae.guides.AmortizedNormal(3, 1, hidden=(4,)))
    ppl_vae.fit(pair, {"x": torch.randn(40, 3)}, epochs=1, precision=precision, progress=False, device="cpu")
"""
    ((before, after, _),) = settings_around(code, MADE[1:2]).values()
    assert after == before


@pytest.mark.parametrize("path", ["off", "graph"])
def test_a_fit_in_bf16_says_what_it_did_to_the_bound(path):
    case = PAIRS["vae-bernoulli"]
    runs = {}
    for precision in ("float32", "bf16"):
        pair = ppl_vae.Pair(*case.build())
        runs[precision] = ppl_vae.fit(pair, case.batch(60), epochs=2, batch_size=20, compile=path, precision=precision)
    effect = runs["bf16"].config["precision"]
    assert effect["name"] == "bf16"
    assert effect["data"] == 60
    assert 0 < abs(effect["bound_bf16"] - effect["bound_float32"]) < 0.1
    assert "precision" not in runs["float32"].config
    first, second = (run.history["train_bound"] for run in runs.values())
    assert first != second
    assert first == pytest.approx(second, abs=0.1)
    assert next(runs["bf16"].pair.parameters()).dtype is torch.float32


def test_an_unknown_precision_is_refused():
    case = PAIRS["vae-bernoulli"]
    with pytest.raises(InputError, match=r"unknown precision: expected one of .*; got 'fp16'"):
        ppl_vae.fit(ppl_vae.Pair(*case.build()), case.batch(60), precision="fp16")
