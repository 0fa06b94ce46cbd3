"""Run folders: what is in them, reading them back, going on from them, and everything that can be wrong with one."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import run_folders
import safetensors.torch
import torch
from own_pairs import D, Guide, Model, Regression, batch, pair, regression_data
from pairs import PAIRS
from pyro.infer.autoguide import AutoNormal
from run_folders import contents, data, fit, ours, same, state
from tiers import fast_in

import ppl_vae
from ppl_vae import InputError, Pair, RunError
from ppl_vae.core import files
from ppl_vae.data import Spec, Split
from ppl_vae.objectives import ELBO
from ppl_vae.training.run_folder.folder import RunFolder

FILES = {"config.json", "environment.json", "history.csv", "timing.csv", "model.safetensors", "resume.pt"}
FILES |= {"checksums.json", ".lock"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "one"


@pytest.fixture
def run(folder):
    return fit(folder)


# -- numbers of other libraries ----------------------------------------------------------------------------------------


class HalfWeight(ppl_vae.kl_weights.KLRule):
    """A rule of somebody else's, which computes with NumPy."""

    def at(self, step, steps_per_epoch):
        return np.float64(0.5)


NUMPY = {
    "lr": {"lr": np.float64(1e-3)},
    "lr of single precision": {"lr": np.float32(1e-3)},
    "lr, a tensor": {"lr": torch.tensor(1e-3)},
    "schedule": {"schedule": lambda done: np.float64(1.0 - done)},
    "schedule of a tensor": {"schedule": lambda done: torch.tensor(0.5)},
    "optimiser": {"optimizer_options": {"eps": np.float64(1e-8), "betas": (np.float64(0.9), np.float32(0.99))}},
    "clip_norm": {"clip_norm": np.float32(1.0)},
    "kl_warmup": {"kl_warmup": np.float64(1.0)},
    "kl_weight": {"kl_weight": np.float64(0.5)},
    "a rule": {"kl_weight": ppl_vae.kl_weights.WarmUp(np.float64(1.0), np.float64(0.5))},
    "a rule of one's own": {"kl_weight": HalfWeight()},
    "whole numbers": {"batch_size": np.int64(8), "seed": np.uint8(3), "patience": np.int32(2)},
    "source": {"source": {"a": np.int64(1), "b": [np.float64(0.5)]}},
}


def types_in(value):
    if isinstance(value, dict | list | tuple):
        return set().union(*map(types_in, value.values() if isinstance(value, dict) else value), ())
    return {type(value)}


@pytest.mark.parametrize("name", fast_in({"lr", "optimiser", "source"}, NUMPY))
def test_numbers_of_other_libraries_are_kept_as_plain_ones(folder, name):
    options = NUMPY[name]
    first = fit(folder, epochs=np.int64(2), **options)
    assert types_in(first.config) | types_in(first.history) <= {int, float, str, bool, type(None)}
    again = ppl_vae.load(folder)
    assert again.history == first.history
    assert again.config["fit"] == json.loads(json.dumps(first.config["fit"]))
    if not name.startswith("schedule"):  # one that is not constant spans the epochs
        assert fit(folder, epochs=3, resume=True, **options).history == fit(folder / "b", epochs=3, **options).history


def test_a_pair_built_with_sizes_of_numpy_can_be_rebuilt(folder):
    mine = Pair(
        ppl_vae.models.PPCA(np.int64(8), np.int32(2)), ppl_vae.guides.LinearGaussian(np.int64(8), torch.tensor(2))
    )
    fit(folder, mine)
    assert same(state(ppl_vae.load(folder).pair), state(mine))


# -- what is in one ---------------------------------------------------------------------------------------------------


def test_files_of_a_run(run, folder):
    assert run.directory == folder
    assert set(contents(folder)) == FILES
    sums = json.loads((folder / "checksums.json").read_text())
    for name in FILES - {"checksums.json", ".lock"}:
        assert sums[name][0] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    config = json.loads((folder / "config.json").read_text())
    assert config["pair"]["model"]["name"] == "PPCA"
    assert config["fit"]["epochs"] == 2
    assert config["data"]["digest"]["train"] == data().train.digest
    assert {"python", "torch", "pyro-ppl", "platform", "device", "threads", "command"} <= run.environment.keys()
    assert same(safetensors.torch.load_file(folder / "model.safetensors"), state(run.pair))
    rows = list(csv.reader((folder / "history.csv").open()))
    assert rows[0] == list(run.history)
    assert [float(value) for value in rows[1]] == [column[0] for column in run.history.values()]  # every bit


def test_load(run, folder):
    torch.manual_seed(7)
    random = torch.get_rng_state()
    back = ppl_vae.load(folder)
    assert torch.equal(random, torch.get_rng_state())
    assert type(back.pair.model) is type(run.pair.model)
    assert same(state(back.pair), state(run.pair))
    assert back.history == run.history
    assert back.timing == run.timing
    assert back.config == json.loads(json.dumps(run.config))
    assert not back.pair.training
    assert ppl_vae.load(str(folder)).directory == folder


def test_load_of_float64(folder):
    run = fit(folder, dtype="float64")
    back = ppl_vae.load(folder)
    assert back.pair.dtype is torch.float64
    assert same(state(back.pair), state(run.pair))


def test_evaluations_are_recorded_with_the_run(run, folder):
    assert run.evaluation == []
    for method in ("exact", "importance"):
        run.record(ppl_vae.log_likelihood(run.pair, data(), method=method, num_particles=10))
    exact, importance = ppl_vae.load(folder).evaluation
    assert exact["method"] == "exact"
    assert importance["num_particles"] == 10
    assert importance["data"]["binarization"] == "none"
    assert exact["pareto_k"]["max"] is None  # NaN has no place in JSON
    json.loads((folder / "evaluation.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_record_without_a_folder():
    run = fit(None)
    with pytest.raises(
        InputError, match=r"run: expected a run folder to write to; got a fit without one; try fit\(…, run_dir"
    ):
        run.record(ppl_vae.log_likelihood(run.pair, data(), method="exact"))
    assert run.evaluation == []
    assert run.environment["device"]


# -- a pair to fill ---------------------------------------------------------------------------------------------------


def test_load_into_a_pair_of_the_users_own(folder):
    run = fit(folder, pair(), batch())
    line = (
        r"expected a pair to fill, since the model Model cannot be rebuilt from plain arguments here; got no pair; try "
        r"ppl_vae.load\('.*one', pair=…\)"
    )
    with pytest.raises(InputError, match=line):
        ppl_vae.load(folder)
    assert same(state(ppl_vae.load(folder, pair=pair(1)).pair), state(run.pair))
    assert same(state(ppl_vae.load(folder, pair=(Model(), Guide())).pair), state(run.pair))


def test_load_into_a_pair_with_an_autoguide(folder):
    model, given = Regression(), regression_data()
    run = fit(folder, Pair(model, AutoNormal(model)), given)
    fresh = Regression()
    other = Pair(fresh, AutoNormal(fresh))
    line = r"expected the pair that was fitted, with guide.locs.s_unconstrained \(\); got .* absent; try .*pair.check\("
    with pytest.raises(InputError, match=line):
        ppl_vae.load(folder, pair=other)
    other.check(given)
    assert same(state(ppl_vae.load(folder, pair=other).pair), state(run.pair))


def test_wrong_pair_is_named(run, folder):
    wrong = Pair(*PAIRS["factor-analysis-linear"].build())
    line = r"one: expected the pair that was fitted, with model.log_scale \(\); got model.log_scale \(8,\); try the"
    with pytest.raises(InputError, match=line):
        ppl_vae.load(folder, pair=wrong)
    with pytest.raises(InputError, match=r"pair: expected a Pair, or a model and a guide; got int"):
        ppl_vae.load(folder, pair=3)


def test_class_that_is_not_imported_here_is_not_executed(run, folder):
    config = json.loads((folder / "config.json").read_text())
    config["pair"]["model"]["description"]["class"] = "os.system"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        RunError, match=r"got config.json with other bytes than were written \(SHA-256\); try another copy"
    ):
        ppl_vae.load(folder)
    (folder / "checksums.json").unlink()  # by one who knows of them
    with pytest.raises(
        InputError, match=r"PPCA cannot be rebuilt from plain arguments here; .* or @ppl_vae.config.configurable"
    ):
        ppl_vae.load(folder)
    assert same(state(ppl_vae.load(folder, pair=ours()).pair), state(run.pair))


# -- broken folders ---------------------------------------------------------------------------------------------------


def test_no_folder(tmp_path):
    with pytest.raises(RunError, match=r"nowhere: expected a run folder; got no config.json in it; try another folder"):
        ppl_vae.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.safetensors", "history.csv", "timing.csv"])
def test_missing_file(run, folder, name):
    (folder / name).unlink()
    line = (
        "got a run stopped before its first checkpoint" if name == "model.safetensors" else "expected whole files; got"
    )
    with pytest.raises(RunError, match=line):
        ppl_vae.load(folder)


@pytest.mark.parametrize("share", fast_in({0.5}, [0.0, 0.1, 0.5, 0.9]))
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_half_written_file(run, folder, name, share):
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        RunError, match=r"one(/config.json)?: expected (whole files|a JSON file); got .*; try"
    ) as caught:
        ppl_vae.load(folder)
    assert "\n" not in str(caught.value)


def test_half_written_history(run, folder):
    text = (folder / "history.csv").read_text()
    for broken in (text[: len(text) - 20], text.replace("1,", "one,", 1)):
        (folder / "history.csv").write_text(broken)
        with pytest.raises(RunError, match=r"one: expected whole files; got "):
            ppl_vae.load(folder)


@pytest.mark.parametrize("text", fast_in({"[]", '{"pair": {}}'}, ["{}", "[]", "null", '{"pair": {}}', "3"]))
def test_config_of_something_else(run, folder, text):
    (folder / "config.json").write_text(text)
    line = r"config.json: expected the settings of a fit; got others; try another folder"
    with pytest.raises(RunError, match=line):
        ppl_vae.load(folder)
    with pytest.raises(RunError, match=line):
        fit(folder, resume=True)


# -- going on ---------------------------------------------------------------------------------------------------------


def test_folder_that_holds_a_run(run, folder):
    before = contents(folder)
    line = r"run_dir .*one: expected a new folder; got one that holds a run; try resume=True, overwrite=True or "
    with pytest.raises(InputError, match=line):
        fit(folder)
    assert contents(folder) == before


def test_resume_gives_the_numbers_of_an_uninterrupted_fit(run, folder, tmp_path):
    longer = fit(folder, epochs=5, resume=True)
    whole = fit(tmp_path / "whole", epochs=5)
    assert longer.history == whole.history
    assert same(state(longer.pair), state(whole.pair))
    for name in ("model.safetensors", "history.csv"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert ppl_vae.load(folder).config["fit"]["epochs"] == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "constant", "kl_warmup": 3, "optimizer": "sgd", "optimizer_options": {"momentum": 0.9}},
        {"dtype": "float64", "clip_norm": 0.5, "patience": 2, "optimizer": "adamw"},
        {"objective": ELBO(3, kl="sampled"), "compile": "graph"},
    ],
)
def test_resume_under_options(folder, tmp_path, options):
    whole = fit(tmp_path / "whole", epochs=6, **options)
    fit(folder, epochs=3, **options)
    fit(folder, epochs=4, resume=True, **options)
    last = fit(folder, epochs=6, resume=True, **options)
    assert last.history == whole.history
    assert same(state(last.pair), state(whole.pair))


@pytest.mark.slow
def test_resume_of_batch_norm_and_dynamic_binarisation(folder, tmp_path):
    case = PAIRS["vae-conv-bernoulli"]
    grey = torch.rand(12, *case.x_shape)
    split = Split({"x": torch.bernoulli(grey)}, Spec("g", case.x_shape, "binary", "dynamic"), intensities=grey)
    whole = fit(tmp_path / "whole", Pair(*case.build()), split, epochs=4)
    fit(folder, Pair(*case.build()), split, epochs=2)
    last = fit(folder, Pair(*case.build()), split, epochs=4, resume=True)
    assert last.history == whole.history
    assert same(state(last.pair), state(whole.pair))


def test_resume_of_an_autoguide(folder, tmp_path):
    def mine():
        model = Regression()
        return Pair(model, AutoNormal(model))

    given = regression_data()
    whole = fit(tmp_path / "whole", mine(), given, epochs=4)
    fit(folder, mine(), given, epochs=2)
    torch.manual_seed(12)  # the guide's own start is of no matter
    last = fit(folder, mine(), given, epochs=4, resume=True)
    assert last.history == whole.history
    assert same(state(last.pair), state(whole.pair))


def test_resume_of_a_finished_run_changes_nothing(run, folder):
    before = contents(folder)
    again = fit(folder, resume=True)
    assert again.history == run.history
    assert same(state(again.pair), state(run.pair))
    after = contents(folder)
    assert all(after[name] == before[name] for name in ("model.safetensors", "history.csv", "timing.csv"))


def test_resume_where_there_is_nothing_starts(folder, tmp_path):
    first = fit(folder, resume=True)
    assert first.history == fit(tmp_path / "other").history
    for name in ("resume.pt", "model.safetensors"):  # killed before the first checkpoint
        (folder / name).unlink()
    assert fit(folder, resume=True).history == first.history


CHANGES = {
    "fit lr": ({"lr": 0.5}, r"fit lr 0.001 as in its config.json; got 0.5"),
    "fit batch_size": ({"batch_size": 4}, r"fit batch_size 8 as in its config.json; got 4"),
    "fit seed": ({"seed": 3}, r"fit seed 0 as in its config.json; got 3"),
    "fit schedule": ({"schedule": "cosine"}, r"fit schedule constant as in its config.json; got cosine"),
    "objective": ({"objective": ELBO(2)}, r"objective num_particles 1 as in its config.json; got 2"),
    "data": ({"given": PAIRS["ppca-linear"].batch(20)}, r"data name small as in its config.json; got own"),
    "pair": (
        {"mine": Pair(*PAIRS["ppca-amortized"].build())},
        r"pair guide .*LinearGaussian.* as in its config.json; got .*Amor",
    ),
}


@pytest.mark.parametrize("change", fast_in({"fit lr", "data", "pair"}, CHANGES))
def test_resume_with_other_settings_names_the_first_that_differs(run, folder, change):
    options, line = CHANGES[change]
    before = contents(folder)
    with pytest.raises(
        InputError, match=r"run_dir .*one: expected " + line + ".*; try the same settings, or another folder"
    ):
        fit(folder, resume=True, **options)
    assert contents(folder) == before


def test_options_that_are_lists_are_told_apart(folder):
    fit(folder, optimizer_options={"betas": [0.5, 0.9]})
    with pytest.raises(
        InputError, match=r"optimizer_options betas \[0.5, 0.9\] as in its config.json; got \[0.6, 0.9\]"
    ):
        fit(folder, optimizer_options={"betas": [0.6, 0.9]}, resume=True)
    fit(folder, optimizer_options={"betas": (0.5, 0.9)}, resume=True, epochs=3)


@pytest.mark.parametrize("share", fast_in({0.6}, [0.0, 0.01, 0.3, 0.6, 0.99]))
def test_half_written_checkpoint(run, folder, share):
    path = folder / "resume.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        RunError, match=r"resume.pt: expected a whole checkpoint; got .*; try another run_dir"
    ) as caught:
        fit(folder, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"rubbish", b"\x80\x05rubbish", b"PK\x03\x04" + bytes(100), bytes(4096)])
def test_checkpoint_that_is_something_else(run, folder, content):
    (folder / "resume.pt").write_bytes(content)
    with pytest.raises(RunError, match=r"resume.pt: expected a whole checkpoint"):
        fit(folder, resume=True)


@pytest.mark.parametrize("content", [{"weights": 1}, [1, 2], torch.zeros(3), 7])
def test_checkpoint_of_something_else(run, folder, content):
    torch.save(content, folder / "resume.pt")
    (folder / "checksums.json").unlink()
    with pytest.raises(
        RunError, match=r"resume.pt: expected (an entry for 'model'|.* dictionary); got .*; try the ver"
    ):
        fit(folder, resume=True)


class Payload:
    """What a malicious file would hold: unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_a_checkpoint_is_executed(run, folder, tmp_path):
    mark = tmp_path / "executed"
    good = torch.load(folder / "resume.pt", weights_only=True)
    for content in (Payload(mark), good | {"history": Payload(mark)}):
        torch.save(content, folder / "resume.pt")
        with pytest.raises(RunError, match=r"resume.pt: expected a whole checkpoint; got "):
            fit(folder, resume=True)
        assert not mark.exists()
    (folder / "resume.pt").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(RunError, match=r"resume.pt: expected a whole checkpoint; got "):
        fit(folder, resume=True)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))  # the payload does what it should, so this test can fail
    assert mark.exists()


def test_nothing_in_a_model_file_is_executed(run, folder, tmp_path):
    mark = tmp_path / "executed"
    torch.save(Payload(mark), folder / "model.safetensors")
    with pytest.raises(RunError, match=r"expected whole files"):
        ppl_vae.load(folder)
    assert not mark.exists()


# -- where it cannot write --------------------------------------------------------------------------------------------


def test_run_dir_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(RunError, match=r"file: expected a folder; got a file; try another run_dir"):
        fit(path)
    with pytest.raises(RunError, match=r"writing .*: expected room and permission to write; got Not a directory; try"):
        fit(path / "below")
    assert path.read_text() == "mine"


def test_folder_of_something_else(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"mine")
    with pytest.raises(RunError, match=r"expected a run folder; got one without config.json; try another folder"):
        fit(tmp_path)
    assert contents(tmp_path) == {"weights.pt": b"mine"}


def full_disk(monkeypatch, after):
    """Let `after` files be written, and no more."""
    written = []
    sync = os.fsync

    def fsync(handle):
        written.append(handle)
        if len(written) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.slow
@pytest.mark.parametrize("after", range(0, 14, 2))
def test_full_disk_leaves_what_was_saved(folder, tmp_path, monkeypatch, after):
    whole = fit(tmp_path / "whole", epochs=3)
    line = (
        r"writing .*: expected room and permission to write; got No space left on device; try freeing space or another"
    )
    with monkeypatch.context() as patch:
        full_disk(patch, after)
        with pytest.raises(RunError, match=line):
            fit(folder, epochs=3)
    assert not [path.name for path in folder.iterdir() if path.name not in FILES]  # nothing half-written stays
    if after >= 7:  # checksums, environment, config, then checksums and four files a checkpoint, resume.pt first
        state_of = torch.load(folder / "resume.pt", weights_only=True)
        epochs = len(state_of["history"].get("epoch", []))
        assert epochs == (after - 5) // 5
        safetensors.torch.load_file(folder / "model.safetensors")
    last = fit(folder, epochs=3, resume=True)
    assert last.history == whole.history
    assert same(state(last.pair), state(whole.pair))


@pytest.mark.slow
def test_limit_on_file_size_in_a_process_of_its_own(tmp_path):
    """The same with the kernel refusing: no file may pass 3,000 bytes, which the first checkpoint does."""
    script = f"""
        import resource, signal, sys
        sys.path.insert(0, {os.path.dirname(run_folders.__file__)!r})
        import ppl_vae
        from run_folders import fit
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            fit({str(tmp_path / "run")!r})
        except ppl_vae.RunError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert re.match(
        r"writing .*resume.pt: expected room and permission to write; got File too large; try", done.stdout
    ), done
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock", "checksums.json", "config.json", "environment.json"
    ]  # fmt: skip


# -- files ------------------------------------------------------------------------------------------------------------


def test_atomic_writing_keeps_the_old_content_until_the_new_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(RunError, match=r"got Input/output error"):
            files.write_bytes(path, b"new")
    assert contents(tmp_path) == {"file": b"old"}
    files.write_bytes(path, b"new")
    assert contents(tmp_path) == {"file": b"new"}
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_a_killed_writer_left_is_removed_on_resume(run, folder):
    left = folder / ".resume.pt.abc.partial"
    left.write_bytes(b"half")
    fit(folder, resume=True)
    assert set(contents(folder)) == FILES


def test_json_without_numbers_it_has_no_form_for(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": [math.nan, 1.5, (math.inf, "x")], "b": None})
    assert files.read_json(tmp_path / "a.json") == {"a": [None, 1.5, [None, "x"]], "b": None}


def test_a_run_moves_with_its_folder(run, folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert same(state(ppl_vae.load(tmp_path / "elsewhere").pair), state(run.pair))


def test_data_of_the_wrong_width_are_named_before_anything_is_written(folder):
    with pytest.raises(InputError):
        fit(folder, given={"x": torch.zeros(20, D)})
    assert not folder.exists()


def test_one_fit_at_a_time_writes_to_a_folder(tmp_path):
    folder = tmp_path / "run"
    fit(folder, epochs=1)
    with RunFolder(folder) as other:
        other._lock = files.lock(folder)
        with pytest.raises(RunError, match="expected a folder of its own for each fit; got one that another"):
            fit(folder, epochs=2, resume=True)
    fit(folder, epochs=2, resume=True)


@pytest.mark.slow
def test_a_fresh_process_can_read_a_run(folder, run):
    code = f"import ppl_vae; print(type(ppl_vae.load({str(folder)!r}).pair.model).__name__)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout == "PPCA\n"
