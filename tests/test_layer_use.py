"""What layers of latents are used for, against closed forms, brute force, and units whose use is known."""

from __future__ import annotations

import math

import own_pairs
import pytest
import scipy.stats
import torch
from estimates import SE
from pairs import PAIRS, D
from test_hierarchical import GUIDES, data_of, joint, linear_pair, posterior_of

from ppl_vae import Pair
from ppl_vae.errors import InputError
from ppl_vae.evaluation.layers import layer_use, reconstruct_from, table
from ppl_vae.exact import gaussian_kl
from ppl_vae.guides import AmortizedNormal, BottomUp, TopDown
from ppl_vae.models import VAE, Hierarchical


@pytest.mark.parametrize("kind", GUIDES)
def test_kl_of_the_layers_agrees_with_the_closed_form(kind):
    """They add up to KL(q(z1, z2|x) || p(z1, z2)); one that is drawn first, from x alone, has KL(q(z2|x) || p(z2))."""
    pair = linear_pair(kind, (2, 2))
    batch = data_of(pair, 40)
    uses = layer_use(pair, batch, num_draws=400)
    assert [use.site for use in uses] == ["z1", "z2"]
    p, q = joint(pair.model), posterior_of(pair, kind, batch["x"])
    whole = float(q.kl(p.marginal("z1", "z2")).mean())
    # Draws only: the data are the same on both sides. A KL of some nats varies by less than itself from draw to draw.
    assert sum(use.kl for use in uses) == pytest.approx(whole, abs=SE * 2 * whole / (40 * 400) ** 0.5)
    if kind != "bottom-up":
        top = q.marginal("z2")
        mean, covariance = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
        kls = gaussian_kl(top.mean, top.covariance, mean, covariance)
        assert uses[1].kl == pytest.approx(float(kls.mean()), rel=1e-9)
        assert uses[1].kl_error == pytest.approx(float(kls.std() / 40**0.5), rel=1e-9)


def test_active_units_are_those_whose_posterior_mean_moves_with_the_data():
    """z2's mean is linear in z1's draw: Var E[z2|x] is known, and the noise of two draws lifts all units above 0.01."""
    pair = Pair(Hierarchical(3, (3, 3), hidden=()), BottomUp(3, (3, 3), hidden=())).double()
    for parameter in pair.guide.parameters():
        parameter.data.zero_()
    x = torch.randint(2, (2000, 3), generator=torch.Generator().manual_seed(0)).double()
    variance = x.var(0)
    first, second = (network.layers[-1] for network in pair.guide.networks)
    first.weight.data[:3] = torch.eye(3)
    second.weight.data[:3] = torch.diag(torch.tensor([0.02, 0.005, 1.0]).div(variance).sqrt())
    uses = layer_use(pair, {"x": x}, num_draws=2)
    assert [use.active for use in uses] == [3, 2]
    second.weight.data[0] *= 0.5
    assert layer_use(pair, {"x": x}, num_draws=2)[1].active == 1


def test_information_by_brute_force():
    """I = E[log q(z|x_n) - log (1/N) sum_m q(z|x_m)], the densities SciPy's."""
    pair = Pair(VAE(D, 2, hidden=()), AmortizedNormal(D, 2, hidden=())).double()
    pair.guide.encoder.layers[-1].weight.data[:2] *= 4
    batch = {"x": PAIRS["vae-bernoulli"].batch(60)["x"].double()}
    (use,) = layer_use(pair, batch, num_draws=2, seed=7)
    with torch.no_grad():
        q = pair.guide.posterior(batch["x"])
        z = torch.distributions.Normal(q.mean, q.stddev).sample((2000,)).numpy()
    densities = scipy.stats.norm.pdf(z[:, :, None], q.mean.numpy(), q.stddev.numpy()).prod(-1)  # (2000, N, N)
    own = torch.tensor(densities).diagonal(dim1=1, dim2=2)
    wanted = (own.log() - torch.tensor(densities).mean(2).log()).mean(0)
    low, high = use.information
    assert low == pytest.approx(high, abs=1e-9)  # drawn from x alone
    assert abs(low - float(wanted.mean())) < SE * use.information_error
    assert low > SE * use.information_error


@pytest.mark.parametrize(("scale", "wanted"), [(1e3, math.log(50)), (0.0, 0.0)])
def test_information_is_that_of_the_index_at_most(scale, wanted):
    """Far apart, z tells which datum it is: log N. The same for all, it tells nothing, at either layer."""
    pair = Pair(Hierarchical(2, (2, 2), hidden=()), BottomUp(2, (2, 2), hidden=())).double()
    for parameter in pair.guide.parameters():
        parameter.data.zero_()
    for network in pair.guide.networks:
        network.layers[-1].weight.data[:2] = scale**0.5 * torch.eye(2)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if scale:
        x = torch.stack([torch.arange(50.0), torch.arange(50.0)], 1).double()
    model = Hierarchical(2, (2, 2), hidden=(), likelihood="normal").double()
    for use in layer_use(Pair(model, pair.guide), {"x": x}, num_draws=4):
        assert use.information == pytest.approx((wanted, wanted), abs=1e-9)


def test_information_of_a_layer_that_depends_on_a_draw_alone_lies_between_the_two():
    """z1 is z2 and a little noise, and z2 has nothing of x: the truth is 0, and z1's own parents tell it apart."""
    pair = Pair(Hierarchical(2, (1, 1), hidden=()), TopDown(2, (1, 1), hidden=())).double()
    for parameter in pair.guide.parameters():
        parameter.data.zero_()
    first = pair.guide.networks[0].layers[-1]
    first.weight.data[0, 2], first.bias.data[1] = 1.0, -6.0
    batch = {"x": torch.randint(2, (100, 2), generator=torch.Generator().manual_seed(0)).double()}
    below, above = layer_use(pair, batch, num_draws=5)
    low, high = below.information
    assert low == 0
    assert high > 1
    assert above.information == pytest.approx((0.0, 0.0), abs=1e-9)


def test_a_table_and_a_seed():
    pair, batch = Pair(*PAIRS["ladder-batch-norm"].build()), PAIRS["ladder-batch-norm"].batch(20)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    random = torch.get_rng_state()
    first = layer_use(pair, batch, seed=1)
    assert first == layer_use(pair, batch, seed=1)
    assert first != layer_use(pair, batch, seed=2)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    lines = table(first).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "z1", "z2"]


def test_reconstructions_from_upper_layers():
    """E[x|z2] with z2 ~ q(z2|x), z1 ~ p(z1|z2): its mean over draws is affine in the mean of q(z2|x)."""
    pair = linear_pair("top-down", (2, 2))
    x = data_of(pair, 1)["x"]
    repeated = {"x": x.expand(40_000, -1)}
    torch.manual_seed(0)
    top = reconstruct_from(pair, repeated, ["z2"])["x"]
    both = reconstruct_from(pair, repeated, ["z1", "z2"])["x"]
    q = posterior_of(pair, "top-down", x)
    decoder, (above,) = pair.model.decoder.layers[-1], pair.model.conditionals
    V, a, _ = above.layer()
    z1 = {"top": q.marginal("z2").mean @ V.T + a, "both": q.marginal("z1").mean}
    for name, found in (("top", top), ("both", both)):
        wanted = (z1[name] @ decoder.weight.T + decoder.bias)[0]
        assert ((found.mean(0) - wanted).abs() < SE * found.std(0) / 200).all()
    assert ((both.mean(0) - top.mean(0)).abs() > 20 * top.std(0) / 200).any()


def test_bad_input():
    pair, batch = Pair(*PAIRS["ladder-2"].build()), PAIRS["ladder-2"].batch()
    with pytest.raises(InputError, match="num_draws: expected an integer >= 2; got 1"):
        layer_use(pair, batch, num_draws=1)
    with pytest.raises(InputError, match="number of data: expected an integer >= 2; got 1"):
        layer_use(pair, {"x": batch["x"][:1]})
    with pytest.raises(InputError, match="latent: expected one of z1, z2; got 'z3'"):
        reconstruct_from(pair, batch, ["z3"])
    with pytest.raises(InputError, match="sites: expected at least one latent; got none"):
        reconstruct_from(pair, batch, [])
    with pytest.raises(InputError, match="expected latents that belong to single data; got some that all data share"):
        layer_use(Pair(own_pairs.Shared(), own_pairs.SharedGuide()), own_pairs.batch())
    with pytest.raises(InputError, match="an autoencoder has no log p"):
        layer_use(Pair(*PAIRS["autoencoder"].build()), PAIRS["autoencoder"].batch())


def test_any_pair_will_do():
    (use,) = layer_use(own_pairs.pair(), own_pairs.batch())
    assert (use.site, use.size) == ("z", 2)
    assert use.kl > 0
    labelled = Pair(*PAIRS["cvae-labels"].build())
    assert reconstruct_from(labelled, PAIRS["cvae-labels"].batch(), ["z"])["x"].shape == (6, D)
