"""Fits that `torchrun` starts several of: ``joint_fits.py FOLDER TASK …``. Each worker leaves what it got, by rank.

equal             the fits of `FITS`: FOLDER/NAME-RANK.pt
trouble           what goes wrong in `TROUBLE`, and what then is as before: FOLDER/trouble-RANK.json
killed RANK       a fit into FOLDER/run, whose worker RANK kills itself in the middle
lost, busy        the same, whose worker 1, or both, are busy in the middle
"""

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from own_pairs import Guide, Model, Shared, SharedGuide, Switch, SwitchGuide, batch, pair
from pairs import PAIRS
from torch import nn

import ppl_vae
from ppl_vae.objectives import ELBO, IWELBO, ReweightedWakeSleep
from ppl_vae.training.kl_weights import Constrained

RANK = int(os.environ.get("RANK", "0"))
SIZE, BATCH, EPOCHS = 33, 16, 4  # the last batch has one row: none for the second worker
WHERE = {"device": "cpu", "progress": False}


class Dropping(nn.Module):
    """A guide's network with dropout, whose noise belongs to no site."""

    def __init__(self):
        super().__init__()
        self.inner, self.drop = nn.Linear(5, 2), nn.Dropout(0.3)

    def forward(self, x):
        return self.inner(self.drop(x))


def dropping():
    made = pair()
    made.guide.net = Dropping()
    return made


def of(name):
    return lambda: ppl_vae.Pair(*PAIRS[name].build())


def switch():
    return ppl_vae.Pair(Switch(), SwitchGuide())


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def grey():
    """Grey values that are made binary afresh in each step."""
    x = torch.rand(SIZE + 12, 8, generator=torch.Generator().manual_seed(2))
    return ppl_vae.data.from_tensors({"x": x}, binarization="dynamic", splits=(33 / 45, 11 / 45, 1 / 45))


#: What makes the pair, what makes the data, and settings of the fit.
FITS = {
    "normal": (pair, lambda: batch(SIZE), {"clip_norm": 0.5, "kl_warmup": 2, "schedule": "cosine"}),
    "normal recorded": (pair, lambda: batch(SIZE), {"compile": "graph", "kl_warmup": 2}),
    "double": (pair, lambda: batch(SIZE), {"dtype": "float64", "optimizer": "sgd"}),
    "full covariance": (
        of("ppca-amortized-full"),
        lambda: PAIRS["ppca-amortized-full"].batch(SIZE),
        {"compile": "graph"},
    ),
    "dynamic binarisation": (of("vae-bernoulli"), grey, {"patience": 3}),
    "particles": (of("vae-bernoulli"), grey, {"objective": ELBO(num_particles=3), "compile": "graph"}),
    "importance-weighted": (pair, lambda: batch(SIZE), {"objective": IWELBO(3, gradient="dreg"), "compile": "graph"}),
    "wake and sleep": (pair, lambda: batch(SIZE), {"objective": ReweightedWakeSleep(3, insomnia=0.5)}),
    "shared latents": (lambda: ppl_vae.Pair(Shared(), SharedGuide()), lambda: batch(SIZE), {"compile": "graph"}),
    "discrete": (switch, lambda: {"x": batch(SIZE)["x"][:, :1].clone()}, {"objective": ELBO(num_particles=2)}),
    "constrained": (pair, lambda: batch(SIZE), {"kl_weight": Constrained(0.5, rate=0.3), "compile": "graph"}),
    "dropout": (dropping, lambda: batch(SIZE), {"compile": "graph"}),
    "Pyro's own": (pair, lambda: batch(SIZE), {"objective": pyro.infer.Trace_ELBO(num_particles=2)}),
}


def fit(name, **options):
    make, data, settings = FITS[name]
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.02} | WHERE | settings | options
    made = seeded(make)
    if RANK:  # a program that forgot to seed: the first worker's parameters are what counts
        for parameter in made.parameters():
            parameter.data += 0.1
    return ppl_vae.fit(made, data(), **settings)


class Gamma(pyro.nn.PyroModule):
    """p(z) = Gamma(2, 1): a sampler that rejects, and so cannot be shared to the bit."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x) if size is None else size, dim=-1):
            z = pyro.sample("z", dist.Gamma(2.0, torch.ones(3)).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class GammaGuide(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 3)

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Gamma(self.net(x).exp(), 1.0).to_event(1))


def gamma():
    return ppl_vae.Pair(Gamma(), GammaGuide())


def positive():
    return {"x": batch(48)["x"][:, :3].abs().clone()}


class Seeing(ELBO):
    """The bound, which remembers the data that it was trained on."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def differentiable_loss(self, model, guide, x):
        self.rows.append(x[:, 0].clone())
        return super().differentiable_loss(model, guide, x=x)


class Counting(ELBO):
    """The bound, during which a worker is sent a signal in a certain step."""

    def __init__(self, step=0, number=0, rank=1):
        super().__init__()
        steps = iter(range(1, 1000))
        self.count = lambda: next(steps) == step and rank == RANK and os.kill(os.getpid(), number)

    def differentiable_loss(self, model, guide, **kwargs):
        if torch.is_grad_enabled():
            self.count()
        return super().differentiable_loss(model, guide, **kwargs)


class Fragile(Guide):
    """Its mean is NaN for a datum that begins with 100."""

    def forward(self, x=None, size=None):
        return super().forward(torch.where(x == 100, torch.nan, x))


def joint(folder=None, given=None, mine=None, **options):
    options = {"epochs": 5, "batch_size": BATCH, "checkpoint_seconds": 0} | WHERE | options
    return ppl_vae.fit(mine or pair(), given or batch(48), run_dir=folder, **options)


class Stuck(ELBO):
    """The bound, in whose 8th step some workers are busy for five minutes, all having said who they are."""

    def __init__(self, folder, ranks):
        super().__init__()
        steps = iter(range(1, 1000))
        self.count = lambda: next(steps) == 8 and self.stop(folder, ranks)

    def stop(self, folder, ranks):
        (folder / f"pid-{RANK}").write_text(str(os.getpid()))
        if RANK in ranks:
            time.sleep(300)

    def differentiable_loss(self, model, guide, **kwargs):
        if torch.is_grad_enabled():
            self.count()
        return super().differentiable_loss(model, guide, **kwargs)


def bad_row():
    """Data whose last row is bad, and a batch that gives it to the second worker alone."""
    rows = batch(48)
    rows["x"][-1, 0] = 100.0
    return rows


def warning_of_all():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        joint(compile="graph", mine=seeded(lambda: ppl_vae.Pair(Model(), Branching())))
    return "; ".join(str(each.message)[:40] for each in caught if "record" in str(each.message))


class Branching(Guide):
    def forward(self, x=None, size=None):
        return super().forward(x if x.sum() > -1e9 else -x)


TROUBLE = {
    "other data": lambda folder: joint(given=batch(48, seed=RANK)),
    "other seed": lambda folder: joint(seed=RANK),
    "run there": lambda folder: [joint(folder / "there", epochs=1), joint(folder / "there", epochs=1)],
    "other settings": lambda folder: joint(folder / "there", epochs=1, resume=True, lr=0.5),
    "not finite": lambda folder: joint(folder / "bad", given=bad_row(), mine=ppl_vae.Pair(Model(), Fragile())),
    "terminated": lambda folder: joint(folder / "terminated", objective=Counting(8, signal.SIGTERM)),
    "interrupted": lambda folder: joint(folder / "interrupted", objective=Counting(8, signal.SIGINT, rank=0)),
    "no disk": lambda folder: joint(Path(__file__) / "run"),
    "warned": lambda folder: warning_of_all(),
}


def handlers():
    ignored = [each for each in warnings.filters if each[:3] == ("ignore", None, Warning)]
    return [*map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)), sys.excepthook, ignored]


def threads():
    folder = Path("/proc/self/task")
    return [(path / "comm").read_text() for path in folder.iterdir()] if folder.exists() else []


def equal(folder):
    for name in FITS:
        run = fit(name, run_dir=folder / name)
        kept = {"history": run.history, "state": run.pair.state_dict(), "writes": run.writes, "config": run.config}
        torch.save(kept, folder / f"{name}-{RANK}.pt")
    seen = Seeing()
    run = joint(given=positive(), mine=seeded(gamma), objective=seen)
    torch.save({"state": run.pair.state_dict(), "seen": seen.rows}, folder / f"gamma-{RANK}.pt")


def trouble(folder):
    before = handlers()
    found = {}
    for name, act in TROUBLE.items():
        try:
            found[name] = str(act(folder))
        except (ppl_vae.PplVaeError, KeyboardInterrupt) as error:
            found[name] = f"{type(error).__name__}: {error}"
    found["handlers"] = handlers() == before
    found["threads"] = [name for name in threads() if "gloo" in name]
    torch.distributed.init_process_group("gloo")
    found["group of the program's own"] = float(joint().history["train_bound"][-1])
    found["still there"] = torch.distributed.is_initialized()
    torch.distributed.destroy_process_group()
    (folder / f"trouble-{RANK}.json").write_text(json.dumps(found))


def killed(folder, rank):
    joint(folder / "run", objective=Counting(8, signal.SIGKILL, int(rank)))


def lost(folder):
    joint(folder / "run", objective=Stuck(folder, [1]))


def busy(folder):
    joint(folder / "run", objective=Stuck(folder, [0, 1]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])
