"""Compiling a graph in a process of its own, while this one runs the graph as it is.

The other process fills Inductor's cache on disk, so that compiling the same graph here later takes a second or two. It
cannot be a thread: Inductor saves and restores torch's random state, which all threads of a process draw from. It has
one of this process's cores: threads that wait for each other at every operation would otherwise wait for the compiler.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule

from ppl_vae.compile.inductor import fused
from ppl_vae.compile.onednn import register_linear

_COMMAND = "import sys; from ppl_vae.compile.ahead import main; main(sys.argv[1])"


class Ahead:
    """A compilation in another process, for which torch here has a thread less until `wait` or `close`.

    Parameters
    ----------
    graph : GraphModule
        What to compile, as `fused` gets it.
    inputs : sequence of Tensor
        Of the shapes it will be called with.
    """

    def __init__(self, graph: GraphModule, inputs: Sequence[Tensor]) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        threads = torch.get_num_threads()
        folder = tempfile.mkdtemp(prefix="ppl-vae-")
        try:
            file = Path(folder) / "graph.pickle"
            shapes = [(tuple(value.shape), value.stride(), value.dtype) for value in inputs]
            file.write_bytes(pickle.dumps((threads, _plain(graph), shapes)))
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PPL_VAE_DEVICE": "cpu"}
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(file)],
                env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except Exception:  # what cannot be pickled, no process: it is compiled when it is needed
            pass
        lent = min(1, threads - 1)
        torch.set_num_threads(threads - lent)
        self.close = weakref.finalize(self, _end, self._process, folder, lent)

    def wait(self) -> None:
        """Wait until it is done; whether it has failed is seen when the graph is compiled here."""
        if self._process is not None:
            self._process.wait()
        self.close()


def _plain(graph: GraphModule) -> GraphModule:
    """Return a copy of a graph without what was known when it was traced, which cannot be pickled."""
    copy = Graph()
    copy.output(copy.graph_copy(graph.graph, {}))
    for node in copy.nodes:
        node.meta.clear()
    return GraphModule(graph, copy)


def _end(process: subprocess.Popen[Any] | None, folder: str, lent: int) -> None:
    torch.set_num_threads(torch.get_num_threads() + lent)  # others may be under way, and end in any order
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def main(path: str) -> None:
    """Compile the graph in the file at `path`."""
    register_linear()
    threads, graph, shapes = pickle.loads(Path(path).read_bytes())
    torch.set_num_threads(threads)
    fused(graph, [torch.empty_strided(shape, stride, dtype=dtype) for shape, stride, dtype in shapes])
