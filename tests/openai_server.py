"""An OpenAI-compatible HTTP server on loopback that answers from a script and counts everything.

`Server` runs in a thread of the test; `ServerProcess` runs the same server in a process of its
own, for crews that are killed. Both keep the ground truth of what was asked and what it cost:

    with Server(Conversation(Rule(call("pay", {"amount": 5}), Reply("paid")))) as server:
        llm = LLM(model="openai/gpt-4o-mini", base_url=server.url + "/v1", api_key="sk-test")
        ...
        assert len(server.requests) == 2

By hand: `python -m tests.openai_server --script module:attribute [--port N] [--log FILE]`.
`/v1/messages` speaks Anthropic's format, in plain text, for its client's errors. Not covered:
`/v1/responses`, audio, files, several choices (`n`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.openai_script import (
    FAULTS,
    RECOVERABLE,
    Body,
    Conversation,
    Fault,
    Reply,
    Rule,
    Schedule,
    Script,
    Seen,
    ToolCall,
    Turn,
    Usage,
    act,
    answer,
    call,
    calls,
    fail_at_rate,
    fail_first,
    fault,
    final,
    use,
)
from tests.openai_wire import (
    BadRequest,
    Wire,
    chat_wire,
    check_chat,
    digest_of,
    embeddings_wire,
    error_wire,
    messages_wire,
    models_wire,
    parse,
)

__all__ = [
    "FAULTS",
    "RECOVERABLE",
    "ROOT",
    "Body",
    "Conversation",
    "Fault",
    "Record",
    "Reply",
    "Rule",
    "Schedule",
    "Script",
    "Seen",
    "Server",
    "ServerProcess",
    "ToolCall",
    "Totals",
    "Turn",
    "Usage",
    "act",
    "answer",
    "call",
    "calls",
    "fail_at_rate",
    "fail_first",
    "fault",
    "final",
    "totals",
    "use",
]

ROOT = Path(__file__).resolve().parent.parent
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
MESSAGES = "/v1/messages"


@dataclass(frozen=True, slots=True)
class Record:
    """One request as the server saw it.

    Attributes:
        n: 1 for the first request of all.
        path: The endpoint.
        model: The model asked for.
        digest: Identifies path, model and messages (or embedded input).
        nth: 1 for the first request with this digest.
        stream: Whether a stream was asked for.
        body: The request itself; not in the log file.
        status: HTTP status; 0 when none was to be sent, `None` while it is being answered.
        usage: The usage object in the response; `None` when the response could not tell.
        fault: The kind of fault it met.
        started_at: When it came in, in seconds since the epoch.
        finished_at: When the last byte was handed over; `None` while it is being answered.
        completed: Whether the whole response was handed over to a client still there. One killed
            between that moment and reading it cannot be told apart.
    """

    n: int
    path: str
    model: str
    digest: str
    nth: int
    stream: bool
    body: Body
    status: int | None = None
    usage: Mapping[str, Any] | None = None
    fault: str | None = None
    started_at: float = 0.0
    finished_at: float | None = None
    completed: bool = False


@dataclass(frozen=True, slots=True)
class Totals:
    """What a set of requests cost, counted over those whose usage reached the client."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int

    @property
    def total_tokens(self) -> int:
        """Return prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


def totals(records: Iterable[Record]) -> Totals:
    """Add up the usage of the completed requests among `records`."""
    told = [record.usage for record in records if record.completed and record.usage]

    def total(key: str, details: str = "") -> int:
        return sum((one.get(details, {}) if details else one).get(key, 0) for one in told)

    return Totals(
        requests=len(told),
        prompt_tokens=total("prompt_tokens"),
        completion_tokens=total("completion_tokens"),
        cached_tokens=total("cached_tokens", "prompt_tokens_details"),
        reasoning_tokens=total("reasoning_tokens", "completion_tokens_details"),
    )


class Ledger:
    """Every request of one server, in order of arrival; also as JSON lines, as they finish."""

    def __init__(self, log: Path | None = None) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._records: dict[int, Record] = {}
        self._seen: Counter[str] = Counter()
        self._n = 0

    def open(self, path: str, body: Body) -> Record:
        """Enter a request that came in."""
        digest = digest_of(path, body)
        with self._lock:
            self._n += 1
            self._seen[digest] += 1
            record = Record(
                n=self._n,
                path=path,
                model=str(body.get("model", "")),
                digest=digest,
                nth=self._seen[digest],
                stream=bool(body.get("stream")),
                body=body,
                started_at=time.time(),
            )
            self._records[record.n] = record
        return record

    def close(self, record: Record, wire: Wire, *, wrong: str | None, completed: bool) -> None:
        """Enter how a request ended."""
        done = replace(
            record,
            status=wire.status,
            usage=wire.usage,
            fault=wrong,
            finished_at=time.time(),
            completed=completed,
        )
        with self._lock:
            if record.n in self._records:
                self._records[record.n] = done
            if self._log:
                with self._log.open("a") as file:
                    file.write(json.dumps(asdict(done) | {"body": None}) + "\n")

    def reset(self) -> None:
        """Forget everything but the running number; the log file stays."""
        with self._lock:
            self._records.clear()
            self._seen.clear()

    @property
    def records(self) -> list[Record]:
        """Return all requests, those being answered included."""
        with self._lock:
            return list(self._records.values())


class Connection:
    """One client's connection: whether it still stands, and the means to drop it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.lost = asyncio.Event()
        self._transport = transport

    async def sleep(self, seconds: float) -> bool:
        """Wait; return early, and `False`, when the client has gone."""
        if seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.lost.wait(), seconds)
        return not (self.lost.is_set() or self._transport.is_closing())

    async def drop(self, how: Literal["close", "reset"]) -> None:
        """End the connection: `close` after what was written, `reset` at once with a RST."""
        if how == "reset":
            # Lingering for no time is what makes the kernel send RST instead of FIN.
            linger = struct.pack("ii", 1, 0)
            raw = self._transport.get_extra_info("socket")
            with contextlib.suppress(OSError):  # the client was faster
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()
        else:
            self._transport.close()
        await self.lost.wait()


class _Protocol(H11Protocol):
    """Puts the connection, which ASGI hides, into the state that each request can read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.connection = Connection(transport)
        self.app_state = {**self.app_state, "connection": self.connection}

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.lost.set()
        super().connection_lost(exc)


class _WireResponse(Response):
    """Sends a `Wire` and reports, just before the last byte, whether all of it went out.

    Before, not after: whoever holds the complete answer must find it in the ledger.
    """

    def __init__(self, wire: Wire, connection: Connection, settle: Callable[[bool], None]) -> None:
        super().__init__(status_code=wire.status or 200, headers=dict(wire.headers))
        self._wire = wire
        self._connection = connection
        self._settle = settle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, as slowly and as badly as the wire says."""
        wire, connection = self._wire, self._connection
        here = await connection.sleep(wire.wait)
        if wire.parts:
            headers = [(key.encode(), value.encode()) for key, value in wire.headers.items()]
            start = {"type": "http.response.start", "status": wire.status, "headers": headers}
            await send(start)
        for left, part in zip(range(len(wire.parts) - 1, -1, -1), wire.parts, strict=True):
            here = await connection.sleep(wire.gap) and here
            if not left:
                self._settle(here and not wire.drop)
            more = bool(left or wire.drop)
            await send({"type": "http.response.body", "body": part, "more_body": more})
        if not wire.parts:
            self._settle(False)
        if wire.drop:
            await connection.drop(wire.drop)


Responder = Callable[[Body, Record], tuple[Wire, str | None]]
"""Turns a request into a response and the kind of fault in it."""


def _refusal(error: BadRequest) -> Wire:
    return error_wire(400, str(error), kind="invalid_request_error", param=error.param)


def _safely(reply_to: Responder, body: Body, record: Record) -> tuple[Wire, str | None]:
    try:
        return reply_to(body, record)
    except BadRequest as error:
        return _refusal(error), None
    except Exception as error:  # noqa: BLE001 - a bug in a script must reach the test, unretried
        message = f"the script failed: {error!r}"
        wire = error_wire(400, message, kind="invalid_request_error", code="script_error")
        return wire, None


def _kind(reply: Reply) -> str | None:
    return reply.fault.kind if reply.fault else None


class App:
    """The endpoints: a script and a fault schedule in front of a ledger."""

    def __init__(self, script: Script, faults: Schedule | None, ledger: Ledger) -> None:
        self.script = script
        self.faults = faults
        self.ledger = ledger
        self.asgi = Starlette(
            routes=[
                Route(CHAT, self._endpoint(self._chat), methods=["POST"]),
                Route(EMBEDDINGS, self._endpoint(self._embeddings), methods=["POST"]),
                Route(MESSAGES, self._endpoint(self._messages), methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/_test/log", self._show_log),
                Route("/_test/reset", self._reset, methods=["POST"]),
            ]
        )

    def _endpoint(self, reply_to: Responder) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            path = request.url.path
            try:
                body = parse(await request.body())
            except ClientDisconnect:  # killed while it asked: nobody has asked anything
                return Response(status_code=499)
            except BadRequest as error:
                return self._send(request, self.ledger.open(path, {}), _refusal(error), None)
            record = self.ledger.open(path, body)
            return self._send(request, record, *_safely(reply_to, body, record))

        return respond

    def _send(self, request: Request, record: Record, wire: Wire, wrong: str | None) -> Response:
        return _WireResponse(
            wire,
            request.state.connection,
            lambda completed: self.ledger.close(record, wire, wrong=wrong, completed=completed),
        )

    def _chat(self, body: Body, record: Record) -> tuple[Wire, str | None]:
        check_chat(body)
        reply = self._reply(body, record)
        return chat_wire(body, reply, record.digest), _kind(reply)

    def _messages(self, body: Body, record: Record) -> tuple[Wire, str | None]:
        reply = self._reply(body, record)
        return messages_wire(body, reply, record.digest), _kind(reply)

    def _reply(self, body: Body, record: Record) -> Reply:
        """What the script says, with the fault that it or the schedule wants."""
        said = self.script(body)
        reply = Reply(fault=said) if isinstance(said, Fault) else said
        seen = Seen(body=body, digest=record.digest, nth=record.nth, n=record.n)
        wrong = (self.faults and self.faults(seen)) or reply.fault
        return replace(reply, fault=wrong)

    def _embeddings(self, body: Body, record: Record) -> tuple[Wire, str | None]:
        return embeddings_wire(body), None

    async def _models(self, request: Request) -> Response:
        record = self.ledger.open(request.url.path, {})
        return self._send(request, record, models_wire(), None)

    async def _show_log(self, _: Request) -> Response:
        return JSONResponse([asdict(record) for record in self.ledger.records])

    async def _reset(self, _: Request) -> Response:
        self.ledger.reset()
        return JSONResponse({})


class _Uvicorn(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drop the open connections first, so that a hanging request cannot hold up the end."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


def _uvicorn(app: App) -> _Uvicorn:
    config = uvicorn.Config(
        app.asgi,
        http=_Protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    return _Uvicorn(config)


def _bind(port: int = 0) -> socket.socket:
    """Return a socket that holds a port; who connects to it is refused."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", port))
    return holder


def _listen(port: int = 0) -> socket.socket:
    """Return a listening socket; from here on clients are queued, even before the server runs."""
    listener = _bind(port)
    listener.listen(256)
    return listener


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


class Server:
    """The server in a thread of this process.

    Args:
        script: What the model says.
        faults: Which requests go wrong whatever the script says.
        log: A file that gets one JSON line for every finished request.
        port: The port; 0 chooses a free one.
    """

    def __init__(
        self,
        script: Script,
        *,
        faults: Schedule | None = None,
        log: Path | None = None,
        port: int = 0,
    ) -> None:
        self.app = App(script, faults, Ledger(log))
        self._listener = _listen(port)
        self.url = _url(self._listener)

    def _run(self) -> None:
        self._uvicorn.run(sockets=[self._listener])

    def __enter__(self) -> Self:
        self._start()
        return self

    def _start(self) -> None:
        self._uvicorn = _uvicorn(self.app)
        self._thread = threading.Thread(target=self._run, name="openai-server", daemon=True)
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(timeout=10)
        if self._thread.is_alive():
            raise RuntimeError("the test server did not stop")

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Drop all connections and refuse new ones, until the block ends; the port is kept."""
        self._stop()
        self._listener = _bind(int(self.url.rpartition(":")[2]))
        try:
            yield
        finally:
            self._listener.listen(256)
            self._start()

    @property
    def requests(self) -> list[Record]:
        """Return every request so far, those being answered included."""
        return self.app.ledger.records

    @property
    def total_usage(self) -> Totals:
        """Return what all completed requests cost, embeddings included."""
        return totals(self.requests)

    def reset(self) -> None:
        """Forget all requests."""
        self.app.ledger.reset()


class ServerProcess:
    """The same server in its own process, which ends with the `with` block or with this process.

    Args:
        script: Where its script is found, as `module:attribute`.
        faults: Where its fault schedule is found, in the same form.
        log: A file that gets one JSON line for every finished request.
        port: The port; 0 chooses a free one.
        env: Environment variables to add, `PYTHONPATH` for scripts outside this repository.
    """

    def __init__(
        self,
        script: str,
        *,
        faults: str | None = None,
        log: Path | None = None,
        port: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        options = {"--script": script, "--faults": faults, "--log": log, "--port": port}
        given = [str(word) for pair in options.items() if pair[1] is not None for word in pair]
        self._command = [sys.executable, "-m", "tests.openai_server", "--end-with-stdin", *given]
        self._env = {**os.environ, **(env or {})}
        self.url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = _pipe(self._process.stdout).readline().strip()
        if not self.url:
            self.__exit__(None, None, None)
            raise RuntimeError(f"the test server did not start: {self._command}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            _pipe(stream).close()

    @property
    def requests(self) -> list[Record]:
        """Return every request so far, those being answered included."""
        with urllib.request.urlopen(f"{self.url}/_test/log", timeout=10) as response:
            return [Record(**one) for one in json.load(response)]

    @property
    def total_usage(self) -> Totals:
        """Return what all completed requests cost, embeddings included."""
        return totals(self.requests)

    def reset(self) -> None:
        """Forget all requests."""
        asked = urllib.request.Request(f"{self.url}/_test/reset", method="POST")
        urllib.request.urlopen(asked, timeout=10).close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _load(name: str) -> Any:
    """Return what `module:attribute` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Serve until killed; print the URL first."""
    parser = argparse.ArgumentParser(prog="python -m tests.openai_server")
    parser.add_argument("--script", required=True, metavar="MODULE:ATTRIBUTE")
    parser.add_argument("--faults", metavar="MODULE:ATTRIBUTE")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, metavar="FILE")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when stdin is closed")
    options = parser.parse_args()
    faults = _load(options.faults) if options.faults else None
    app = App(_load(options.script), faults, Ledger(options.log))
    if options.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    listener = _listen(options.port)
    print(_url(listener), flush=True)
    _uvicorn(app).run(sockets=[listener])


if __name__ == "__main__":
    main()
