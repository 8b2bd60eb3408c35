"""The pages that make changes: dead entries by cause, requeued or discarded."""

from __future__ import annotations

from typing import Any

from datasette.app import Datasette
from datasette.utils.asgi import Response

from outbox.errors import OutboxError
from outbox.web.operations import Operations, refusal

ENTER, DEAD, ACT = "/-/outbox-enter", "/-/outbox-dead", "/-/outbox-act"


def operations_of(site: Datasette) -> Operations:
    """Return the operations that the site was made with."""
    found: Operations = site.outbox_operations
    return found


def refused(site: Datasette, request: Any) -> str | None:
    """Return why this request may change nothing; None: it may."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
    client = (request.scope.get("client") or ("",))[0]
    return refusal(operations_of(site), headers, client, request.cookies, posts=request.method == "POST")


async def enter(request: Any, datasette: Datasette) -> Response:
    """Move the key from the address into a cookie, which no script and no other site can read."""
    operations, told = operations_of(datasette), request.args.get("key")
    if not operations.admits(told):
        return Response.text("This is not the key of this run.\n", status=403)
    answer = Response.redirect("/")
    answer.set_cookie(operations.cookie, told, httponly=True, samesite="strict")
    return answer


async def dead(request: Any, datasette: Datasette) -> Response:
    """Show what dead entries died of, with forms for those who may change something."""
    return await _page(request, datasette, [])


async def act(request: Any, datasette: Datasette) -> Response:
    """Do what a form requests."""
    if request.method != "POST":
        return Response.redirect(DEAD)
    if (why := refused(datasette, request)) is not None:
        return Response.text(f"{why}\n", status=403)
    form = {name: value.strip() for name, value in (await request.post_vars()).items() if value.strip()}
    try:
        return await _page(request, datasette, await operations_of(datasette).act(form))
    except OutboxError as error:
        return await _page(request, datasette, [f"{error}. Nothing was changed."], status=400)


async def _page(request: Any, datasette: Datasette, said: Any, status: int = 200) -> Response:
    why = "" if request.method == "POST" else refused(datasette, request)
    causes = await operations_of(datasette).causes()
    values = {"said": said, "refusal": why, "causes": causes, "act": ACT}
    return Response.html(await datasette.render_template("outbox_dead.html", values, request=request), status=status)


ROUTES = [(rf"^{ENTER}$", enter), (rf"^{DEAD}$", dead), (rf"^{ACT}$", act)]
