"""3,000 public calls with arguments that they are not made for: each succeeds, or is refused in one line.

Hypothesis draws the calls, the same ones every time (`public_calls`, `hostile`). What is neither a success nor an error
of the library counts as a traceback; so does a call that hangs, or that takes gigabytes.
"""

import contextlib
import resource
import signal
import warnings
from collections import Counter
from pathlib import Path

import public_calls
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from ppl_vae.core.errors import PplVaeError

CALLS = 3000

#: The tracebacks that are left, by call and class of the error, with the reason.
LEFT: dict[tuple[str, str], str] = {}
MOST_LEFT = 10

SECONDS = 120
GIGABYTES = 3


class HungError(BaseException):
    """A call took longer than `SECONDS`; no `except Exception` on the way stops it."""


@contextlib.contextmanager
def limited_memory():
    """Let the process take so many gigabytes more than it has, and no more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def limited_time():
    def hung(*_):
        raise HungError(f"after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome_of(name, arguments):
    """How a call ends: "success", "refused", or the class of what else it raised; and the text of that."""
    try:
        with limited_time(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            public_calls.perform(name, arguments)
    except PplVaeError as error:
        text = str(error)
        return ("refused" if "\n" not in text and len(text) < 1000 else "more than a line"), text
    except SystemExit as error:
        return ("refused" if error.code == 2 else f"exit {error.code}"), ""
    except (Exception, HungError) as error:
        return type(error).__name__, str(error)
    return "success", ""


def in_words(arguments):
    return (
        arguments
        if isinstance(arguments, list)
        else {name: description for name, (description, _) in arguments.items()}
    )


def drawn(name, strategy, count):
    """What became of so many drawn calls: (how it ended, arguments in words, text of the error)."""
    outcomes = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(arguments):
        if name == public_calls.COMMAND or not public_calls.is_endless(arguments):
            how, text = outcome_of(name, arguments)
            outcomes.append((how, in_words(arguments), text))

    run()
    return outcomes


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited as Linux does it")
def test_no_call_ends_in_a_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    public_calls.prepare()
    weights = {name: call.weight for name, call in public_calls.CALLS.items()} | {public_calls.COMMAND: 4}
    share = 1.1 * CALLS / sum(weights.values())  # some drawn calls would be endless, and some would be repeated
    counts, succeeded, bad = Counter(), set(), []
    with limited_memory():
        for name, weight in weights.items():
            is_command = name == public_calls.COMMAND
            strategy = public_calls.drawn_commands() if is_command else public_calls.drawn_calls(name)
            for how, arguments, text in drawn(name, strategy, round(share * weight)):
                counts[how] += 1
                if how == "success":
                    succeeded.add(name)
                elif how != "refused":
                    bad.append((name, how, arguments, text[:300]))
    print(f"{sum(counts.values()):,} calls: {dict(counts)}")
    description = "\n".join(map(str, bad))
    assert sum(counts.values()) >= CALLS
    assert {(name, how) for name, how, *_ in bad} <= LEFT.keys(), description
    assert len(bad) < MOST_LEFT, description
    assert counts["success"] > CALLS / 5  # calls that are as they should be go on succeeding
    assert succeeded == weights.keys()


@pytest.mark.slow
def test_a_traceback_counts(monkeypatch):
    def broken(**_):
        raise KeyError("a")

    monkeypatch.setitem(public_calls.CALLS, "broken", public_calls.Call(broken, {"a": public_calls.exactly(1)}))
    assert {how for how, *_ in drawn("broken", public_calls.drawn_calls("broken"), 5)} == {"KeyError"}


@pytest.mark.slow
def test_a_hang_counts(monkeypatch):
    monkeypatch.setitem(globals(), "SECONDS", 1)
    waits = public_calls.Call(lambda **_: signal.pause(), {"a": public_calls.exactly(1)})
    monkeypatch.setitem(public_calls.CALLS, "waits", waits)
    assert drawn("waits", public_calls.drawn_calls("waits"), 1)[0][0] == "HungError"
