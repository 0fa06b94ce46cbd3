"""The tables that the one command prints: what each is called, the script and its arguments, notes."""

from dataclasses import dataclass

LADDER = """Latents 64-32-16-8-4, hidden 512-256-128-64-64 twice each, batch norm, one particle. The hand-written ladder
has the same parameters, gives the same loss from the same noise, and computes each p(z_k given z_(k+1)) once."""

M2 = """Unlabelled pictures of 784 pixels, ten classes in one pass, hidden 500, z of 50, as in Pyro's tutorial; 250
steps are an epoch of 50,000. *Stock Pyro* is a pair written in plain Pyro (`contenders/stock_m2.py`), *the same pair*
ours."""

PROOFS = """The share of whole fits, recording included, in which program and recording run side by side: median, least
and most. The very first fit of a process may take 2 to 3 %, with memory to be laid out."""

FITS = """Each fit in a fresh process; the clock starts once torch and ppl_vae are imported and the data are there.
*Cold* is with no compiled code kept from before, *warm* with that of the cold one; both have every check, recording,
compiling and proof in them. The loop is hand-written, 500 steps in an epoch, its rows shuffled likewise; no validation
in either."""

CONV = """DCGAN's networks, 32 and 64 channels, batch norm, z of 50. *Channels-last* is the same network by hand with
weights and activations laid out so."""

CROSS = "The halves of a picture as two modalities, 392-200-200-50 each, a product of experts, one particle."


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes
    ----------
    name : str
        On the command line.
    title : str
        Of its section, with the number of threads where that matters.
    command : str
        Script in this folder, and its arguments.
    notes : str
        To stand above what was printed.
    threads : bool
        Whether it depends on the number of threads.
    long : bool
        Whether it is left out unless asked for.
    """

    name: str
    title: str
    command: str
    notes: str = ""
    threads: bool = True
    long: bool = False

    def arguments(self, rounds=None):
        """Return script and arguments, with another number of rounds where it takes any."""
        words = self.command.split()
        if rounds is not None and "--rounds" in words:
            words[words.index("--rounds") + 1] = str(rounds)
        return words


def _step(name, title, arguments, notes="", **options):
    return Table(name, title, f"svi_step.py --model {arguments}", notes, **options)


def _fits(name, steps, rounds, title="", arguments="", **options):
    title, arguments = f"Whole fits of {steps:,} steps{title}", f"--steps {steps} --rounds {rounds}{arguments}"
    return Table(name, title, f"whole_fit.py {arguments}", FITS, **options)


FRESH = ", binarised afresh at each step"
DYNAMIC = " --binarization dynamic"

TABLES = (
    _step("vae-20", "VAE, batch 20", "vae --batch-size 20 --rounds 40 --first-steps"),
    _step("vae-128", "VAE, batch 128", "vae --batch-size 128 --rounds 30"),
    _step("vae-20-dynamic", f"VAE, batch 20{FRESH}", f"vae --batch-size 20{DYNAMIC} --rounds 40"),
    _step("vae-128-dynamic", f"VAE, batch 128{FRESH}", f"vae --batch-size 128{DYNAMIC} --rounds 30"),
    _step("importance", "VAE, batch 20, K = 50", "vae --batch-size 20 --num-particles 50 --rounds 15"),
    _step("ppca", "PPCA, batch 128", "ppca --batch-size 128 --rounds 40"),
    _step("conv", "Convolutional VAE, batch 128", "conv --batch-size 128 --rounds 8", CONV),
    _step("cvae", "CVAE, batch 128", "cvae --batch-size 128 --rounds 20"),
    _step("cross-modal", "Cross-modal, batch 128", "cross-modal --batch-size 128 --rounds 20", CROSS),
    _step("ladder", "Ladder, batch 256", "ladder --batch-size 256 --rounds 8", LADDER),
    _step("m2", "M2, y summed out, batch 200", "m2 --batch-size 200 --rounds 10", M2),
    _fits("fits-2000", 2000, 3),
    _fits("fits-10000", 10_000, 1),
    _fits("fits-10000-dynamic", 10_000, 1, FRESH, DYNAMIC, long=True),
    _fits("fits-50000", 50_000, 1, long=True),
    Table("log-likelihood", "log p(x), K = 5,000", "log_likelihood.py --num-particles 5000 --data 40 --rounds 3"),
    Table("first", "First log p(x)", "log_likelihood.py --first --rounds 3"),
    Table("mnist", "log p(x) of MNIST's test set", "log_likelihood.py --mnist", long=True),
    Table("ais", "AIS", "ais.py --rounds 1"),
    Table("start", "Start", "start.py --rounds 2", threads=False),
    Table("proofs", "Proofs of recordings", "proof_cost.py --steps 200 1000 --rounds 3", PROOFS),
    Table("moves", "Moves between files", "moves.py", threads=False),
)
