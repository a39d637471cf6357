"""What a run says about itself, in every sink, and that saying it never hurts the run."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import re
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from crewai_prod import fields, logs
from crewai_prod.errors import UsageError
from crewai_prod.logfile import read_log
from crewai_prod.logs import RunLog, open_log
from crewai_prod.records import (
    AttemptRecord,
    Cost,
    CostStatus,
    StepKind,
    StepRecord,
    StepStatus,
    Usage,
)
from crewai_prod.redact import MARK

SECRETS = {
    "key": "sk-" + "planted0Secret9Key",
    "aws": "AKIA" + "PLANTEDSECRET123",
    "password": "correct-horse-battery",
}
USAGE = Usage(
    input_tokens=1200,
    output_tokens=300,
    cache_read_tokens=1000,
    cache_write_tokens=7,
    reasoning_tokens=90,
    calls=1,
)
MODEL_CALL = StepRecord(
    seq=1,
    step_id="00112233445566aa",
    scope="tasks/0/Researcher",
    kind=StepKind.MODEL,
    name="gemini-3",
    digest="recorded",
    occurrence=0,
    agent="Researcher",
    task=0,
    status=StepStatus.DONE,
    attempts=2,
    result=json.dumps("The tide turns."),
    usage=USAGE,
    model="gemini-3-001",
    provider="gemini",
    response_id="resp-1",
    finish_reason="stop",
    started_at=0.0,
    duration_ms=812.34567,
)
TOOL_CALL = StepRecord(
    seq=2,
    step_id="00112233445566bb",
    scope="tasks/0/Researcher",
    kind=StepKind.TOOL,
    name="charge_card",
    digest="d",
    occurrence=0,
    agent="Researcher",
    task=0,
    status=StepStatus.FAILED,
    effect="write",
    arguments=json.dumps({"amount": 5, "password": SECRETS["password"]}),
    error=json.dumps({"type": "ToolCrashed", "message": f"bad key {SECRETS['key']}"}),
    started_at=0.0,
    duration_ms=3.0,
)
TRY = AttemptRecord(
    step_id=MODEL_CALL.step_id,
    attempt=1,
    status=StepStatus.FAILED,
    error=json.dumps({"type": "RateLimited", "message": "slow down"}),
    usage=Usage(input_tokens=5, calls=1),
    started_at=0.0,
    duration_ms=1.0,
)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where the journal would lie."""
    return tmp_path / "runs.db"


@pytest.fixture
def make(journal: Path) -> Callable[..., RunLog]:
    """Opens the default log of run `r-1`."""
    return lambda **more: open_log(**{"run_id": "r-1", "journal_path": journal, **more})


def _lines(log: RunLog) -> list[dict[str, Any]]:
    assert log.path is not None
    return [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]


def _known() -> set[str]:
    return {value for name, value in vars(fields).items() if name.isupper() and type(value) is str}


def _say_everything(log: RunLog) -> None:
    """One line, at least, of each kind."""
    log.run_started(crew="research", epoch=1, steps=0, inputs={"api_key": SECRETS["password"]})
    log.run_resumed(crew="research", epoch=2, steps=4)
    log.task_started(task="dig", position=0, agent="Researcher")
    log.llm_call(MODEL_CALL, task="dig", attempt=TRY)
    log.retry(TRY, name="gemini-3", wait_ms=250.0, task="dig", agent="Researcher")
    log.llm_call(MODEL_CALL, task="dig", messages=[{"role": "user", "content": SECRETS["aws"]}])
    log.tool_call(TOOL_CALL, task="dig", call_id="call_1")
    log.step_finished(TOOL_CALL._replace(kind=StepKind.FUNCTION, name="collect", effect=None))
    log.step_drift(MODEL_CALL, asked="asked", task="dig", differs=["messages"])
    log.step_replayed(MODEL_CALL, task="dig")
    log.task_finished(task="dig", position=0, status="done", duration_ms=9.0, output="Tides.")
    log.task_kept(task="write", position=1)
    log.warning("Nearly spent.", event=fields.BUDGET_WARNING)
    log.run_finished(
        status="failed",
        error=json.dumps({"type": "BudgetExceeded"}),
        usage=USAGE,
        tool_calls=1,
        replayed_steps=1,
        kept_tasks=1,
    )


# -- lines ----------------------------------------------------------------------------------------


def test_a_line_begins_with_what_every_line_has(make: Callable[..., RunLog]) -> None:
    """Time, level, event, schema and run come first, in this order."""
    log = make(workflow="research")
    log.emit("hello", "warning", **{"a.b": 1})
    (line,) = _lines(log)
    assert list(line) == [
        *("ts", "level", "event", "schema_version", "run_id"),
        *("gen_ai.workflow.name", "a.b"),
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["ts"])
    assert (line["level"], line["event"], line["schema_version"]) == ("warning", "hello", 1)
    assert line["run_id"] == "r-1"


def test_the_default_file_is_private_and_made_late(
    make: Callable[..., RunLog], journal: Path
) -> None:
    """The log lies beside the journal, with mode 0600, from the first line on."""
    log = make()
    path = journal.with_name("runs.db.log.jsonl")
    assert log.path == path
    assert not path.exists()
    log.emit("hello")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_model_call_has_the_genai_names(make: Callable[..., RunLog]) -> None:
    """Who was asked, who answered, what it used and what it cost, or that no price is known."""
    log = make()
    cost = Cost(status=CostStatus.PRICED, picousd=1_250_000_000, source="genai-prices")
    log.llm_call(MODEL_CALL._replace(cost=cost), task="dig")
    log.llm_call(MODEL_CALL._replace(cost=Cost(status=CostStatus.UNPRICED)))
    line, unpriced = _lines(log)
    assert unpriced["cost.status"] == "unpriced"
    assert not any(key.startswith("gen_ai.usage.cost") for key in unpriced)
    del line["ts"], line["level"], line["schema_version"], line["run_id"]
    assert line == {
        "event": "llm.call",
        "task": "dig",
        "task.position": 0,
        "scope": "tasks/0/Researcher",
        "gen_ai.agent.name": "Researcher",
        "step_id": "00112233445566aa",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "gemini-3",
        "attempt": 2,
        "replayed": False,
        "duration_ms": 812.346,
        "gen_ai.usage.input_tokens": 1200,
        "gen_ai.usage.output_tokens": 300,
        "gen_ai.usage.cache_read.input_tokens": 1000,
        "gen_ai.usage.cache_write.input_tokens": 7,
        "gen_ai.usage.reasoning.output_tokens": 90,
        "gen_ai.usage.cost.amount": 0.00125,
        "gen_ai.usage.cost.currency": "USD",
        "gen_ai.usage.cost.source": "genai-prices",
        "cost.status": "priced",
        "gen_ai.response.model": "gemini-3-001",
        "gen_ai.response.id": "resp-1",
        "gen_ai.response.finish_reasons": ["stop"],
    }


def test_usage_stands_on_model_calls_only(make: Callable[..., RunLog]) -> None:
    """Summing usage over the log gives the bill: failed tries count, replays and totals do not."""
    log = make()
    _say_everything(log)
    used = [line for line in _lines(log) if any(key.startswith("gen_ai.usage.") for key in line)]
    assert {line["event"] for line in used} == {"llm.call"}
    assert sum(line["gen_ai.usage.input_tokens"] for line in used) == 1205
    assert not any(key.startswith("gen_ai.usage.cost") for line in used for key in line)


def test_every_event_and_key_is_in_the_constants(make: Callable[..., RunLog]) -> None:
    """What the helpers write is spelt in `fields` and nowhere else."""
    log = make(content=True, workflow="research")
    _say_everything(log)
    known = _known()
    lines = _lines(log)
    assert len(lines) == 14
    assert {line["event"] for line in lines} <= known
    assert {key for line in lines for key in line} <= known


def test_the_end_of_a_run_has_its_totals(make: Callable[..., RunLog]) -> None:
    """Status, class of the error and totals under names that are not summed as usage."""
    log = make()
    _say_everything(log)
    line = _lines(log)[-1]
    assert line["level"] == "error"
    assert (line["status"], line["error.type"]) == ("failed", "BudgetExceeded")
    assert (line["totals.tokens"], line["totals.llm_calls"], line["totals.tool_calls"]) == (
        1500,
        1,
        1,
    )
    assert "error.message" not in line


def test_what_was_not_done_is_marked(make: Callable[..., RunLog]) -> None:
    """A replayed step and a kept task say so and claim neither usage nor time."""
    log = make()
    log.step_replayed(MODEL_CALL, task="dig")
    log.task_kept(task="dig", position=0)
    for line in _lines(log):
        assert line["replayed"] is True
        assert "duration_ms" not in line


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (json.dumps({"type": "RateLimited", "message": "m"}), "RateLimited"),
        (json.dumps({"message": "m"}), "_OTHER"),
        ("no JSON", "_OTHER"),
        (ValueError("m"), "ValueError"),
    ],
)
def test_an_error_is_named_by_its_class(
    make: Callable[..., RunLog], error: str | BaseException, kind: str
) -> None:
    """The class is taken from an exception or from the journal's facts, else it is `_OTHER`."""
    log = make()
    log.run_finished(status="failed", error=error)
    assert _lines(log)[0]["error.type"] == kind


class _Unprintable(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_an_error_that_cannot_be_printed_is_named(make: Callable[..., RunLog]) -> None:
    """A user's exception whose `repr` raises costs its text only."""
    log = make(content=True)
    log.run_finished(status="failed", error=_Unprintable())
    log.run_finished(status="failed", error=ValueError(f"x {SECRETS['key']}"))
    unprintable, plain = _lines(log)
    assert unprintable["error.type"] == "_Unprintable"
    assert unprintable["error.message"] == "<_Unprintable>"
    assert plain["error.message"] == f"ValueError('x {MARK}')"


def test_content_is_shown_on_request_only(make: Callable[..., RunLog], tmp_path: Path) -> None:
    """Prompts, arguments, results, inputs, outputs and texts of errors need `content=True`."""
    quiet, open_ = make(target=tmp_path / "quiet"), make(target=tmp_path / "open", content=True)
    for log in (quiet, open_):
        _say_everything(log)
        log.tool_call(TOOL_CALL._replace(status=StepStatus.DONE, result=json.dumps("paid")))
    content = ("tide turns", "Tides.", "amount", "bad key", "slow down", "paid")
    quiet_text, open_text = (tmp_path / "quiet").read_text(), (tmp_path / "open").read_text()
    assert [word for word in content if word in quiet_text] == []
    assert [word for word in content if word not in open_text] == []
    called = [line for line in _lines(open_) if line["event"] == "tool.call"]
    assert called[0]["gen_ai.tool.call.arguments"] == {"amount": 5, "password": MARK}
    assert called[1]["gen_ai.tool.call.result"] == "paid"


# -- redaction ------------------------------------------------------------------------------------


@pytest.fixture
def record() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger of `logging` as an application would set it up."""
    stream, logger = io.StringIO(), logging.getLogger("tests.crewai_prod")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield logger, stream
    logger.removeHandler(handler)


def test_no_planted_secret_reaches_any_sink(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record: tuple[logging.Logger, io.StringIO]
) -> None:
    """By key, by shape, nested, in text, bound or in the run's id: nothing gets through."""
    printed = io.StringIO()
    theirs = structlog.wrap_logger(
        structlog.PrintLogger(printed), processors=[structlog.processors.KeyValueRenderer()]
    )
    for target in (tmp_path / "log", "stderr", record[0], theirs):
        log = open_log(target, run_id=f"r {SECRETS['key']}", content=True, api_key=SECRETS["aws"])
        _say_everything(log.bind(headers={"Authorization": SECRETS["password"]}))
        log.emit(f"event {SECRETS['key']}", note=f"db at x://u:{SECRETS['password']}@h", **SECRETS)
        assert log.dropped == 0
    texts = ((tmp_path / "log").read_text(), capsys.readouterr().err, record[1].getvalue())
    for text in (*texts, printed.getvalue()):
        assert text.count("\n") == 15
        assert MARK in text
        assert [name for name, secret in SECRETS.items() if secret in text] == []


def test_sensitive_names_of_tools_are_honoured(make: Callable[..., RunLog]) -> None:
    """Arguments declared sensitive are not shown even with `content`."""
    log = make(content=True, sensitive={"amount"})
    log.tool_call(TOOL_CALL)
    assert _lines(log)[0]["gen_ai.tool.call.arguments"] == {"amount": MARK, "password": MARK}


# -- hostile values -------------------------------------------------------------------------------


class _Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


_CONTROL = "\x1b[31mred\x9b2J\x7f\u2028\u202e\r\n\x00"
_CYCLE: dict[str, Any] = {}
_CYCLE["self"] = _CYCLE


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param("\ud800 alone", "\ufffd alone", id="surrogate"),
        pytest.param(["a\udfff", {"\ud800": 1}], ["a\ufffd", {"\ufffd": 1}], id="surrogates"),
        (float("nan"), None),
        (float("inf"), None),
        (2**63 - 1, 2**63 - 1),
        (2**70, str(2**70)),
        pytest.param(-(10**5000), "<16610 bits>", id="huge"),
        (b"\x00\xff", "<2 bytes>"),
        (_Hostile(), "<_Hostile>"),
        ({1: {(2, 3): {None: 4}}}, {"1": {"[2, 3]": {"None": 4}}}),
        pytest.param(_CONTROL, _CONTROL, id="control"),
    ],
)
def test_any_value_makes_one_valid_line(
    make: Callable[..., RunLog], value: Any, shown: Any
) -> None:
    """Whatever a field holds, the line is JSON, stands alone and has no control character in it."""
    log = make()
    log.emit("e", value=value)
    assert log.path is not None
    raw = log.path.read_bytes()
    assert json.loads(raw)["value"] == shown
    text = raw.decode()
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()
    assert log.dropped == 0


def test_endless_values_end(make: Callable[..., RunLog]) -> None:
    """Cyclic values and huge texts are cut, and the fields after them are there."""
    log = make()
    log.emit("e", cycle=_CYCLE, huge="x" * 10_000_000, after=1)
    (line,) = _lines(log)
    assert len(line["huge"]) < 100_000
    assert line["after"] == 1


def test_names_of_ours_cannot_be_taken(make: Callable[..., RunLog]) -> None:
    """Fields called as ours are ignored, bound or not; None is left out."""
    log = make()
    theirs = {"ts": "x", "run_id": "x", "schema_version": 9, "event": "x"}
    log.bind(**theirs).emit("hello", **theirs, extra=None, method_name=1, self=2)
    (line,) = _lines(log)
    assert (line["event"], line["run_id"], line["schema_version"]) == ("hello", "r-1", 1)
    assert line["ts"] != "x"
    assert len(line) == 7


# -- order ----------------------------------------------------------------------------------------


def test_lines_of_a_run_are_in_order_of_time(make: Callable[..., RunLog]) -> None:
    """Threads that log at once lose nothing, and times never go back within the file."""
    log = make(max_bytes=50_000, files=100)

    def work(name: str) -> None:
        child = log.bind(thread=name)
        for n in range(300):
            child.emit("e", n=n)

    threads = [threading.Thread(target=work, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.path is not None
    lines = list(read_log(log.path, "r-1"))
    times = [line["ts"] for line in lines]
    assert times == sorted(times)
    for i in range(8):
        assert [line["n"] for line in lines if line["thread"] == str(i)] == list(range(300))


def test_a_line_is_written_when_the_call_returns(make: Callable[..., RunLog]) -> None:
    """There is no buffer: a process killed after the call has left its line."""
    log = make()
    for n in range(3):
        log.emit("e", n=n)
        assert len(_lines(log)) == n + 1


# -- sinks ----------------------------------------------------------------------------------------


def test_a_logger_of_logging_gets_line_and_fields(
    record: tuple[logging.Logger, io.StringIO], caplog: pytest.LogCaptureFixture
) -> None:
    """The message is the JSON line, percent signs included; fields are on the record."""
    logger, stream = record
    logger.addHandler(caplog.handler)
    log = open_log(logger, run_id="r-1")
    log.emit("e", "warning", note="100 %s %d")
    log.emit("below", "debug")
    logger.removeHandler(caplog.handler)
    assert json.loads(stream.getvalue())["note"] == "100 %s %d"
    (entry,) = caplog.records
    assert entry.levelno == logging.WARNING
    assert entry.crewai_prod["run_id"] == "r-1"  # type: ignore[attr-defined]


def test_a_structlog_logger_gets_event_and_fields() -> None:
    """The user's own processors decide on time, level and rendering."""
    with structlog.testing.capture_logs() as seen:
        log = open_log(structlog.get_logger(service="api"), run_id="r-1")
        log.llm_call(MODEL_CALL)
    (line,) = seen
    assert (line["event"], line["log_level"], line["service"]) == ("llm.call", "info", "api")
    assert (line["run_id"], line["gen_ai.request.model"]) == ("r-1", "gemini-3")


def test_an_async_structlog_logger_is_written_to_at_once() -> None:
    """No coroutine is left unawaited: the line is there when the call returns."""

    async def run() -> str:
        out = io.StringIO()
        theirs = structlog.wrap_logger(
            structlog.PrintLogger(out),
            wrapper_class=structlog.stdlib.AsyncBoundLogger,
            processors=[structlog.processors.JSONRenderer()],
        ).bind()
        open_log(theirs, run_id="r-1").emit("hello")
        return out.getvalue()

    assert json.loads(asyncio.run(run()))["event"] == "hello"


def test_stderr_is_looked_up_at_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A stream that was replaced after opening gets the line."""
    open_log("stderr", run_id="r-1").emit("hello")
    captured = capsys.readouterr()
    assert json.loads(captured.err)["event"] == "hello"
    assert captured.out == ""


@pytest.mark.parametrize("target", [None, "none", logs.DEFAULT])
def test_no_target_is_silent(target: Any, tmp_path: Path) -> None:
    """None, its spelling for the environment, and a journal without a file: nothing is written."""
    log = open_log(target, run_id="r-1", content=True)
    _say_everything(log.bind(a=1))
    log.close()
    assert (log.path, log.dropped, list(tmp_path.iterdir())) == (None, 0, [])


@pytest.mark.parametrize("target", [7, object(), print, b"path"])
def test_other_targets_are_refused(target: Any) -> None:
    """A target that is none is a mistake of the developer, said at once."""
    with pytest.raises(UsageError, match="no path"):
        open_log(target, run_id="r-1")


def test_context_variables_of_the_application_are_merged(make: Callable[..., RunLog]) -> None:
    """What the application binds for its own lines stands on ours as well."""
    log = make()
    with structlog.contextvars.bound_contextvars(request_id="q-7", run_id="theirs"):
        log.emit("e")
    (line,) = _lines(log)
    assert (line["request_id"], line["run_id"]) == ("q-7", "r-1")


def test_nothing_global_is_touched(make: Callable[..., RunLog]) -> None:
    """Neither structlog's configuration nor logging's root changes."""
    before = (structlog.get_config(), list(logging.root.handlers), logging.root.level)
    _say_everything(make())
    assert (structlog.get_config(), list(logging.root.handlers), logging.root.level) == before


def test_processors_are_offered_to_the_application() -> None:
    """With them an application's own lines look as ours do, and are redacted."""
    out = io.BytesIO()
    theirs = structlog.wrap_logger(structlog.BytesLogger(out), processors=logs.processors())
    theirs.info("hello", api_key="abc", n=1)
    line = json.loads(out.getvalue())
    assert list(line) == ["ts", "level", "event", "schema_version", "api_key", "n"]
    assert line["api_key"] == MARK
    text = io.StringIO()
    theirs = structlog.wrap_logger(
        structlog.PrintLogger(text), processors=logs.processors(text=True, sensitive={"n"})
    )
    theirs.warning("hello", n=1)
    assert json.loads(text.getvalue())["n"] == MARK


# -- sinks that fail ------------------------------------------------------------------------------


class _Broken:
    """A logger that fails until it is mended."""

    def __init__(self) -> None:
        self.broken = True
        self.seen: list[str] = []

    def bind(self, **_: Any) -> _Broken:
        return self

    def info(self, event: str, **_: Any) -> None:
        if self.broken:
            raise RuntimeError(f"cannot log, password={SECRETS['password']}")
        self.seen.append(event)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def test_a_failing_sink_is_counted_said_once_and_tried_again() -> None:
    """The run goes on, the loss is counted and warned of without secrets; mended, it logs on."""
    sink = _Broken()
    log = open_log(sink, run_id="r-1")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            log.bind(a=1).emit("lost")
    assert log.dropped == 3
    (warning,) = said
    assert warning.category is RuntimeWarning
    assert "RuntimeError" in str(warning.message)
    assert SECRETS["password"] not in str(warning.message)
    sink.broken = False
    log.emit("found")
    assert sink.seen == ["found"]
    assert log.dropped == 3


def test_warnings_as_errors_do_not_reach_the_run() -> None:
    """Even where every warning raises, a lost line is only counted."""
    log = open_log(_Broken(), run_id="r-1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.emit("lost")
    assert log.dropped == 1


@pytest.mark.filterwarnings("ignore:crewai-prod")
def test_lost_lines_are_told_by_the_end_of_the_run(tmp_path: Path) -> None:
    """A path that cannot be written loses lines; once it can, the run's end says how many."""
    path = tmp_path / "taken"
    path.mkdir()
    log = open_log(path, run_id="r-1")
    log.emit("lost")
    log.emit("lost")
    path.rmdir()
    log.run_finished(status="completed")
    assert [line["log.dropped"] for line in _lines(log)] == [2]


@pytest.mark.filterwarnings("ignore:crewai-prod")
@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_closed_stderr_does_not_hurt(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    """A daemon without a stream, or with a closed one, runs on."""
    broken = io.StringIO()
    broken.close()
    monkeypatch.setattr(sys, "stderr", broken if stream else None)
    log = open_log("stderr", run_id="r-1")
    log.emit("lost")
    assert log.dropped == 1


@pytest.mark.filterwarnings("ignore:crewai-prod")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_does_not_hurt() -> None:
    """No space left is a lost line, not a failed run."""
    log = open_log("/dev/full", run_id="r-1")
    log.emit("lost")
    assert log.dropped == 1


def test_a_closed_log_opens_again(make: Callable[..., RunLog]) -> None:
    """A late thread's line after the end of the run is not lost."""
    log = make()
    log.emit("a")
    log.close()
    log.close()
    log.emit("b")
    assert [line["event"] for line in _lines(log)] == ["a", "b"]


# -- hygiene and cost -----------------------------------------------------------------------------


def test_structlog_is_imported_with_the_first_log_only() -> None:
    """Importing the module is cheap, and so is running without a log."""
    code = (
        "import sys; from crewai_prod.logs import open_log;"
        "open_log(None, run_id='r').emit('e'); sys.exit('structlog' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_keys_are_spelt_in_one_place() -> None:
    """No dotted key is written out in logs.py."""
    tree = ast.parse(Path(logs.__file__).read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert {text for text in texts if isinstance(text, str) and "." in text} & _known() == set()


def test_a_line_costs_little(make: Callable[..., RunLog]) -> None:
    """A model call's line takes far less than a tenth of a millisecond, its best of five."""
    log = make()
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(500):
            log.llm_call(MODEL_CALL, task="dig")
        best = min(best, (time.perf_counter() - begin) / 500)
    assert best < 100e-6


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "openai"),
        ("anthropic", "anthropic"),
        ("Gemini", "gcp.gemini"),
        ("bedrock", "aws.bedrock"),
        ("azure", "azure.ai.openai"),
        ("mistral", "mistral_ai"),
        ("xai", "x_ai"),
        ("ollama", "ollama"),
        ("My-Own", "My-Own"),
    ],
)
def test_providers_have_their_genai_names(provider: str, name: str) -> None:
    """Providers that the conventions know are called as there, others as they are."""
    assert fields.provider_name(provider) == name
