"""The query resources over REST: `query`, `queryAll` and the pages that follow. Reads only."""

import email.utils
from typing import TYPE_CHECKING, Any

from stages.sandbox.salesforce import query, soql
from stages.sandbox.salesforce.faults import Target
from stages.sandbox.salesforce.org import Cursor
from stages.sandbox.salesforce.refusals import RefusalError
from stages.sandbox.salesforce.request import Answer, Operation, Refused, Request

if TYPE_CHECKING:
    from stages.sandbox.salesforce.org import Org

LARGEST_PAGE = 2_000
SMALLEST_PAGE = 200


def route(org: "Org", request: Request) -> Operation:
    """`query?q=…`, `queryAll?q=…`, `query/LOCATOR`. Raises RefusalError."""
    request.allow("GET", "HEAD")
    if len(request.segments) == 2:
        return _next_page(org, request.segments[1])
    if len(request.segments) > 2:
        raise RefusalError("NOT_FOUND")
    text = request.parameters.get("q")
    if text is None:
        raise RefusalError("MALFORMED_QUERY", "A query string has to be specified")
    parsed = soql.parse(text)
    target = Target(parsed.object.parts[0], text=text.lower().replace("\\'", "'"))

    def work(_: Refused) -> Answer:
        result = query.run(org, parsed, deleted=request.segments[0].lower() == "queryall", version=request.version)
        if not parsed.fields:
            return Answer(200, {"totalSize": result.total, "done": True, "records": []})
        return _page(org, Cursor(result, _page_size(org, request), request.version, target), 0)

    return Operation("query", work, [target])


def _page_size(org: "Org", request: Request) -> int:
    rule = org.last_rule("page-size")
    if rule is not None:
        return int(rule.spec["size"])
    for option in request.headers.get("sforce-query-options", "").split(","):
        name, _, value = option.partition("=")
        if name.strip().lower() == "batchsize" and value.strip().isdigit():
            return min(max(int(value), SMALLEST_PAGE), LARGEST_PAGE)
    return LARGEST_PAGE


def _page(org: "Org", cursor: Cursor, start: int, locator: str | None = None) -> Answer:
    result = cursor.result
    end = start + cursor.page_size
    records = [result.row(record) for record in result.records[start:end]]
    body: dict[str, Any] = {"totalSize": result.total, "done": end >= result.total}
    if end < result.total:
        locator = locator or org.keep_cursor(cursor)
        body["nextRecordsUrl"] = f"/services/data/v{cursor.version}/query/{locator}-{end}"
    body["records"] = records
    return Answer(200, body, objects={result.object.name: len(records)})


def _next_page(org: "Org", text: str) -> Operation:
    locator, _, start = text.partition("-")
    cursor = org.cursors.get(locator)
    if cursor is None or not start.isdigit() or int(start) > cursor.result.total:
        raise RefusalError("INVALID_QUERY_LOCATOR", "invalid query locator")
    return Operation("query", lambda _: _page(org, cursor, int(start), locator), [cursor.target])


def http_date(unix_seconds: int) -> str:
    return email.utils.formatdate(unix_seconds, usegmt=True)


def unix_seconds(http: str) -> int | None:
    """None for what is no HTTP date."""
    try:
        return int(email.utils.parsedate_to_datetime(http).timestamp())
    except ValueError:
        return None
