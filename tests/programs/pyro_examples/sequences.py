"""Programs over time as Pyro's examples write them: a deep Markov model, attend-infer-repeat, a hidden Markov model."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import TransformedDistribution
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoDelta
from torch import nn
from torch.distributions import constraints
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

ROWS, STEPS, TONES = 10, 4, 5


def tones():
    """Return sequences (N, 4, 5) of zeros and ones, the same reversed in time, masks (N, 4) and lengths (N,)."""
    random = torch.Generator().manual_seed(4)
    kind = torch.get_default_dtype()
    lengths = torch.randint(1, STEPS + 1, (ROWS,), generator=random)
    lengths[0] = STEPS
    mask = torch.arange(STEPS) < lengths[:, None]
    x = (torch.rand(ROWS, STEPS, TONES, generator=random) > 0.5).to(kind) * mask[..., None]
    reversed_ = torch.stack([torch.cat([row[:n].flip(0), row[n:]]) for row, n in zip(x, lengths, strict=True)])
    return {
        "mini_batch": x,
        "mini_batch_reversed": reversed_,
        "mini_batch_mask": mask.to(kind),
        "mini_batch_seq_lengths": lengths,
    }


class DMM(nn.Module):
    """Krishnan et al.'s deep Markov model: a recurrent network over packed sequences, and flows in the guide."""

    def __init__(self, latent=2, hidden=4, num_iafs=1, annealing_factor=1.0):
        super().__init__()
        self.emitter = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, TONES), nn.Sigmoid())
        self.trans = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.combiner = nn.Linear(latent, hidden)
        self.to_loc, self.to_scale = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.rnn = nn.RNN(TONES, hidden, batch_first=True)
        self.iafs = nn.ModuleList([affine_autoregressive(latent, hidden_dims=[hidden]) for _ in range(num_iafs)])
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(latent)), nn.Parameter(torch.zeros(latent))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, hidden))
        self.annealing_factor = annealing_factor

    def model(self, mini_batch, mini_batch_reversed, mini_batch_mask, mini_batch_seq_lengths):
        steps = mini_batch.size(1)
        pyro.module("dmm", self)
        z_prev = self.z_0.expand(mini_batch.size(0), self.z_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, steps + 1)):
                loc, scale = self.trans(z_prev).chunk(2, -1)
                seen = mini_batch_mask[:, t - 1 : t].bool()
                with poutine.scale(scale=self.annealing_factor):
                    z_dist = dist.Normal(loc, scale.exp()).mask(seen).to_event(1)
                    z_t = pyro.sample(f"z_{t}", z_dist)
                emission = dist.Bernoulli(self.emitter(z_t)).mask(seen).to_event(1)
                pyro.sample(f"obs_x_{t}", emission, obs=mini_batch[:, t - 1, :])
                z_prev = z_t

    def guide(self, mini_batch, mini_batch_reversed, mini_batch_mask, mini_batch_seq_lengths):
        steps = mini_batch.size(1)
        pyro.module("dmm", self)
        h_0 = self.h_0.expand(1, mini_batch.size(0), self.rnn.hidden_size).contiguous()
        packed = pack_padded_sequence(
            mini_batch_reversed, mini_batch_seq_lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        output, _ = pad_packed_sequence(self.rnn(packed, h_0)[0], batch_first=True, total_length=steps)
        z_prev = self.z_q_0.expand(mini_batch.size(0), self.z_q_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, steps + 1)):
                hidden = 0.5 * (self.combiner(z_prev).tanh() + output[:, t - 1, :])
                loc, scale = self.to_loc(hidden), self.to_scale(hidden).exp()
                seen = mini_batch_mask[:, t - 1 : t].bool()
                with poutine.scale(scale=self.annealing_factor):
                    if len(self.iafs) > 0:
                        z_dist = TransformedDistribution(dist.Normal(loc, scale), list(self.iafs))
                        assert z_dist.event_shape == (self.z_q_0.size(0),)
                        with poutine.mask(mask=seen[:, 0]):
                            z_prev = pyro.sample(f"z_{t}", z_dist)
                    else:
                        z_prev = pyro.sample(f"z_{t}", dist.Normal(loc, scale).mask(seen).to_event(1))


def scenes():
    """Return images (N, 3, 3)."""
    return {
        "data": torch.randn(ROWS, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.get_default_dtype())
    }


class AIR(nn.Module):
    """Eslami et al.'s attend, infer, repeat, without its attention: objects are there or not, one after the other."""

    def __init__(self, steps=2, latent=2, hidden=5):
        super().__init__()
        self.steps, self.latent = steps, latent
        self.rnn = nn.RNNCell(9 + latent + 1, hidden)
        self.predict, self.encode = nn.Linear(hidden, 1), nn.Linear(hidden, 2 * latent)
        self.decode = nn.Linear(latent, 9)
        self.h_init = nn.Parameter(torch.zeros(1, hidden))

    def model(self, data):
        pyro.module("decode", self.decode)
        n = data.size(0)
        with pyro.plate("data", n, device=data.device):
            x, present = data.new_zeros(n, 9), data.new_ones(n, 1)
            for t in range(self.steps):
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(0.5 * present).to_event(1))
                what = dist.Normal(data.new_zeros(n, self.latent), 1.0).mask(present.bool()).to_event(1)
                x = x + self.decode(pyro.sample(f"z_what_{t}", what)) * present
            pyro.sample("obs", dist.Normal(x, 0.3).to_event(1), obs=data.view(n, -1))

    def guide(self, data):
        pyro.module("rnn", self.rnn)
        pyro.module("predict", self.predict)
        pyro.module("encode", self.encode)
        n = data.size(0)
        with pyro.plate("data", n, device=data.device):
            h = pyro.param("h_init", self.h_init).expand(n, -1)
            what, present = data.new_zeros(n, self.latent), data.new_ones(n, 1)
            for t in range(self.steps):
                h = self.rnn(torch.cat([data.view(n, -1), what, present], 1), h)
                chance = torch.sigmoid(self.predict(h)).clamp(0.01, 0.99) * present
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(chance).to_event(1))
                loc, scale = self.encode(h).chunk(2, -1)
                what = pyro.sample(f"z_what_{t}", dist.Normal(loc, scale.exp()).mask(present.bool()).to_event(1))


def hmm_data():
    """Return sequences (N, 4, 5) of zeros and ones and lengths (N,)."""
    data = tones()
    return {"sequences": data["mini_batch"], "lengths": data["mini_batch_seq_lengths"]}


@config_enumerate
def hmm(sequences, lengths, include_prior=True):
    """A hidden Markov model of several tones: the sequences at dim -2, the tones at dim -1."""
    hidden = 3
    with poutine.mask(mask=include_prior):
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(hidden) + 0.1).to_event(1))
        probs_y = pyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([hidden, TONES]).to_event(2))
    tones_plate = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        x = 0
        for t in pyro.markov(range(sequences.size(1))):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]))
                with tones_plate:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequences[:, t])


def hmm_guide():
    return AutoDelta(poutine.block(hmm, expose=["probs_x", "probs_y"]))


def notes():
    """Return whole numbers (N, 4) from 0 to 2."""
    return {"x": torch.randint(0, 3, (ROWS, STEPS), generator=torch.Generator().manual_seed(6))}


def latent_chain(x):
    """A hidden Markov model of each datum, its probabilities parameters; the data at dim -1."""
    start = pyro.param("start", torch.ones(2) / 2, constraint=constraints.simplex)
    move = pyro.param("move", torch.tensor([[0.8, 0.2], [0.3, 0.7]]), constraint=constraints.simplex)
    emit = pyro.param("emit", torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), constraint=constraints.simplex)
    with pyro.plate("sequences", len(x), dim=-1):
        state = None
        for t in pyro.markov(range(x.shape[1])):
            probs = start if state is None else move[state]
            state = pyro.sample(f"state_{t}", dist.Categorical(probs), infer={"enumerate": "parallel"})
            pyro.sample(f"x_{t}", dist.Categorical(emit[state]), obs=x[:, t])


def nothing(x):
    """The guide of a model whose latents are all summed out."""
