"""Say what importing changes: ``python process_state.py OTHERS MODULES`` prints the settings that MODULES switched.

OTHERS are imported first, so that only what MODULES do themselves is reported. Run in a process of its own.
"""

import importlib
import json
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings


def snapshot():
    """Return the state of this process, by name."""
    import matplotlib as mpl
    import numpy as np
    import pyro
    import torch

    return {
        "torch.default_dtype": torch.get_default_dtype(),
        "torch.default_device": torch.get_default_device(),
        "torch.num_threads": torch.get_num_threads(),
        "torch.num_interop_threads": torch.get_num_interop_threads(),
        "torch.grad_enabled": torch.is_grad_enabled(),
        "torch.inference_mode": torch.is_inference_mode_enabled(),
        "torch.deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch.matmul_precision": torch.get_float32_matmul_precision(),
        "torch.anomaly": torch.is_anomaly_enabled(),
        "torch.cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "torch.validate_args": torch.distributions.Distribution._validate_args,
        "torch.random": torch.get_rng_state().tolist(),
        "numpy.random": repr(np.random.get_state()),
        "numpy.errors": np.geterr(),
        "numpy.printing": np.get_printoptions(),
        "random": random.getstate(),
        "pyro.settings": pyro.settings.get(),
        "pyro.parameters": list(pyro.get_param_store().keys()),
        "pyro.handlers": len(pyro.poutine.runtime._PYRO_STACK),
        "matplotlib.settings": dict(dict.items(mpl.rcParams)),  # an item's own access would choose a backend
        "matplotlib.pyplot": "matplotlib.pyplot" in sys.modules,
        "warnings": list(warnings.filters),
        "logging": (logging.root.level, list(logging.root.handlers)),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "exceptions": (sys.excepthook, threading.excepthook),
        "locale": locale.setlocale(locale.LC_ALL),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "threads": threading.active_count(),
        "recursion": sys.getrecursionlimit(),
    }


def import_most_of(name):
    """Import the longest part of a full name that is a module."""
    while name:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            name = name.rpartition(".")[0]
        else:
            return


def main(others, names):
    """Import `others`, then `names`, and print the names of what changed, as JSON."""
    for name in others:
        import_most_of(name)
    before = {name: repr(value) for name, value in snapshot().items()}
    for name in names:
        importlib.import_module(name)
    after = {name: repr(value) for name, value in snapshot().items()}
    print(json.dumps([name for name in before if before[name] != after[name]]))


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2].split(","))
