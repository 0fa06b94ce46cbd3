"""Amortised programs as Pyro's examples write them: one module, its methods `model` and `guide`, and `pyro.module`."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn
from torch.distributions import constraints
from torch.nn import functional

ROWS, PIXELS, LABELS, GENES, WORDS = 12, 9, 3, 5, 7


def binary_images():
    """Return images (N, 1, 3, 3) of zeros and ones."""
    return {
        "x": (torch.rand(ROWS, 1, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.get_default_dtype())
    }


class Decoder(nn.Module):
    def __init__(self, latent, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(latent, hidden), nn.Linear(hidden, PIXELS)

    def forward(self, z):
        return torch.sigmoid(self.fc2(functional.softplus(self.fc1(z))))


class Encoder(nn.Module):
    def __init__(self, latent, hidden):
        super().__init__()
        self.fc1, self.loc, self.scale = nn.Linear(PIXELS, hidden), nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, x):
        hidden = functional.softplus(self.fc1(x.reshape(-1, PIXELS)))
        return self.loc(hidden), self.scale(hidden).exp()


class VAE(nn.Module):
    """The first tutorial's: a torch module with both programs, which name their networks to Pyro as they run."""

    def __init__(self, latent=2, hidden=6):
        super().__init__()
        self.encoder, self.decoder, self.latent = Encoder(latent, hidden), Decoder(latent, hidden), latent

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            loc = torch.zeros(x.shape[0], self.latent, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            image = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(image).to_event(1), obs=x.reshape(-1, PIXELS))
            return image

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", dist.Normal(*self.encoder(x)).to_event(1))


def flat_and_labels():
    """Return flat images (N, 9) and labels (N, 3), one of them one."""
    labels = functional.one_hot(torch.arange(ROWS) % LABELS, LABELS).to(torch.get_default_dtype())
    return {"xs": binary_images()["x"].reshape(ROWS, PIXELS), "ys": labels}


class SSVAE(nn.Module):
    """Kingma et al.'s M2: a label that is seen or, where it is not, summed out; plates without a size."""

    def __init__(self, latent=2, hidden=6):
        super().__init__()
        self.latent = latent
        self.to_label = nn.Sequential(
            nn.Linear(PIXELS, hidden), nn.Softplus(), nn.Linear(hidden, LABELS), nn.Softmax(-1)
        )
        self.to_latent = nn.Sequential(nn.Linear(PIXELS + LABELS, hidden), nn.Softplus(), nn.Linear(hidden, 2 * latent))
        self.to_image = nn.Sequential(
            nn.Linear(latent + LABELS, hidden), nn.Softplus(), nn.Linear(hidden, PIXELS), nn.Sigmoid()
        )

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data"):
            prior = xs.new_zeros([xs.size(0), self.latent])
            zs = pyro.sample("z", dist.Normal(prior, 1.0).to_event(1))
            ys = pyro.sample("y", dist.OneHotCategorical(xs.new_ones([xs.size(0), LABELS]) / LABELS), obs=ys)
            loc = self.to_image(joined(zs, ys))
            pyro.sample("x", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=xs)
            return loc

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(self.to_label(xs)), infer={"enumerate": "parallel"})
            loc, scale = self.to_latent(joined(xs, ys)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    def model_classify(self, xs, ys=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data"), poutine.scale(scale=50.0):
            pyro.sample("y_aux", dist.OneHotCategorical(self.to_label(xs)), obs=ys)

    def guide_classify(self, xs, ys=None):
        pass


def joined(*tensors):
    """Return tensors side by side, their leading dimensions broadcast."""
    shape = torch.broadcast_shapes(*(tensor.shape[:-1] for tensor in tensors))
    return torch.cat([tensor.expand(*shape, tensor.shape[-1]) for tensor in tensors], -1)


def quadrants():
    """Return images (N, 3, 3) of which the first column is seen, -1 elsewhere, and the whole images."""
    ys = binary_images()["x"][:, 0]
    xs = torch.full_like(ys, -1.0)
    xs[:, :, 0] = ys[:, :, 0]
    return {"xs": xs, "ys": ys}


class CVAE(nn.Module):
    """Sohn et al.'s: the rest of an image given a part; the rows are cut out of it by a mask."""

    def __init__(self, latent=2, hidden=6):
        super().__init__()
        self.latent = latent
        self.baseline = nn.Sequential(nn.Linear(PIXELS, hidden), nn.ReLU(), nn.Linear(hidden, PIXELS), nn.Sigmoid())
        self.prior_net, self.recognition_net = Encoder(latent, hidden), Encoder(latent, hidden)
        self.generation_net = Decoder(latent, hidden)

    def model(self, xs, ys=None):
        pyro.module("generation_net", self)
        batch_size = xs.shape[0]
        with pyro.plate("data"):
            with torch.no_grad():
                guess = self.baseline(xs.view(batch_size, -1)).view(xs.shape)
            full = torch.where(xs == -1, guess, xs)
            zs = pyro.sample("z", dist.Normal(*self.prior_net(full)).to_event(1))
            loc = self.generation_net(zs)
            if ys is not None:
                mask_loc = loc[(xs == -1).view(-1, PIXELS)].view(batch_size, -1)
                mask_ys = ys[xs == -1].view(batch_size, -1)
                pyro.sample("y", dist.Bernoulli(mask_loc, validate_args=False).to_event(1), obs=mask_ys)
            else:
                pyro.deterministic("y", loc.detach())
            return loc

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                loc, scale = self.prior_net(xs)
            else:
                loc, scale = self.recognition_net(ys)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def documents():
    """Return counts of words (N, 7), the same number in all documents."""
    random = torch.Generator().manual_seed(2)
    words = torch.randint(0, WORDS, (ROWS, 20), generator=random)
    return {"docs": functional.one_hot(words, WORDS).sum(1).to(torch.get_default_dtype())}


class TopicEncoder(nn.Module):
    def __init__(self, topics, hidden=6):
        super().__init__()
        self.fc1, self.mu, self.lv = nn.Linear(WORDS, hidden), nn.Linear(hidden, topics), nn.Linear(hidden, topics)
        self.bnmu, self.bnlv = nn.BatchNorm1d(topics, affine=False), nn.BatchNorm1d(topics, affine=False)

    def forward(self, docs):
        hidden = functional.softplus(self.fc1(docs))
        return self.bnmu(self.mu(hidden)), (0.5 * self.bnlv(self.lv(hidden))).exp()


class TopicDecoder(nn.Module):
    def __init__(self, topics):
        super().__init__()
        self.beta, self.bn = nn.Linear(topics, WORDS, bias=False), nn.BatchNorm1d(WORDS, affine=False)

    def forward(self, theta):
        return functional.softmax(self.bn(self.beta(theta)), dim=1)


class ProdLDA(nn.Module):
    """Srivastava & Sutton's topics: batch norm in both networks, a softmax over dimension 1."""

    def __init__(self, topics=3):
        super().__init__()
        self.topics, self.encoder, self.decoder = topics, TopicEncoder(topics), TopicDecoder(topics)

    def model(self, docs):
        pyro.module("decoder", self.decoder)
        with pyro.plate("documents", docs.shape[0]):
            loc = docs.new_zeros((docs.shape[0], self.topics))
            logtheta = pyro.sample("logtheta", dist.Normal(loc, docs.new_ones(loc.shape)).to_event(1))
            theta = functional.softmax(logtheta, -1)
            total = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total, self.decoder(theta)), obs=docs)

    def guide(self, docs):
        pyro.module("encoder", self.encoder)
        with pyro.plate("documents", docs.shape[0]):
            pyro.sample("logtheta", dist.Normal(*self.encoder(docs)).to_event(1))


def cells():
    """Return counts of genes (N, 5), and the type of each cell (N, 3)."""
    random = torch.Generator().manual_seed(3)
    counts = torch.randint(0, 9, (ROWS, GENES), generator=random).to(torch.get_default_dtype())
    return {"x": counts, "y": functional.one_hot(torch.arange(ROWS) % LABELS, LABELS).to(counts)}


def unlabelled_cells():
    return {"x": cells()["x"]}


class SCANVI(nn.Module):
    """Single cells in the manner of scANVI: a parameter of Pyro's store beside networks, a scaled plate."""

    def __init__(self, latent=2, hidden=6, alpha=0.1, scale_factor=0.5):
        super().__init__()
        self.latent, self.alpha, self.scale_factor = latent, alpha, scale_factor
        self.z2_decoder, self.x_decoder = nn.Linear(latent + LABELS, 2 * latent), nn.Linear(latent, 2 * GENES)
        self.z2l_encoder, self.classifier = nn.Linear(GENES, 2 * latent + 2), nn.Linear(latent, LABELS)
        self.z1_encoder = nn.Linear(latent + LABELS, 2 * latent)

    def model(self, x, y=None):
        pyro.module("scanvi", self)
        theta = pyro.param("inverse_dispersion", 10.0 * x.new_ones(GENES), constraint=constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(self.latent)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(LABELS)), obs=y)
            loc, scale = self.z2_decoder(joined(z1, y)).chunk(2, -1)
            z2 = pyro.sample("z2", dist.Normal(loc, functional.softplus(scale)).to_event(1))
            library = pyro.sample("l", dist.LogNormal(x.new_full((1,), 2.0), 1.0).to_event(1))
            gate, logits = self.x_decoder(z2).chunk(2, -1)
            mu = functional.softmax(logits, -1)
            nb_logits = (library * mu + 1e-6).log() - (theta + 1e-6).log()
            x_dist = dist.ZeroInflatedNegativeBinomial(gate_logits=gate, total_count=theta, logits=nb_logits)
            pyro.sample("x", x_dist.to_event(1), obs=x)

    def guide(self, x, y=None):
        pyro.module("scanvi", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            z2_loc, z2_scale, l_loc, l_scale = self.z2l_encoder((1 + x).log()).split(
                [self.latent, self.latent, 1, 1], -1
            )
            pyro.sample("l", dist.LogNormal(l_loc, functional.softplus(l_scale)).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(z2_loc, functional.softplus(z2_scale)).to_event(1))
            y_dist = dist.OneHotCategorical(logits=self.classifier(z2))
            if y is None:
                y = pyro.sample("y", y_dist, infer={"enumerate": "parallel"})
            else:
                pyro.factor("classification_loss", -self.alpha * y_dist.log_prob(y), has_rsample=True)
            loc, scale = self.z1_encoder(joined(z2, y)).chunk(2, -1)
            pyro.sample("z1", dist.Normal(loc, functional.softplus(scale)).to_event(1))
