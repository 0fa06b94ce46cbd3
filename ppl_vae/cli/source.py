"""Where a run's pair and data come from: names and options in ``config.json``, from which both can be made again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ppl_vae import data, zoo
from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError, shown
from ppl_vae.data import Dataset, Spec, Split
from ppl_vae.pairs.description import of_sizes, rebuild_pair
from ppl_vae.pairs.pair import Pair
from ppl_vae.training.run_folder import run as runs
from ppl_vae.training.run_folder.run import Run
from ppl_vae.training.run_folder.schema import SOURCE, checked

#: Endings of the files that hold a user's own data.
ENDINGS = (".npz", ".npy", ".csv")
_FIXED = ("source", "name", "seed", "binarization", "dtype")  # arguments of `from_tensors` that are no options here


@dataclass(frozen=True)
class Source:
    """Names and options of a pair and of its data.

    Parameters
    ----------
    pair : str
        A name of the zoo.
    data : str
        A data set's name, or the path of a ``.npz``, ``.npy`` or ``.csv`` file.
    pair_options, data_options : mapping
        What the pair's builder, and `data.load` or `data.from_tensors`, are given besides.
    binarization : str, optional
        By default ``none`` for models of real data where the data set offers it, else the data set's own.
    data_seed : int
        Seed of the split and of the draws; apart from the fit's, so that fits of several seeds see the same data.
    labels, repeats : int
        How many labels of the training data the pair may see, all by default, and how often each of these data stands
        there; see `data.with_few_labels`.
    """

    pair: str
    data: str
    pair_options: Mapping[str, Any] = field(default_factory=dict)
    binarization: str | None = None
    data_seed: int = 0
    data_options: Mapping[str, Any] = field(default_factory=dict)
    labels: int | None = None
    repeats: int = 1

    @property
    def from_file(self) -> bool:
        """Whether the data are a file of the user's own."""
        return self.data not in data.names() and (Path(self.data).suffix.lower() in ENDINGS or Path(self.data).exists())

    def load_data(self) -> Dataset:
        """Return the data, with their labels as c for a pair that is given labels.

        Raises
        ------
        InputError
            For an unknown name or option, and whatever is wrong with the data.
        """
        loaded = self._load()
        if self.labels is not None:
            loaded = data.with_few_labels(loaded, self.labels, seed=self.data_seed, repeats=self.repeats)
        elif self.repeats != 1:
            raise InputError("--repeats", expected="--labels, whose data it repeats", got="none", hint="--labels 100")
        return data.given_labels(loaded) if self.pair in zoo.GIVEN_LABELS and "c" not in loaded.train else loaded

    def _load(self) -> Dataset:
        if not self.from_file:
            if self.binarization is None and self.pair in zoo.REAL_VALUED and "none" in data.binarizations(self.data):
                return data.load(self.data, binarization="none", seed=self.data_seed, **self.data_options)
            return data.load(self.data, binarization=self.binarization, seed=self.data_seed, **self.data_options)
        known = [name for name in inspect.signature(data.from_tensors).parameters if name not in _FIXED]
        for option in self.data_options:
            one_of("data option of a file", option, known)
        path = Path(self.data)
        how = "none" if self.binarization is None else self.binarization
        return data.from_tensors(path, name=path.stem, seed=self.data_seed, binarization=how, **self.data_options)

    def build_pair(self, spec: Spec, seed: int = 0) -> Pair:
        """Return the pair, with fresh parameters; raises as `zoo.build` does, and for `labels` it has no use for."""
        built = zoo.build(self.pair, spec, seed=seed, **self.pair_options)
        if self.labels is not None and not built.takes("labelled"):
            raise InputError("--labels", expected="a pair that takes a mask of labels", got=self.pair, hint="m2")
        return built

    def to_json(self) -> dict[str, Any]:
        """Return the source as plain values, a file by its absolute path."""
        return asdict(self) | ({"data": str(Path(self.data).resolve())} if self.from_file else {})

    @classmethod
    def of(cls, config: Mapping[str, Any], directory: Path | str) -> Source:
        """Return the source that a run's configuration holds.

        Raises
        ------
        InputError
            If it holds none: the run was fitted by `fit` itself, which is given tensors.
        RunError
            If it is not one that this version can read.
        """
        if "source" not in config:
            raise InputError(
                str(directory),
                expected="a run that names its data",
                got="one fitted from Python, which does not",
                hint="--data NAME_OR_PATH",
            )
        names = [each.name for each in fields(cls)]
        source = checked(SOURCE, config["source"], f"{directory}/config.json: source")
        return cls(**{name: _tuples(value) for name, value in source.items() if name in names})


def load_run(directory: str | Path, *, verify: bool = True) -> Run:
    """Read a run folder back, also where its pair can only be built by the name that it has in the zoo.

    Raises
    ------
    RunError, InputError
        As `ppl_vae.load` does.
    """

    def build(config: dict[str, Any], folder: Path) -> Pair:
        described = all(config["pair"][role]["description"] is not None for role in ("model", "guide"))
        if described or "source" not in config:
            return rebuild_pair(config["pair"], folder)
        source, spec = Source.of(config, folder), Spec.from_json(config["data"]["spec"])
        return of_sizes(config["pair"]["state"], lambda: source.build_pair(spec), folder)

    return runs.read(directory, build, verify=verify)


def as_fitted(source: Source, run: Run) -> Source:
    """Return `source` with the units of the run: a file is standardised as the data of its fit were, if they were.

    Raises
    ------
    InputError
        If the fit was to standardised data, and the source is no file.
    """
    spec = Spec.from_json(run.config["data"]["spec"])
    if spec.scale is None:
        return source
    if not source.from_file:
        expected = f"a file, in the units of {spec.name!r}, which the fit standardised"
        raise InputError("--data", expected=expected, got=shown(source.data))
    return replace(source, data_options={**source.data_options, "standardise": spec})


def differs(run: Run, splits: Mapping[Any, Split]) -> str:
    """Return, in words, which of `splits` are not those of the fit; empty where all that the run knows are the same."""
    before = run.config["data"]["digest"]
    now = {str(role): split.digest for role, split in splits.items() if role in before}
    other = [f"{role} digest {now[role]}, {before[role]} at the fit" for role in now if now[role] != before[role]]
    return "; ".join(other)


def _tuples(value: Any) -> Any:
    """Return `value` with the tuples that JSON made lists of."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
