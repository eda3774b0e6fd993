"""Describe documents: what an object and its fields are to this API's users. Reads the schema, never a record."""

from collections.abc import Iterable
from typing import Any

from stages.sandbox.salesforce.objects import TEXT_TYPES, Field, Object

_SOAP_TYPES = {
    "boolean": "xsd:boolean",
    "int": "xsd:int",
    "double": "xsd:double",
    "currency": "xsd:double",
    "percent": "xsd:double",
    "date": "xsd:date",
    "datetime": "xsd:dateTime",
    "id": "tns:ID",
    "reference": "tns:ID",
}


def summary(object_: Object, version: str) -> dict[str, Any]:
    """The object without its fields, as in the list of all."""
    base = f"/services/data/v{version}/sobjects/{object_.name}"
    return {
        "activateable": False,
        "createable": object_.createable,
        "custom": object_.name.endswith("__c"),
        "customSetting": False,
        "deletable": object_.deletable,
        "keyPrefix": object_.key_prefix,
        "label": object_.label,
        "labelPlural": f"{object_.label}s",
        "layoutable": True,
        "mergeable": object_.name in ("Lead", "Contact", "Account"),
        "name": object_.name,
        "queryable": object_.readable,
        "replicateable": True,
        "retrieveable": True,
        "searchable": True,
        "triggerable": True,
        "undeletable": object_.deletable,
        "updateable": object_.updateable,
        "urls": {"sobject": base, "describe": f"{base}/describe", "rowTemplate": f"{base}/{{ID}}"},
    }


def whole(object_: Object, version: str) -> dict[str, Any]:
    """The object with every field that its users may see."""
    fields = [field(each) for each in object_.fields.values() if each.readable]
    return {**summary(object_, version), "fields": fields, "recordTypeInfos": [], "childRelationships": []}


def field(each: Field) -> dict[str, Any]:
    return {
        "aggregatable": each.filterable,
        "autoNumber": False,
        "byteLength": each.length * 3 if each.type in TEXT_TYPES else each.length,
        "calculated": False,
        "caseSensitive": each.case_sensitive,
        "createable": each.createable,
        "custom": each.custom,
        "defaultValue": False if each.type == "boolean" else each.default_value,
        "defaultedOnCreate": each.defaulted,
        "digits": 18 if each.type == "int" else 0,
        "externalId": each.external_id,
        "filterable": each.filterable,
        "groupable": each.filterable,
        "idLookup": each.id_lookup,
        "label": each.label,
        "length": each.length,
        "name": each.name,
        "nameField": each.name == "Name",
        "nillable": each.nillable,
        "picklistValues": _choices(each.values, each.default_value),
        "precision": 18 if each.type in ("double", "currency", "percent") else 0,
        "referenceTo": list(each.reference_to),
        "relationshipName": each.relationship,
        "restrictedPicklist": each.restricted,
        "scale": 0,
        "soapType": _SOAP_TYPES.get(each.type, "xsd:string"),
        "sortable": each.filterable,
        "type": each.type,
        "unique": each.unique,
        "updateable": each.updateable,
    }


def _choices(values: Iterable[str], default: str | None) -> list[dict[str, Any]]:
    return [{"active": True, "defaultValue": value == default, "label": value, "validFor": None, "value": value} for value in values]
