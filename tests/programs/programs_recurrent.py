"""Programs for sequences: recurrent networks, attention, packed sequences, embeddings."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from program_parts import Guide, L, Model, Program, T, encoding, only_x, real, sequence_model, sequences
from pyro.nn import PyroModule
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class LastState(nn.Module):
    """The last hidden state of a recurrent network, made linear."""

    def __init__(self, kind, **options):
        super().__init__()
        self.recurrent = kind(2, 4, batch_first=True, **options)
        self.out = nn.Linear(8 if options.get("bidirectional") else 4, 2 * L)

    def forward(self, x):
        states, _ = self.recurrent(x)
        return self.out(states[:, -1])


class Cells(nn.Module):
    """A cell, called step by step."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTMCell(2, 4), nn.Linear(4, 2 * L)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.out(state[0])


class Packed(PyroModule):
    """q(z|x, n) by a recurrent network that sees the first n steps of each row."""

    def __init__(self):
        super().__init__()
        self.recurrent, self.out = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 2 * L)

    def forward(self, x=None, n=None, size=None):
        packed = pack_padded_sequence(x, n.cpu(), batch_first=True, enforce_sorted=False)
        _, last = self.recurrent(packed)
        with pyro.plate("data", len(x), dim=-1):
            mean, log_scale = self.out(last[0]).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class PackedAndPadded(Packed):
    """The same, sorted by length by hand, and padded again to take a mean."""

    def forward(self, x=None, n=None, size=None):
        lengths, order = n.sort(descending=True)
        packed = pack_padded_sequence(x[order], lengths.tolist(), batch_first=True)
        states, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        states = states[order.argsort()].sum(1) / n[:, None]
        with pyro.plate("data", len(x), dim=-1):
            mean, log_scale = self.out(states).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class SequencesOfLengths(PyroModule):
    """p(x|z, n): the first n steps of each row, the others masked."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(L, 2 * T)

    def forward(self, x=None, n=None, size=None):
        with pyro.plate("data", len(n), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L).to(self.network.bias), 1.0).to_event(1))
            loc = self.network(z)
            loc = loc.reshape(*loc.shape[:-1], T, 2)
            shown = (torch.arange(T) < n[:, None])[..., None].expand(-1, -1, 2)
            return pyro.sample("x", dist.Normal(loc, 0.5).mask(shown).to_event(2), obs=x)


class Attends(nn.Module):
    """Attention of the steps to each other, and their mean."""

    def __init__(self):
        super().__init__()
        self.up, self.attention = nn.Linear(2, 4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 2 * L)

    def forward(self, x):
        steps = self.up(x)
        return self.out(self.attention(steps, steps, steps, need_weights=False)[0].mean(1))


class Transformer(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.up = nn.Linear(2, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout, batch_first=True)
        self.out = nn.Linear(4, 2 * L)

    def forward(self, x):
        return self.out(self.layer(self.up(x)).mean(1))


class Words(PyroModule):
    """p(z), p(w|z): words of a vocabulary of seven, one after another."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(L, 7 * 3)

    def forward(self, w=None, size=None):
        with pyro.plate("data", size if w is None else len(w), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L).to(self.network.bias), 1.0).to_event(1))
            logits = self.network(z)
            logits = logits.reshape(*logits.shape[:-1], 3, 7)
            return pyro.sample("w", dist.Categorical(logits=logits).to_event(1), obs=w)


class ReadsWords(PyroModule):
    """q(z|w) from the words' embeddings, one of which is for padding."""

    def __init__(self, bag=False):
        super().__init__()
        self.words = nn.EmbeddingBag(7, 4, mode="mean") if bag else nn.Embedding(7, 4, padding_idx=0)
        self.out = nn.Linear(4, 2 * L)

    def forward(self, w=None, size=None):
        embedded = self.words(w)
        embedded = embedded if embedded.dim() == 2 else embedded.mean(1)
        with pyro.plate("data", len(w), dim=-1):
            mean, log_scale = self.out(embedded).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class RecurrentDecoder(nn.Module):
    """A recurrent network that writes, with every leading dimension folded into one."""

    def __init__(self):
        super().__init__()
        self.recurrent, self.out = nn.GRU(L, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, z):
        flat = z.reshape(-1, 1, L).expand(-1, T, L)
        return self.out(self.recurrent(flat)[0]).reshape(*z.shape[:-1], T, 2)


class DrawsStepByStep(PyroModule):
    """z_t given z_{t-1}, one site for each step of x."""

    def __init__(self):
        super().__init__()
        self.step, self.out = nn.Linear(1, 1), nn.Linear(1, 1)

    def forward(self, x=None, size=None):
        rows = size if x is None else len(x)
        before = torch.zeros(rows, 1).to(self.step.bias)
        found = []
        with pyro.plate("data", rows, dim=-1):
            for t in pyro.markov(range(3)):
                before = pyro.sample(f"z{t}", dist.Normal(self.step(before).tanh(), 0.8).to_event(1))
                found.append(self.out(before))
            loc = torch.cat([*found, *found], -1)
            return pyro.sample("x", dist.Normal(loc, 0.7).to_event(1), obs=x)


class ReadsStepByStep(PyroModule):
    """The guide of the same, by a cell that carries its state from step to step."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(2, 3), nn.Linear(3, 2)

    def forward(self, x=None, size=None):
        state = None
        with pyro.plate("data", len(x), dim=-1):
            for t in pyro.markov(range(3)):
                state = self.cell(x[:, 2 * t : 2 * t + 2], state)
                mean, log_scale = self.out(state).chunk(2, -1)
                pyro.sample(f"z{t}", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


def words():
    generator = torch.Generator().manual_seed(6)
    return {"w": torch.randint(7, (24, 3), generator=generator)}


plain = only_x(sequences)
PROGRAMS = {
    "lstm": Program(encoding(lambda: LastState(nn.LSTM), sequence_model), plain, recorded=True),
    "lstm, both ways and two layers": Program(
        encoding(lambda: LastState(nn.LSTM, bidirectional=True, num_layers=2), sequence_model), plain
    ),
    "lstm with dropout": Program(
        encoding(lambda: LastState(nn.LSTM, num_layers=2, dropout=0.3), sequence_model), plain
    ),
    "lstm in float32": Program(encoding(lambda: LastState(nn.LSTM), sequence_model), plain, dtype="float32"),
    "gru in float32": Program(encoding(lambda: LastState(nn.GRU), sequence_model), plain, dtype="float32"),
    "gru": Program(encoding(lambda: LastState(nn.GRU), sequence_model), plain, recorded=True),
    "rnn": Program(encoding(lambda: LastState(nn.RNN), sequence_model), plain, recorded=True),
    "lstm cell in a loop": Program(encoding(Cells, sequence_model), plain, recorded=True),
    "recurrent decoder": Program(
        lambda: (Model(RecurrentDecoder(), (T, 2)), Guide(nn.Sequential(nn.Flatten(), nn.Linear(2 * T, 2 * L)))), plain
    ),
    "packed sequences": Program(lambda: (SequencesOfLengths(), Packed()), sequences),
    "packed sequences in float32": Program(lambda: (SequencesOfLengths(), Packed()), sequences, dtype="float32"),
    "packed, sorted and padded": Program(lambda: (SequencesOfLengths(), PackedAndPadded()), sequences),
    "attention": Program(encoding(Attends, sequence_model), plain),
    "transformer layer": Program(encoding(lambda: Transformer(0.0), sequence_model), plain),
    "transformer layer with dropout": Program(encoding(lambda: Transformer(0.2), sequence_model), plain),
    "embedded words": Program(lambda: (Words(), ReadsWords()), words, recorded=True),
    "bags of words": Program(lambda: (Words(), ReadsWords(bag=True)), words),
    "latents step by step": Program(lambda: (DrawsStepByStep(), ReadsStepByStep()), real, recorded=True),
}
