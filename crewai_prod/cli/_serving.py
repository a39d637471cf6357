"""`crewai-prod approvals --serve`: questions answered over HTTP.

Rule: every request needs a token, that of the server or one that was signed for this one question,
and nothing is told to whoever has none, not even what there is. Only POST changes anything. Who
answers is whom the token stands for, never what a request says: where not everybody may answer, a
token without a name may not. It is plain HTTP on loopback; in front of anything else put a proxy
that speaks TLS.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import click
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from crewai_prod import answering
from crewai_prod.cli._output import safe
from crewai_prod.cli.approvals import as_row, status_of, what
from crewai_prod.errors import (
    AnswerNotAllowed,
    ApprovalClosed,
    ApprovalNotFound,
    CrewProdError,
    UsageError,
)
from crewai_prod.journal import Journal
from crewai_prod.records import ApprovalRecord
from crewai_prod.signing import (
    TOKEN_VARIABLE,
    Signer,
    digest_of,
    new_token,
    tokens_in,
    who_has,
)

MOST_BYTES = 65_536
"""Of a request's body."""
_MOST_FIELDS = 20
_DIGITS = 19
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STATUSES: tuple[tuple[type[CrewProdError], int], ...] = (
    (ApprovalNotFound, 404),
    (ApprovalClosed, 409),
    (AnswerNotAllowed, 403),
    (UsageError, 400),
)


class _Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def make_app(book: Journal, tokens: Mapping[str, str | None], signer: Signer) -> Starlette:
    """The server's application.

    Args:
        book: Where the questions are.
        tokens: People by their tokens, see `signing.tokens_in`.
        signer: Reads links.
    """
    desk = _Desk(book, tokens, signer)
    routes = [
        Route("/approvals", desk.overview, methods=["GET"]),
        Route("/approvals/{number}", desk.look, methods=["GET"]),
        Route("/approvals/{number}", desk.answer, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={_Refused: _refusal, CrewProdError: _error})


def serve_approvals(book: Journal, host: str, port: int, url: str | None) -> None:
    """Answer over HTTP until it is stopped."""
    import uvicorn

    said = os.environ.get(TOKEN_VARIABLE)
    made = None if said else new_token()
    app = make_app(book, tokens_in(said or made or ""), Signer.of(book.location))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        where = listening.getsockname()
        here = f"http://{f'[{host}]' if ':' in host else host}:{where[1]}"
        click.echo(f"Questions of {safe(book.location)} are answered at {url or here}/approvals")
        if made is not None:
            click.echo(f"Token: {made}  (set {TOKEN_VARIABLE} to have one that stays)")
        if host not in _LOOPBACK:
            click.echo(
                f"{host} is reached from elsewhere, unencrypted: put TLS in front.", err=True
            )
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listening])


class _Desk:
    """What the routes do.

    Args:
        book: Where the questions are.
        tokens: People by their tokens.
        signer: Reads links.
    """

    def __init__(self, book: Journal, tokens: Mapping[str, str | None], signer: Signer) -> None:
        self._book, self._tokens, self._signer = book, tokens, signer

    async def overview(self, request: Request) -> Response:
        """All open questions; for the server's token alone."""
        self._holder(request)
        return await run_in_threadpool(self._overview)

    def _overview(self) -> Response:
        found = self._book.approvals(status="open")
        rows = [as_row(self._book, one) for one in found]
        return _json([row for row in rows if row["status"] == "open"])

    async def look(self, request: Request) -> Response:
        """One question, as JSON or, for a link, as a page with a form."""
        token = request.query_params.get("t")
        return await run_in_threadpool(self._look, request, token)

    def _look(self, request: Request, token: str | None) -> Response:
        question, _ = self._asked(request, token)
        if token is None:
            return _json(as_row(self._book, question))
        return _page(question, status_of(self._book, question), token)

    async def answer(self, request: Request) -> Response:
        """Say yes or no."""
        raw = await _body(request)
        form = _kind(request) == "application/x-www-form-urlencoded"
        said = _read(raw, form=form)
        return await run_in_threadpool(self._answer, request, said, form)

    def _answer(self, request: Request, said: dict[str, Any], form: bool) -> Response:
        token = _text(said, "t") or request.query_params.get("t")
        said.pop("t", None)
        question, by = self._asked(request, token)
        if question.who and by is None:
            raise AnswerNotAllowed("This question needs a token that stands for somebody.")
        done = _decide(self._book, question.id, said, by or "a token's holder")
        return _page(done, done.status, "") if form else _json(as_row(self._book, done))

    def _asked(self, request: Request, token: str | None) -> tuple[ApprovalRecord, str | None]:
        """The question that a request is about, and who makes it.

        Raises:
            _Refused: It has no right to see it.
            ApprovalNotFound: There is none, for those who may see all.
        """
        number = _number(request.path_params["number"])
        if token is None:
            by = self._holder(request)
            return self._book.approval(number), by
        right = self._signer.read(token)
        if right is None or right.number != number:
            raise _Refused(401, "This link is not valid, or not any more.")
        try:
            question = self._book.approval(number)
        except ApprovalNotFound:
            raise _Refused(401, "This link is not valid, or not any more.") from None
        if digest_of(question) != right.about:
            raise _Refused(401, "This link is not valid, or not any more.")
        return question, right.by

    def _holder(self, request: Request) -> str | None:
        """Who makes a request, by the server's token.

        Raises:
            _Refused: It has none.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        known, who = who_has(token.strip(), self._tokens)
        if scheme.lower() != "bearer" or not known:
            raise _Refused(401, "A token is required: Authorization: Bearer TOKEN.")
        return who


def _decide(book: Journal, number: int, said: dict[str, Any], by: str) -> ApprovalRecord:
    decision = said.pop("decision", None)
    unknown = sorted(set(said) - {"edit", "note", "reason", "scope", "minutes", "rerun"})
    if unknown or decision not in ("approve", "reject"):
        raise UsageError(
            '"decision" is "approve" (with "edit", "note", "scope", "minutes", "rerun") or '
            '"reject" (with "reason").'
        )
    if decision == "reject":
        return answering.reject(number, book, reason=_text(said, "reason"), by=by)
    minutes = said.get("minutes")
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, (int, float))):
        raise UsageError('"minutes" is a number.')
    return answering.approve(
        number,
        book,
        edit=said.get("edit", answering.NOTHING),
        note=_text(said, "note"),
        by=by,
        scope=_text(said, "scope") or "once",
        minutes=minutes,
        rerun=said.get("rerun") is True,
    )


def _text(said: Mapping[str, Any], name: str) -> str | None:
    value = said.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f'"{name}" is a text.')
    return value or None


# -- requests -------------------------------------------------------------------------------------


def _number(text: str) -> int:
    """The number of a question; 0, which none has, where it is no number."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else 0


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > MOST_BYTES:
            raise _Refused(413, f"A request may have {MOST_BYTES:,} bytes.")
    return bytes(found)


def _read(raw: bytes, *, form: bool) -> dict[str, Any]:
    """What a body says.

    Raises:
        UsageError: It is no JSON object, nor what the page's form sends.
    """
    try:
        if form:
            return _of_form(dict(parse_qsl(raw.decode(), max_num_fields=_MOST_FIELDS)))
        said = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UsageError("The body is no JSON that can be read.") from error
    if not isinstance(said, dict):
        raise UsageError("The body has to be a JSON object.")
    return said


def _of_form(fields: dict[str, str]) -> dict[str, Any]:
    said: dict[str, Any] = {name: value for name, value in fields.items() if value}
    if "edit" in said:
        with contextlib.suppress(ValueError):  # else it is a text
            said["edit"] = json.loads(said["edit"])
    if said.get("decision") == "reject":
        said["reason"] = said.pop("note", None)
        said.pop("edit", None)
    if "rerun" in said:
        said["rerun"] = True
    return said


# -- responses ------------------------------------------------------------------------------------


def _json(value: Any, status: int = 200) -> Response:
    return JSONResponse(value, status, headers=_HEADERS)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    headers = {**_HEADERS, "WWW-Authenticate": "Bearer"} if error.status == 401 else _HEADERS
    return JSONResponse({"error": {"message": str(error)}}, error.status, headers=headers)


async def _error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CrewProdError)
    status = next((code for kind, code in _STATUSES if isinstance(error, kind)), 503)
    message = "The journal cannot be used now." if status == 503 else error.message
    facts = {"type": type(error).__name__, "message": safe(message)}
    if isinstance(error, ApprovalClosed):
        facts |= {name: error.fields[name] for name in ("status", "verdict", "by")}
    return _json({"error": facts}, status)


_STYLE = "body{font:16px sans-serif;max-width:44em;margin:2em auto}pre{white-space:pre-wrap}"


def _page(question: ApprovalRecord, status: str, token: str) -> Response:
    """A question for a browser. Whatever was stored is text there, never markup."""

    def shown(value: object) -> str:
        return html.escape(safe(value, lines=True))

    about = "".join(
        f"<dt>{name}</dt><dd>{shown(value)}</dd>"
        for name, value in (
            ("Run", question.run_id),
            ("Task", question.task),
            ("Agent", question.agent),
            ("Tool", question.tool),
            ("Because", question.why),
            ("Remark", question.remark),
        )
        if value
    )
    form = f"""<form method="post" action="/approvals/{question.id}">
<input type="hidden" name="t" value="{html.escape(token)}">
<p><label>Change it (JSON)<br><textarea name="edit" rows="4" cols="60"></textarea></label></p>
<p><label>Remark or reason<br><input name="note" size="60"></label></p>
<button name="decision" value="approve">Approve</button>
<button name="decision" value="reject">Reject</button></form>"""
    end = form if status == "open" else f"<p>{shown(question.verdict or status)}</p>"
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Question {question.id}'
        f"</title><style>{_STYLE}</style><h1>Question {question.id}: {shown(question.kind)}</h1>"
        f"<pre>{shown(what(question))}</pre><dl>{about}</dl>{end}</html>",
        headers=_HEADERS,
    )
