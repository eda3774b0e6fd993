"""An idempotent producer whose order per partition is the order of the calls of `send`. Never sends a record twice by itself.

Records wait in one queue per partition; each queue has one batch on its way at a time, built when the one before was
acknowledged, so batches grow with the load and no linger is needed. What aiokafka holds is bounded by that.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer, errors
from aiokafka.partitioner import murmur2

from pipeline.errors import NotAllowed, RecordTooLarge, TopicMissing, TransportError, WriteError
from pipeline.kafka.asking import RESOURCES, translated, within
from pipeline.kafka.closing import begun
from pipeline.kafka.settings import KafkaSettings
from pipeline.records import Ack, Outgoing

log = structlog.get_logger()

TOO_LARGE: Final = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
FOR_GOOD: Final = (
    errors.InvalidTopicError,
    errors.UnsupportedForMessageFormatError,
)
"""What sending again does not mend."""

OVERHEAD_BYTES: Final = 96
"""About what a record costs in memory beside its bytes …"""

HEADER_BYTES: Final = 48
"""… and about what a header takes: counting each would cost more than the bound is worth."""

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0


class _Sent:
    """One call of `send`."""

    __slots__ = ("acks", "failure", "future", "left")

    def __init__(self, future: asyncio.Future[Sequence[Ack]], count: int) -> None:
        self.future = future
        self.left = count
        self.acks: list[Ack | None] = [None] * count
        self.failure: TransportError | None = None

    @property
    def abandoned(self) -> bool:
        """The caller no longer waits: what has not gone out need not go any more."""
        return self.future.cancelled()

    def acked(self, index: int, ack: Ack) -> None:
        self.acks[index] = ack
        self._settled()

    def failed(self, error: TransportError) -> None:
        # A record that will never fit is the news that the caller must act on; the rest can be sent again.
        if self.failure is None or (isinstance(error, RecordTooLarge) and not isinstance(self.failure, RecordTooLarge)):
            self.failure = error
        self._settled()

    def _settled(self) -> None:
        self.left -= 1
        if self.left or self.future.done():
            return
        if self.failure is not None:
            self.future.set_exception(self.failure)
        else:
            self.future.set_result(tuple(ack for ack in self.acks if ack is not None))


class _Item:
    __slots__ = ("index", "record", "sent", "size")

    def __init__(self, sent: _Sent, index: int, record: Outgoing, size: int) -> None:
        self.sent = sent
        self.index = index
        self.record = record
        self.size = size


class _Queue:
    """What waits for one partition."""

    __slots__ = ("alone", "busy", "items", "partition", "topic")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.items: deque[_Item] = deque()
        self.busy = False
        self.alone = 0
        """So many at the head go one by one: one of them is too large, and which one is to be found out."""


class _Topic:
    """A topic's queues, once the number of its partitions is known; until then its records wait in order."""

    __slots__ = ("learning", "name", "queues", "unrouted")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queues: list[_Queue] | None = None
        self.unrouted: deque[_Item] = deque()
        self.learning = False


class _Producer:
    """One producer of aiokafka, until it is given up. `spent` ends the waiting for what it has not delivered by then."""

    __slots__ = ("client", "delivering", "idle", "spent")

    def __init__(self, client: Any) -> None:
        self.client = client
        self.delivering = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.spent: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @contextlib.contextmanager
    def delivery(self) -> Iterator[None]:
        self.delivering += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.delivering -= 1
            if not self.delivering:
                self.idle.set()


class KafkaWriter:
    """Implements `pipeline.transport.Writer`.

    Where a record fails, everything that waits behind it for the same partition fails too (WriteError, retryable), so that callers
    who send again in the order of their failures keep the order. A caller that cancels the awaitable gives up what has not gone out.
    Beyond `max_pending_bytes` a call is refused whole (WriteError, retryable).
    """

    def __init__(self, settings: KafkaSettings, partitions: Callable[[str], Awaitable[int]]) -> None:
        self._settings = settings
        self._partitions = partitions
        self._topics: dict[str, _Topic] = {}
        self._producer: _Producer | None = None
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        """Producers that are being closed: a stop waits for them too."""
        self._pending_bytes = 0
        self._turn = itertools.count()
        self._closed = True

    @property
    def pending_bytes(self) -> int:
        """Bytes of records that are not acknowledged."""
        return self._pending_bytes

    async def start(self) -> None:
        self._producer = await self._opened()
        self._closed = False
        self._ready.set()

    async def stop(self) -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_seconds):
                await self._idle.wait()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._fail_all(WriteError("the writer was stopped before the record was acknowledged"))
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._discard(producer)
        if self._retiring:
            await asyncio.wait(self._retiring)

    def send(self, records: Sequence[Outgoing]) -> Awaitable[Sequence[Ack]]:
        future: asyncio.Future[Sequence[Ack]] = asyncio.get_running_loop().create_future()
        if not records:
            future.set_result(())
            return future
        sizes = [_size(record) for record in records]
        refusal = self._refusal(sum(sizes))
        if refusal is not None:
            future.set_exception(refusal)
            return future
        self._idle.clear()
        sent = _Sent(future, len(records))
        for index, record in enumerate(records):
            self._pending_bytes += sizes[index]
            self._route(_Item(sent, index, record, sizes[index]))
        return future

    def _refusal(self, size: int) -> WriteError | None:
        if self._closed:
            return WriteError("the writer is not started")
        if self._pending_bytes and self._pending_bytes + size > self._settings.max_pending_bytes:
            return WriteError(f"{self._pending_bytes} bytes wait for Kafka already")
        return None

    # Which partition.

    def _route(self, item: _Item) -> None:
        name = item.record.topic
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _Topic(name)
        if topic.queues is None:
            topic.unrouted.append(item)
            if not topic.learning:
                topic.learning = True
                self._spawn(self._learn(topic))
        else:
            self._enqueue(topic.queues, item)

    def _enqueue(self, queues: list[_Queue], item: _Item) -> None:
        record = item.record
        number = record.partition
        if number is None:
            number = next(self._turn) % len(queues) if record.key is None else partition_of(record.key, len(queues))
        elif not 0 <= number < len(queues):
            self._fail(item, WriteError(f"{record.topic} has no partition {number}", retryable=False))
            return
        queue = queues[number]
        queue.items.append(item)
        if not queue.busy:
            queue.busy = True
            self._spawn(self._pump(queue))

    async def _learn(self, topic: _Topic) -> None:
        try:
            count = await self._partitions(topic.name)
        except TransportError as error:
            topic.learning = False
            while topic.unrouted:
                told = error if isinstance(error, TopicMissing | NotAllowed) else _write_error(error, error.retryable)
                self._fail(topic.unrouted.popleft(), told)
            return
        queues = topic.queues = [_Queue(self._settings.topic(topic.name), number) for number in range(count)]
        while topic.unrouted:
            self._enqueue(queues, topic.unrouted.popleft())

    # One batch after another.

    async def _pump(self, queue: _Queue) -> None:
        try:
            while queue.items:
                producer = await self._current()
                if producer is None:
                    self._fail_queue(queue, (), WriteError(f"no connection to Kafka at {self._settings.bootstrap}"))
                    continue
                batch, items = self._batch(queue, producer)
                if items:
                    await self._deliver(producer, queue, batch, items)
        finally:
            queue.busy = False

    async def _current(self) -> _Producer | None:
        if self._producer is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.delivery_timeout_seconds):
                    await self._ready.wait()
        return self._producer

    def _batch(self, queue: _Queue, producer: _Producer) -> tuple[Any, list[_Item]]:
        builder = producer.client.create_batch()
        taken: list[_Item] = []
        items = queue.items
        wanted: _Sent | None = None
        while items:
            item = items[0]
            # Nothing is awaited here: a call that is waited for stays so.
            if item.sent is not wanted:
                if item.sent.abandoned:
                    items.popleft()
                    self._fail(item, WriteError("given up by the caller"))
                    continue
                wanted = item.sent
            record = item.record
            try:
                room = builder.append(timestamp=None, key=record.key, value=record.value, headers=list(record.headers))
            except (TypeError, ValueError) as error:
                items.popleft()
                self._fail(item, _write_error(error, False))
                continue
            if room is None:
                break
            taken.append(items.popleft())
            if queue.alone:
                queue.alone -= 1
                break
        builder.close()
        return builder, taken

    async def _deliver(self, producer: _Producer, queue: _Queue, batch: Any, items: list[_Item]) -> None:
        try:
            with producer.delivery():
                first = await self._acknowledged(producer, queue, batch)
        except TOO_LARGE as error:
            self._too_large(queue, items, error)
            self._replace(producer)
        except errors.KafkaError as error:
            self._fail_queue(queue, items, _refusal(queue.topic, error))
            self._replace(producer)
        except TimeoutError:
            seconds = self._settings.delivery_timeout_seconds
            self._fail_queue(queue, items, WriteError(f"{queue.topic}: not acknowledged within {seconds:g} s; it may still land"))
            self._replace(producer, at_once=True)
        except BaseException:
            self._fail_queue(queue, items, WriteError(f"{queue.topic}: the writer was stopped; the record may have landed"))
            raise
        else:
            for number, item in enumerate(items):
                self._pending_bytes -= item.size
                item.sent.acked(item.index, Ack(queue.partition, first + number if first >= 0 else -1))
            self._check_idle()

    async def _acknowledged(self, producer: _Producer, queue: _Queue, batch: Any) -> int:
        """The offset of the batch's first record; -1 where the broker knows only that it has it already."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._settings.delivery_timeout_seconds
        async with asyncio.timeout_at(ends):
            delivered = await producer.client.send_batch(batch, queue.topic, partition=queue.partition)
        await asyncio.wait({delivered, producer.spent}, timeout=ends - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        if not delivered.done():
            delivered.add_done_callback(_consumed)
            if producer.spent.done():
                raise errors.ProducerClosed("the producer was replaced; the record may have landed")
            raise TimeoutError
        return int(delivered.result().offset)

    # What went wrong.

    def _too_large(self, queue: _Queue, items: list[_Item], error: Exception) -> None:
        if len(items) > 1:
            queue.items.extendleft(reversed(items))
            queue.alone = len(items) + max(0, queue.alone)
            return
        (item,) = items
        self._fail(item, RecordTooLarge(f"{queue.topic}: {type(error).__name__}: about {item.size} bytes", item.index))

    def _fail_queue(self, queue: _Queue, items: Sequence[_Item], error: TransportError) -> None:
        """All that waits behind fails too: what came later must not land before what is sent again."""
        waiting = [*items, *queue.items]
        queue.items.clear()
        queue.alone = 0
        for item in waiting:
            self._fail(item, error)

    def _fail_all(self, error: WriteError) -> None:
        for topic in self._topics.values():
            while topic.unrouted:
                self._fail(topic.unrouted.popleft(), error)
            for queue in topic.queues or ():
                self._fail_queue(queue, (), error)

    def _fail(self, item: _Item, error: TransportError) -> None:
        self._pending_bytes -= item.size
        item.sent.failed(error)
        self._check_idle()

    def _check_idle(self) -> None:
        if not self._pending_bytes:
            self._idle.set()

    # A producer for the one that is of no more use.

    def _replace(self, producer: _Producer, *, at_once: bool = False) -> None:
        """A batch that failed leaves a gap in the sequence of its partition, which the broker never forgives that producer."""
        if producer is not self._producer:
            return
        self._producer = None
        self._ready.clear()
        retiring = asyncio.create_task(self._retired(producer, at_once))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        self._spawn(self._replaced(retiring))

    async def _retired(self, producer: _Producer, at_once: bool) -> None:
        if not at_once:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.close_timeout_seconds):
                    await producer.idle.wait()
        await self._discard(producer)

    async def _replaced(self, retiring: asyncio.Task[None]) -> None:
        await asyncio.shield(retiring)
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                self._producer = await self._opened()
            except TransportError as error:
                log.warning("no new producer yet", error=str(error))
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
            else:
                self._ready.set()
                log.info("the producer was replaced")
                return

    async def _opened(self) -> _Producer:
        client = AIOKafkaProducer(
            **self._settings.connection(),
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            max_batch_size=self._settings.batch_bytes,
            linger_ms=0,
            request_timeout_ms=self._settings.request_timeout_ms,
        )
        try:
            async with within(
                self._settings.connect_timeout_seconds,
                f"starting a producer at {self._settings.bootstrap}",
                "Write on any topic, or IdempotentWrite",
            ):
                await begun(client)
        except BaseException:
            await client.stop()
            raise
        return _Producer(client)

    async def _discard(self, producer: _Producer) -> None:
        """Closes it so that nothing of it can land any more but what is on the wire."""
        if not producer.spent.done():
            producer.spent.set_result(None)
        client = producer.client
        stopping = asyncio.create_task(client.stop())
        # With nothing under way `stop` ends at once; otherwise it waits for what never comes, and retries it for ever.
        done, _ = await asyncio.wait({stopping}, timeout=0.5 if producer.delivering else self._settings.close_timeout_seconds)
        if not done:
            stopping.cancel()
            sender = client._sender.sender_task
            await client.client.close()
            sender.cancel()
            await asyncio.wait({stopping, sender}, timeout=self._settings.close_timeout_seconds)
            await client.client.close()
        if stopping.done() and not stopping.cancelled() and (error := stopping.exception()) is not None:
            log.debug("a producer did not stop cleanly", error=repr(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the writer failed", error=repr(error))
            self._fail_all(WriteError(f"the writer failed: {error!r}"))


def partition_of(key: bytes, partitions: int) -> int:
    """Where the Java client's default partitioner puts a key: murmur2, without its sign, modulo the number of partitions."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def _size(record: Outgoing) -> int:
    return OVERHEAD_BYTES + len(record.key or b"") + len(record.value or b"") + HEADER_BYTES * len(record.headers)


def _refusal(topic: str, error: errors.KafkaError) -> TransportError:
    match RESOURCES.get(type(error)):
        case "topic":
            return translated(f"writing to {topic}", type(error)(topic), "Write")
        case "cluster":
            return translated(f"writing to {topic}", type(error)(), "Write on any topic, or IdempotentWrite")
    return _write_error(error, not isinstance(error, FOR_GOOD))


def _write_error(error: Exception, retryable: bool) -> WriteError:
    return WriteError(f"{type(error).__name__}: {error}", retryable=retryable)


def _consumed(future: asyncio.Future[Any]) -> None:
    """Takes note of a late failure, which has been told already."""
    if not future.cancelled():
        future.exception()
