"""What layers of latents are used for, against closed forms, brute force, and units whose use is known."""

from __future__ import annotations

import math

import own_pairs
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from estimates import SE
from linear_hierarchies import GUIDES, data_of, joint, linear_pair, posterior_of
from pairs import PAIRS, D
from pyro.nn import PyroModule

from ppl_vae import Pair
from ppl_vae.core.errors import InputError
from ppl_vae.evaluation.representation import layers
from ppl_vae.evaluation.representation.layers import LayerUse, layer_use, reconstruct_from, table, units_in_use
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


@pytest.mark.slow
def test_active_units_are_those_whose_posterior_mean_moves_with_the_data():
    """z2's mean is linear in z1's draw: Var E[z2|x] is known, and the noise of two draws lifts all units above 0.01."""
    pair = Pair(Hierarchical(3, (3, 3), hidden=()), BottomUp(3, (3, 3), hidden=())).double()
    for parameter in pair.guide.parameters():
        parameter.data.zero_()
    x = torch.randint(2, (2000, 3), generator=torch.Generator().manual_seed(0)).double()
    variance = x.var(0)
    first, second = (head.network.layers[-1] for head in pair.guide.networks)
    first.weight.data[:3] = torch.eye(3)
    second.weight.data[:3] = torch.diag(torch.tensor([0.02, 0.005, 1.0]).div(variance).sqrt())
    uses = layer_use(pair, {"x": x}, num_draws=2)
    assert [use.active for use in uses] == [3, 2]
    second.weight.data[0] *= 0.5
    assert layer_use(pair, {"x": x}, num_draws=2)[1].active == 1


@pytest.mark.slow
def test_information_by_brute_force():
    """I = E[log q(z|x_n) - log (1/N) sum_m q(z|x_m)], the densities SciPy's."""
    pair = Pair(VAE(D, 2, hidden=()), AmortizedNormal(D, 2, hidden=())).double()
    pair.guide.posterior.network.layers[-1].weight.data[:2] *= 4
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
    """Far apart, z identifies the datum: log N. The same for all, it has no information, at either layer."""
    pair = Pair(Hierarchical(2, (2, 2), hidden=()), BottomUp(2, (2, 2), hidden=())).double()
    for parameter in pair.guide.parameters():
        parameter.data.zero_()
    for head in pair.guide.networks:
        head.network.layers[-1].weight.data[:2] = scale**0.5 * torch.eye(2)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if scale:
        x = torch.stack([torch.arange(50.0), torch.arange(50.0)], 1).double()
    model = Hierarchical(2, (2, 2), hidden=(), likelihood="normal").double()
    for use in layer_use(Pair(model, pair.guide), {"x": x}, num_draws=4):
        assert use.information == pytest.approx((wanted, wanted), abs=1e-9)


def test_information_of_a_layer_that_depends_on_a_draw_alone_lies_between_the_two():
    """z1 is z2 and a little noise, and z2 has nothing of x: the truth is 0, and only z1's own parents identify it."""
    pair = Pair(Hierarchical(2, (1, 1), hidden=()), TopDown(2, (1, 1), hidden=())).double()
    for parameter in pair.guide.parameters():
        parameter.data.zero_()
    first = pair.guide.networks[0].network.layers[-1]
    first.weight.data[0, 2], first.bias.data[1] = 1.0, -6.0
    batch = {"x": torch.randint(2, (100, 2), generator=torch.Generator().manual_seed(0)).double()}
    below, above = layer_use(pair, batch, num_draws=5)
    low, high = below.information
    assert low == 0
    assert high > 1
    assert above.information == pytest.approx((0.0, 0.0), abs=1e-9)


class Collapsed(PyroModule):
    """z2 from x, z1 from the model's own p(z1|z2): a lower layer that adds nothing to the upper one."""

    def __init__(self, model, gain, scale):
        super().__init__()
        self.conditional, self.gain, self.scale = model.conditional, gain, scale

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(self.gain * x, self.scale).to_event(1))
            pyro.sample("z1", self.conditional(1, z2))


def collapsed(gain=2.0, scale=0.5, slope=1.5, noise=0.1, N=40):
    """A pair of two latents of one unit, z1 = slope z2 + noise, and x that is -1 or 1 in turn."""
    model = Hierarchical(1, (1, 1), hidden=(), likelihood="normal").double()
    for parameter in model.conditionals.parameters():
        parameter.data.zero_()
    last = model.conditionals[0].network.layers[-1]
    last.weight.data[0, 0], last.bias.data[1] = slope, math.log(math.expm1(noise - 1e-4))
    return Pair(model, Collapsed(model, gain, scale)), {"x": torch.tensor([[-1.0], [1.0]] * (N // 2)).double()}


def index_information(mean, scale):
    """Return the information in z on which of two equally likely it is, N(-mean, scale^2) or N(mean, scale^2)."""
    normal = scipy.stats.norm(mean, scale)

    def integrand(z):
        return normal.pdf(z) * (normal.logpdf(z) - math.log((normal.pdf(z) + normal.pdf(-z)) / 2))

    return scipy.integrate.quad(integrand, mean - 8 * scale, mean + 8 * scale)[0]


def test_a_layer_drawn_from_the_models_own_conditional_is_not_in_use():
    """Its mean moves with the layer above, so that it is active, and its KL is 0."""
    pair, batch = collapsed()
    below, above = layer_use(pair, batch)
    assert (below.kl, below.in_use, below.active) == (pytest.approx(0, abs=1e-9), 0, 1)
    assert (above.in_use, above.active) == (1, 1)
    assert units_in_use(pair, batch) == {"z2": 1, "z1": 0}


@pytest.mark.parametrize(("gain", "scale"), [(1.0, 0.7), (0.3, 1.0), (0.0, 1.0)])
def test_information_of_such_a_layer_is_held_below_the_kl_of_those_above(gain, scale):
    """The truth by quadrature lies between the ends; z1's density given its own z2 would identify every datum."""
    slope, noise = 1.5, 0.1
    pair, batch = collapsed(gain, scale, slope, noise)
    below, above = layer_use(pair, batch, num_draws=50)
    kl = 0.5 * (gain**2 + scale**2 - 1) - math.log(scale)  # of z2, the same for all data
    assert below.information[1] <= kl + 1e-9
    assert below.most_information == pytest.approx(math.log(40))
    truth = index_information(gain * slope, math.hypot(slope * scale, noise))
    low, high = below.information
    assert low - SE * below.information_error - 1e-9 <= truth <= high + SE * below.information_error + 1e-9
    truth = index_information(gain, scale)
    assert above.information[1] <= kl + 1e-9
    assert abs(above.information[0] - truth) <= SE * above.information_error + 1e-9


def test_a_prior_that_knows_the_datum_bounds_no_information():
    """q(z|x, c) = p(z|c) has a KL of 0, and z identifies the c it was drawn for."""

    def model(x=None, c=None, size=None):
        with pyro.plate("data", len(c), dim=-1):
            z = pyro.sample("z", dist.Normal(3 * c, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x=None, c=None, size=None):
        with pyro.plate("data", len(c), dim=-1):
            pyro.sample("z", dist.Normal(3 * c, 1.0).to_event(1))

    c = torch.tensor([[-1.0], [1.0]] * 500)
    (use,) = layer_use(Pair(model, guide), {"x": torch.zeros(1000, 1), "c": c})
    assert (use.kl, use.in_use) == (0, 0)
    truth = index_information(3.0, 1.0)
    assert abs(use.information[1] - truth) < SE * use.information_error
    assert truth > 0.5


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_units_in_use_are_those_with_a_kl(covariance):
    """By the formula for Normals, to one side and the other of 0.01 nats; a full covariance by its marginals."""
    pair = Pair(VAE(D, 3, hidden=()), AmortizedNormal(D, 3, hidden=(), covariance=covariance)).double()
    last = pair.guide.posterior.network.layers[-1]
    for parameter in pair.guide.parameters():
        parameter.data.zero_()
    last.bias.data[:3] = torch.tensor([0.15, 0.13, 0.0])  # KLs of 0.0113, 0.0085 and 0
    batch = {"x": PAIRS["vae-bernoulli"].batch(20)["x"].double()}
    q = pair.guide.posterior(batch["x"])
    kls = (0.5 * (q.mean**2 + q.variance - 1) - 0.5 * q.variance.log()).mean(0)
    assert kls.tolist() == pytest.approx([0.01125, 0.00845, 0.0])
    (use,) = layer_use(pair, batch)
    assert (use.in_use, use.active) == (1, 0)
    last.weight.data[:3] = 0.01 * torch.eye(3, D)
    last.weight.data[2, 2] = 2.0
    (use,) = layer_use(pair, batch)
    assert (use.in_use, use.active) == (2, 1)
    assert units_in_use(pair, batch) == {"z": 2}


def test_units_of_another_law_have_no_kl_of_their_own():
    """They are no number in the table, and the report of such a pair has none."""

    def model(x=None, size=None):
        with pyro.plate("data", len(x) if size is None else size, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.LowRankMultivariateNormal(x, torch.ones(3, 1), torch.ones(3)))

    pair, batch = Pair(model, guide), {"x": torch.randn(20, 3, generator=torch.Generator().manual_seed(0))}
    (use,) = layer_use(pair, batch)
    assert (use.in_use, use.active) == (None, 3)
    assert units_in_use(pair, batch) == {}
    assert table([use]).splitlines()[1].split()[:3] == ["z", "3", "–"]


@pytest.mark.parametrize("kind", GUIDES)
def test_kls_of_units_add_up_to_that_of_their_layer(kind, monkeypatch):
    """Whether in closed form or by draws, as they are for the lower layer of a bottom-up guide."""
    pair = linear_pair(kind, (3, 2))
    seen = {}

    def spy(name, record):
        return seen.setdefault(name, unit_kl(name, record))

    unit_kl = layers._unit_kl
    monkeypatch.setattr(layers, "_unit_kl", spy)
    for use in layer_use(pair, data_of(pair, 30)):
        assert seen[use.site].shape == (use.size,)
        assert float(seen[use.site].sum()) == pytest.approx(use.kl, rel=1e-9, abs=1e-9)
        assert use.in_use == int((seen[use.site] > 0.01).sum())


@pytest.mark.parametrize(
    ("information", "shown"),
    [
        ((1.234, 1.2341), "1.23 ± 0.02"),
        ((1.0, 1.5), "1.00 to 1.50 ± 0.02"),
        ((0.0, 1.5), "at most 1.50 ± 0.02"),
        ((0.0, 0.0), "0.00 ± 0.02"),
        ((0.0, math.log(180)), "–"),
        ((4.0, math.log(180)), "4.00 to 5.19 ± 0.02"),
    ],
)
def test_a_table_shows_what_is_known_of_the_information(information, shown):
    use = LayerUse("z", 2, -0.001, 0.001, 1, 2, information, 0.02, math.log(180))
    head, row = table([use]).splitlines()
    assert head.split() == ["layer", "units", "in", "use", "KL,", "nats", "information,", "nats"]
    assert " ".join(row.split()) == f"z 2 1 0.00 ± 0.00 {shown}"


class Classes(PyroModule):
    """A class of three, and a Normal whose mean it decides; drawn from one distribution of the class for each datum."""

    def __init__(self, guide):
        super().__init__()
        self.guide = guide
        self.register_buffer("means", torch.tensor([[-1.0], [0.0], [2.0]]))

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            logits = x if self.guide else torch.zeros(3)
            infer = {"enumerate": "parallel"} if self.guide else {}
            k = pyro.sample("k", dist.Categorical(logits=logits), infer=infer)
            z = pyro.sample("z", dist.Normal(self.means[k], 1.0).to_event(1))
            if not self.guide:
                pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], 3), 1.0).to_event(1), obs=x)


@pytest.mark.slow
def test_a_class_has_a_kl_and_information_and_no_mean():
    """KL_k = E_q[log q(k|x) - log 1/3] and I_k = E[log q(k|x) - log mean_n q(k|x_n)] are sums over three classes."""
    x = 2 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    below, above = layer_use(Pair(Classes(guide=False), Classes(guide=True)), {"x": x}, num_draws=400)
    q = x.double().softmax(1)
    kl = (q * (3 * q).log()).sum(1)
    assert (above.site, above.size, above.in_use, above.active) == ("k", 1, 1, None)
    # 400 draws for each of 200 data, of which log q + log 3 varies by less than 2 nats
    assert above.kl == pytest.approx(float(kl.mean()), abs=SE * 2 / (200 * 400) ** 0.5)
    information = float((q * (q / q.mean(0)).log()).sum(1).mean())
    assert above.information[0] == pytest.approx(above.information[1], abs=1e-6)
    assert above.information[1] == pytest.approx(information, abs=SE * above.information_error)
    assert (below.site, below.in_use, below.active) == ("z", 0, 1)  # it adds nothing to its class
    assert "k" in table([below, above]).splitlines()[2]


def test_a_transformed_latent_has_no_mean_and_a_kl():
    class Shifted(PyroModule):
        def forward(self, x=None, size=None):
            with pyro.plate("data", len(x), dim=-1):
                base = dist.Normal(x[..., :2], 1.0).to_event(1)
                pyro.sample(
                    "z", dist.TransformedDistribution(base, dist.transforms.AffineTransform(1.0, 1.0, event_dim=1))
                )

    x = torch.randint(2, (50, D), generator=torch.Generator().manual_seed(0)).float()
    (use,) = layer_use(Pair(VAE(D, 2, hidden=()), Shifted()), {"x": x}, num_draws=400)
    wanted = (x[:, :2] + 1).square().sum(1).mean() / 2  # of N(x + 1, 1) from N(0, 1)
    assert use.active is None
    assert use.kl == pytest.approx(float(wanted), abs=SE * (2 * float(wanted) / (50 * 400)) ** 0.5)


@pytest.mark.parametrize("name", ["m2-unlabelled", "m2-sampled-mixed", "m1m2-mixed"])
def test_latents_beside_a_class_have_their_use(name):
    pair, batch = Pair(*PAIRS[name].build()), PAIRS[name].batch(20)
    uses = {use.site: use for use in layer_use(pair, batch)}
    assert {site: use.in_use for site, use in uses.items()} == units_in_use(pair, batch)
    assert [site for site, use in uses.items() if use.active is None] == ["y"]


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
    decoder, (above,) = pair.model.decode.network.layers[-1], pair.model.conditionals
    V, a, _ = above.network.layer()
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
    with pytest.raises(InputError, match="expected local latents; got global ones"):
        layer_use(Pair(own_pairs.Shared(), own_pairs.SharedGuide()), own_pairs.batch())
    with pytest.raises(InputError, match="an autoencoder has no log p"):
        layer_use(Pair(*PAIRS["autoencoder"].build()), PAIRS["autoencoder"].batch())


def test_any_pair_will_do():
    (use,) = layer_use(own_pairs.pair(), own_pairs.batch())
    assert (use.site, use.size) == ("z", 2)
    assert use.kl > 0
    labelled = Pair(*PAIRS["cvae-labels"].build())
    assert reconstruct_from(labelled, PAIRS["cvae-labels"].batch(), ["z"])["x"].shape == (6, D)
