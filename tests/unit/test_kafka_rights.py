"""What Kafka refuses for want of a right is told with the right, the place where the rights are listed, and nothing else."""

import pytest
from aiokafka import errors

from pipeline.errors import NotAllowed
from pipeline.kafka.asking import RESOURCES, answered, translated
from tests.compose import ROOT


@pytest.mark.parametrize(
    ("error", "operation", "right"),
    [
        (errors.TopicAuthorizationFailedError("turnout.matched"), "Read", "Read on the topic turnout.matched"),
        (errors.TopicAuthorizationFailedError({"turnout.b", "turnout.a"}), "Write", "Write on the topic turnout.a, turnout.b"),
        (errors.GroupAuthorizationFailedError("turnout.create"), "Read and Describe", "Read and Describe on the group turnout.create"),
        (errors.ClusterAuthorizationFailedError(), "IdempotentWrite", "IdempotentWrite on the cluster"),
    ],
)
def test_a_refusal_names_the_right_and_the_document(error: errors.KafkaError, operation: str, right: str) -> None:
    told = translated("working", error, operation)
    assert isinstance(told, NotAllowed)
    assert told.right == right
    assert not told.retryable
    assert right in str(told)
    assert "docs/kafka-rights.md" in str(told)
    assert "\n" not in str(told)
    assert (ROOT / "docs/kafka-rights.md").exists()


def test_every_refusal_for_want_of_a_right_is_known() -> None:
    """All that aiokafka has but that of transactions and delegation tokens, which nothing here uses."""
    found = {error for name, error in vars(errors).items() if "AuthorizationFailed" in name and isinstance(error, type)}
    assert found - set(RESOURCES) <= {errors.TransactionalIdAuthorizationFailed, errors.DelegationTokenAuthorizationFailed}


async def test_a_refusal_is_not_asked_about_again() -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        raise errors.GroupAuthorizationFailedError("turnout.create")

    with pytest.raises(NotAllowed):
        await answered(ask, 5.0, "committed offsets")
    assert asked == 1
