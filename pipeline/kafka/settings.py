"""Where the log is and how this process speaks to it; names with their prefix. Never reads the environment."""

import dataclasses
import os
from typing import Any, Final

from aiokafka.helpers import create_ssl_context

KIB: Final = 1024
MIB: Final = 1024 * KIB


@dataclasses.dataclass(frozen=True, slots=True)
class KafkaSettings:
    """How to reach Kafka. Times end in their unit; the password is masked in every repr.

    `instance` makes membership static (KIP-345): a restart within the session timeout moves no partition. Two living
    processes must never share one. `rebalance_timeout_ms` has to be longer than any call that a member may still wait for.
    """

    bootstrap: str = "localhost:9092"
    prefix: str = "turnout"
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    sasl_username: str | None = None
    sasl_password: str | None = dataclasses.field(default=None, repr=False)
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    instance: str | None = None
    client: str = "turnout"
    session_timeout_ms: int = 30_000
    heartbeat_interval_ms: int = 3_000
    rebalance_timeout_ms: int = 60_000
    max_poll_interval_ms: int = 300_000
    request_timeout_ms: int = 15_000
    """Longest wait for one answer of a broker."""
    connect_timeout_seconds: float = 20.0
    """Longest wait for the first broker that answers."""
    delivery_timeout_seconds: float = 60.0
    """Longest wait for the acknowledgement of a record; past it the record may still land."""
    close_timeout_seconds: float = 10.0
    fetch_max_wait_ms: int = 100
    """How long a broker may hold back an empty answer, and so the longest delay of a partition that is read again after a pause."""
    fetch_max_bytes: int = 4 * MIB
    """Of live reading, in all; a sweep says its own."""
    max_partition_fetch_bytes: int = 1 * MIB
    batch_bytes: int = 128 * KIB
    """Of one batch of one partition before compression; a larger record travels alone."""
    max_pending_bytes: int = 64 * MIB
    """What a writer holds of records that are not acknowledged; beyond it, it takes nothing."""

    def topic(self, logical: str) -> str:
        return f"{self.prefix}.{logical}"

    def logical(self, topic: str) -> str:
        return topic.removeprefix(f"{self.prefix}.")

    def group(self, logical: str) -> str:
        return f"{self.prefix}.{logical}"

    def group_instance(self, logical_group: str) -> str | None:
        return None if self.instance is None else f"{self.instance}-{logical_group}"

    def connection(self) -> dict[str, Any]:
        """What every client of aiokafka is made with."""
        tls = self.security_protocol in ("SSL", "SASL_SSL")
        return {
            "bootstrap_servers": self.bootstrap,
            "client_id": self.client,
            "security_protocol": self.security_protocol,
            "ssl_context": create_ssl_context(cafile=self.ssl_cafile, certfile=self.ssl_certfile, keyfile=self.ssl_keyfile)
            if tls
            else None,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password,
        }


def member_name(client: str) -> str:
    """The client id of a group's member: tells which process of the machine it is."""
    return f"{client}@{os.getpid()}"


def process_of(client_id: str) -> int | None:
    """The process id in a `member_name`; None for any other client id."""
    _, marker, process = client_id.rpartition("@")
    return int(process) if marker and process.isdecimal() else None
