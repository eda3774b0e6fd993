"""What Kafka did not do, and may do later, is told so."""

import pytest
from aiokafka import errors

from pipeline.kafka.asking import translated


@pytest.mark.parametrize("error", [errors.NodeNotReadyError("node 1"), errors.KafkaTimeoutError(), OSError(111, "refused"), TimeoutError()])
def test_what_may_pass_names_kafka_and_its_kind_once(error: Exception) -> None:
    """A part that starts while the broker does ends with it: whoever starts it again must see that it is not the part's fault."""
    told = translated("metadata of lanes", error)
    assert told.retryable
    assert str(told).startswith("metadata of lanes: Kafka can't do that now (")
    assert str(told).count(type(error).__name__) == 1
