"""Facts about Salesforce's errors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.salesforce import causes
from stages.salesforce.causes import CODES, Error, classify, errors_of

KINDS = {"record", "org", "transient", "token", "look"}


def test_every_row_of_the_table_can_be_reached_and_ends_in_one_that_fits_all() -> None:
    for code, rules in CODES.items():
        assert rules[-1].words == "" or code == "NOT_FOUND", code
        assert rules[-1].object == "", code
        for rule in rules:
            assert rule.kind in KINDS
            assert rule.hint
            assert rule.words == rule.words.lower()
            trouble = classify(code, rule.words, object_name=rule.object)
            assert trouble.cause.hint == rule.hint, code


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("INVALID_SESSION_ID", "Session expired or invalid", "transient"),
        ("REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", "org"),
        ("REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests (Concurrent API Requests) Limit exceeded.", "transient"),
        ("REQUEST_LIMIT_EXCEEDED", "ConcurrentPerOrgLongTxn Limit exceeded", "transient"),
        ("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record", "transient"),
        ("DUPLICATE_VALUE", "duplicate value found: Key__c duplicates value on record with id: 001U000001c83gK", "look"),
        ("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "T: execution of BeforeInsert caused by: UNABLE_TO_LOCK_ROW", "transient"),
        ("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "T: execution of BeforeInsert caused by: NullPointerException", "record"),
        ("NOT_FOUND", "The requested resource does not exist", "org"),
        ("NOT_FOUND", "Provided external ID field does not exist or is not accessible: 003", "look"),
        ("CANNOT_UPDATE_CONVERTED_LEAD", "cannot reference converted lead", "look"),
        ("STORAGE_LIMIT_EXCEEDED", "storage limit exceeded", "org"),
    ],
)
def test_each_error_has_its_class(code: str, message: str, kind: str) -> None:
    assert classify(code, message).kind == kind


def test_too_many_at_once_waits_seconds_and_none_left_today_a_quarter_of_an_hour() -> None:
    at_once = classify("REQUEST_LIMIT_EXCEEDED", "ConcurrentPerOrgLongTxn Limit exceeded")
    today = classify("REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
    assert at_once.retry_after_seconds is not None
    assert at_once.retry_after_seconds <= 5
    assert today.retry_after_seconds == 900


def test_what_a_rule_of_the_org_refuses_is_the_records_until_it_hits_nearly_all() -> None:
    trouble = classify("FIELD_CUSTOM_VALIDATION_EXCEPTION", "Bitte Region angeben", ("Region__c",))
    assert (trouble.kind, trouble.org_rule) == ("record", True)
    assert trouble.cause.message == "Bitte Region angeben"


def test_marketing_user_is_named_where_campaigns_are_refused() -> None:
    assert "Marketing User" in classify("INVALID_TYPE", "sObject type 'Campaign' is not supported.", object_name="Campaign").cause.hint


def test_an_unknown_code_is_the_records_fault_and_is_counted() -> None:
    before = causes.unknown_codes["BRAND_NEW_CODE"]
    trouble = classify("BRAND_NEW_CODE", "?")
    assert (trouble.kind, trouble.known) == ("record", False)
    assert causes.unknown_codes["BRAND_NEW_CODE"] == before + 1


def test_an_unknown_code_of_a_server_that_failed_is_transient() -> None:
    assert classify("SOMETHING", "?", http_status=503).kind == "transient"


@pytest.mark.parametrize(
    ("code", "message", "fields"),
    [
        ("REQUIRED_FIELD_MISSING", "Required fields are missing: [LastName, Region__c]", ("LastName", "Region__c")),
        ("DUPLICATE_VALUE", "duplicate value found: Key__c duplicates value on record with id: 001U000001c83gK", ("Key__c",)),
        ("DUPLICATE_VALUE", "duplicate value found: <unknown> duplicates value on record with id: <unknown>", ()),
        (
            "INVALID_FIELD_FOR_INSERT_UPDATE",
            "Unable to create/update fields: A__c, B__c. Please check the security settings",
            ("A__c", "B__c"),
        ),
        (
            "INVALID_FIELD",
            "\nSELECT Segment__c FROM Lead\n ERROR at Row:1:Column:8\nNo such column 'Segment__c' on entity 'Lead'.",
            ("Segment__c",),
        ),
        ("STRING_TOO_LONG", "Account Name: data value too large", ()),
    ],
)
def test_fields_that_only_the_message_names_are_found(code: str, message: str, fields: tuple[str, ...]) -> None:
    assert classify(code, message).cause.fields == fields


def test_the_rest_can_be_written_without_an_optional_field_and_not_without_the_address() -> None:
    assert classify("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", "bad value", ("Country",)).leave_out == ("Country",)
    assert classify("INVALID_EMAIL_ADDRESS", "Email: invalid email address: x", ("Email",)).leave_out == ()
    assert classify("REQUIRED_FIELD_MISSING", "missing", ("Region__c",)).leave_out == ()


def test_the_record_that_has_the_key_is_read_from_the_message() -> None:
    message = "duplicate value found: Key__c duplicates value on record with id: 0015500001QdQWa"
    assert causes.existing_id(message) == "0015500001QdQWaAAN"
    assert causes.existing_id("duplicate value found: <unknown> duplicates value on record with id: <unknown>") is None


def test_all_shapes_of_errors_are_read() -> None:
    rest = [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}]
    in_collection = {"success": False, "errors": [{"statusCode": "REQUIRED_FIELD_MISSING", "message": "m", "fields": ["LastName"]}]}
    oauth = {"error": "invalid_grant", "error_description": "authentication failure"}
    assert errors_of(rest) == (Error("INVALID_SESSION_ID", "Session expired or invalid"),)
    assert errors_of(in_collection) == (Error("REQUIRED_FIELD_MISSING", "m", ("LastName",)),)
    assert errors_of(oauth) == (Error("invalid_grant", "authentication failure"),)
    assert errors_of({"error": "invalid_client"}) == (Error("invalid_client", ""),)
    assert errors_of({"id": "00Q", "success": True, "errors": []}) == ()
    assert errors_of("<html><body><h1>Down for maintenance</h1></body></html>") == (Error("unreadable_reply", "Down for maintenance"),)


def test_a_duplicate_rule_is_named_with_the_records_that_it_found() -> None:
    body = [
        {
            "errorCode": "DUPLICATES_DETECTED",
            "message": "Use one of these records?",
            "duplicateResult": {
                "allowSave": True,
                "duplicateRule": "Standard_Contact_Duplicate_Rule",
                "matchResults": [{"matchRecords": [{"record": {"attributes": {"type": "Contact"}, "Id": "0035500001H9cakAAB"}}]}],
            },
        }
    ]
    (error,) = errors_of(body)
    assert error.message == "Use one of these records? (rule Standard_Contact_Duplicate_Rule, records 0035500001H9cakAAB)"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["errors", "errorCode", "message", "fields", "statusCode", "error", "duplicateResult", "matchResults"]),
            inner,
            max_size=4,
        )
    ),
)


@given(json_values)
def test_no_body_is_too_strange_to_be_read(body: object) -> None:
    strange = {"errorCode": "DUPLICATES_DETECTED", "message": "m", "duplicateResult": {"matchResults": [{"matchRecords": body}, body]}}
    for error in (*errors_of(body), *errors_of([strange])):
        assert isinstance(error.code, str)
        assert all(isinstance(name, str) for name in error.fields)
