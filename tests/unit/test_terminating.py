"""Who ends by SIGTERM, and whose handler is left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from crewai_prod.settings import Settings
from crewai_prod.terminating import Terminating

_FORKS = """
import os, signal, sys, time
from crewai_prod.settings import Settings
from crewai_prod.terminating import Terminating

Terminating().heed(Settings())
assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
child = os.fork()
if child == 0:
    time.sleep(30)
    os._exit(0)
time.sleep(0.1)
os.kill(child, signal.SIGTERM)
assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
time.sleep(0.3)
print("the parent lives", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(30)
"""


@pytest.fixture
def before() -> Iterator[None]:
    """The handler that was there is there again."""
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, handler)


def test_a_forked_child_ends_alone() -> None:
    """It has inherited the handler, and what that wakes is its parent's; both end by the signal."""
    done = subprocess.run(
        [sys.executable, "-c", _FORKS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("the parent lives\n", "")
    assert done.returncode == -signal.SIGTERM


@pytest.mark.usefixtures("before")
def test_a_handler_of_the_users_stays() -> None:
    """So does the default one, where the setting says so."""
    Terminating().heed(Settings(sigterm=False))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def mine(*_: object) -> None:
        """Somebody else's."""

    signal.signal(signal.SIGTERM, mine)
    Terminating().heed(Settings())
    assert signal.getsignal(signal.SIGTERM) is mine
