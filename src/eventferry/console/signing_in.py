"""Signing in with a token, and out."""

from __future__ import annotations

from eventferry.console.page import Form, PageAnswer, View, Visit, page
from eventferry.http.handling import Query


class _SignInQuery(Query):
    back: str = ""


class _SignInForm(Form, kw_only=True):
    token: str
    back: str = ""


@page("GET", "/sign-in", None)
async def sign_in_page(visit: Visit[_SignInQuery]) -> PageAnswer:
    """The form for signing in."""
    if visit.visitor is not None:
        return visit.to(_inside(visit.given.back))
    return View("sign_in.html", {"back": visit.given.back, "problem": None})


@page("POST", "/sign-in", None)
async def enter_page(visit: Visit[_SignInForm]) -> PageAnswer:
    """Sign in."""
    sessions = visit.house.sessions
    response = visit.to(_inside(visit.given.back))
    if sessions.begin(visit.request, response, visit.given.token.strip()) is None:
        await visit.house.guards.count_attempt(visit.request.scope)
        problem = "This token is unknown, or was revoked."
        return View("sign_in.html", {"back": visit.given.back, "problem": problem}, 401)
    return response


@page("POST", "/sign-out", None)
async def sign_out_page(visit: Visit[Form]) -> PageAnswer:
    """Sign out."""
    response = visit.to("/sign-in")
    if visit.visitor is not None and visit.visitor.session:
        visit.house.sessions.end(visit.request, response, visit.visitor)
    return response


def _inside(back: str) -> str:
    """A page of the console to go back to; others are not gone to."""
    return back if back.startswith("/") else ""
