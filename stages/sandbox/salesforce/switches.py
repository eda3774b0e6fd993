"""The switches under `/sandbox` that no real org has: call log, faults, rules, reset, and what people do in Salesforce's pages."""

from collections.abc import Callable, Mapping, Set
from typing import Any

import msgspec
from aiohttp import web

from stages.sandbox.salesforce import faults, ids, people, query, rules, saving, seed
from stages.sandbox.salesforce.calls import CallLog
from stages.sandbox.salesforce.objects import Object
from stages.sandbox.salesforce.org import SALES_USER, Org
from stages.sandbox.salesforce.refusals import RecordRefusedError
from stages.sandbox.salesforce.table import Record
from stages.sandbox.salesforce.transaction import Transaction

SWITCHES: Mapping[str, str] = {
    "GET /sandbox": "this list, once the org is ready",
    "GET|DELETE /sandbox/calls": "the calls that came",
    "GET|POST|DELETE /sandbox/faults": "faults to come; one by /sandbox/faults/ID",
    "GET|POST|DELETE /sandbox/rules": "rules of the org; one by /sandbox/rules/ID",
    "POST /sandbox/reset": 'back to the seed; with {"seed": {…}} this is the seed from now on',
    "POST /sandbox/tokens/expire": "every session dies",
    "GET /sandbox/records/OBJECT": "every record with its history, deleted ones too",
    "POST /sandbox/convert": '{"lead": id, "contact": id?}',
    "POST /sandbox/merge": '{"object", "winner": id, "losers": [ids]}',
    "POST /sandbox/edit": '{"object", "id", "values"}',
}


class _WrongUseError(Exception):
    """The switch was used in a way that can't be; the text says how."""


async def handle(org: Org, request: web.Request) -> web.Response:
    """One call of a switch. Errors are `{"error": text}`."""
    path = request.path.removeprefix("/sandbox").strip("/")
    name, _, rest = path.partition("/")
    try:
        body = msgspec.json.decode(await request.read() or b"{}")
        return _reply(_dispatch(org, request.method, name, rest, body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return web.json_response({"error": f"not JSON: {error}"}, status=400)
    except web.HTTPRequestEntityTooLarge as error:
        return web.json_response({"error": error.text}, status=413)
    except (_WrongUseError, seed.SeedError, faults.FaultError, rules.RuleError, RecordRefusedError) as error:
        return web.json_response({"error": str(error)}, status=400)
    except LookupError as error:
        return web.json_response({"error": str(error.args[0] if error.args else error)}, status=404)


def _reply(body: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _dispatch(org: Org, method: str, name: str, rest: str, body: Any) -> Any:
    match method, name, rest:
        case "GET", "", "":
            return {"ready": True, "switches": SWITCHES, "org": org.id, "instance_url": org.base_url}
        case "GET", "calls", "":
            return org.calls.as_json()
        case "DELETE", "calls", "":
            org.calls = CallLog()
            return {}
        case _, "faults", _:
            return _faults(org, method, rest, body)
        case _, "rules", _:
            return _rules(org, method, rest, body)
        case "POST", "reset", "":
            _reset(org, body)
            return {}
        case "POST", "tokens", "expire":
            org.sessions.clear()
            return {}
        case "GET", "records", object_name:
            return {"records": _records(org, _object(org, object_name))}
        case "POST", "convert" | "merge" | "edit", "":
            return _by_people(org, name, body)
    raise LookupError(f"no such switch: {method} /sandbox/{name}")


def _reset(org: Org, body: Any) -> None:
    _check_keys(body, {"seed"})
    if "seed" in body:
        wanted = seed.check_shape(body["seed"])[0]
        seed.plant(Org(org.number, wanted, 0))  # a seed that can't be taken is refused before anything is emptied
        org.seed = wanted
    seed.plant(org)


def _faults(org: Org, method: str, fault_id: str, body: Any) -> Any:
    standing = org.faults.standing
    match method, fault_id:
        case "POST", "":
            fault = faults.read(org.name("fault-"), body, org.plain_schema)
            standing[fault.id] = fault
            return {"id": fault.id}
        case "GET", "":
            return {"faults": [fault.as_json() for fault in standing.values()]}
        case "DELETE", "":
            standing.clear()
            return {}
        case "GET" | "DELETE", _ if fault_id not in standing:
            raise LookupError(f"no such fault: {fault_id}")
        case "GET", _:
            return standing[fault_id].as_json()
        case "DELETE", _:
            del standing[fault_id]
            return {}
    raise LookupError(f"no such switch: {method} /sandbox/faults/{fault_id}")


def _rules(org: Org, method: str, rule_id: str, body: Any) -> Any:
    match method, rule_id:
        case "POST", "":
            rule = rules.read(org.name("rule-"), body, list(org.rules.values()))
            rules.check_owner(rule, org.known_user_id)
            org.rules[rule.id] = rule
            org.rules_changed()
            return {"id": rule.id}
        case "GET", "":
            return {"rules": [rule.as_json() for rule in org.rules.values()]}
        case "DELETE", "":
            org.rules.clear()
            org.rules_changed()
            return {}
        case "GET" | "DELETE", _ if rule_id not in org.rules:
            raise LookupError(f"no such rule: {rule_id}")
        case "GET", _:
            return org.rules[rule_id].as_json()
        case "DELETE", _:
            del org.rules[rule_id]
            org.rules_changed()
            return {}
    raise LookupError(f"no such switch: {method} /sandbox/rules/{rule_id}")


def _object(org: Org, name: str) -> Object:
    object_ = org.plain_schema.get(name.lower())
    if object_ is None:
        raise LookupError(f"no such object: {name}")
    return object_


def _records(org: Org, object_: Object) -> list[dict[str, Any]]:
    getters = [(field.name, query.getter(org, object_, field)) for field in object_.fields.values()]
    return [
        {name: get(record) for name, get in getters}
        | {"history": [{"at": at, "by": by, "changes": changes} for at, by, changes in record.whole_history()]}
        for record in sorted(org.table(object_).everything(), key=lambda record: record.id)
    ]


def _check_keys(body: Any, known: Set[str]) -> None:
    if not isinstance(body, dict) or set(body) - known:
        raise _WrongUseError(f"the body is a JSON object; its keys are: {', '.join(sorted(known))}")


def _text(body: Mapping[str, Any], key: str) -> str:
    text = body.get(key)
    if not isinstance(text, str) or not text:
        raise _WrongUseError(f'"{key}" is needed, and is a text')
    return text


def _by_people(org: Org, name: str, body: Any) -> Any:
    tx = Transaction(org, SALES_USER, bound=False, allow_save=True, assign=False)
    acts: Mapping[str, Callable[[Transaction, Mapping[str, Any]], Any]] = {"convert": _convert, "merge": _merge, "edit": _edit}
    try:
        return acts[name](tx, body)
    except RecordRefusedError:
        tx.roll_back()
        raise


def _convert(tx: Transaction, body: Mapping[str, Any]) -> Any:
    _check_keys(body, {"lead", "contact"})
    lead = _live(tx.org, "Lead", _text(body, "lead"))
    contact = _live(tx.org, "Contact", _text(body, "contact")) if body.get("contact") is not None else None
    contact = people.convert(tx, lead, contact)
    return {"contact": contact.id, "account": contact.values.get("AccountId")}


def _merge(tx: Transaction, body: Mapping[str, Any]) -> Any:
    _check_keys(body, {"object", "winner", "losers"})
    object_ = _object(tx.org, _text(body, "object"))
    if object_.name not in ("Lead", "Contact", "Account"):
        raise _WrongUseError("only Lead, Contact and Account can be merged")
    losers = body.get("losers")
    if not isinstance(losers, list) or not losers or not all(isinstance(loser, str) for loser in losers):
        raise _WrongUseError('"losers" is a list of ids')
    winner = _live(tx.org, object_.name, _text(body, "winner"))
    found = [_live(tx.org, object_.name, loser) for loser in losers]
    if winner in found or len(set(found)) < len(found):
        raise _WrongUseError("winner and losers are different records")
    people.merge(tx, object_, winner, found)
    return {"winner": winner.id}


def _edit(tx: Transaction, body: Mapping[str, Any]) -> Any:
    _check_keys(body, {"object", "id", "values"})
    object_ = _object(tx.org, _text(body, "object"))
    values = body.get("values")
    if not isinstance(values, dict):
        raise _WrongUseError('"values" is an object of fields')
    record = _live(tx.org, object_.name, _text(body, "id"))
    saving.update(tx, object_, record, values)
    return {"id": record.id}


def _live(org: Org, object_name: str, record_id: str) -> Record:
    canonical = ids.canonical(record_id)
    record = org.find(object_name, canonical) if canonical is not None else None
    if record is None or record.deleted:
        raise LookupError(f"no such {object_name}: {record_id}")
    return record
