"""Limits what a session may ask of the server. Everything runs on the event loop's thread.

asyncua itself would take whatever a client asks for: 10,000 values in a queue, a subscription that publishes all the time,
sessions that nobody activates. Writes never reach asyncua's address space: the bridge takes them as a whole.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server import monitored_item_service
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.user_managers import UserManager

from anosegd.bridge.opcua import decoding  # noqa: F401 - its limits
from anosegd.bridge.opcua.event_filters import check_data_filter, check_event_filter

MAX_SESSIONS = 32
SESSION_MS = 30_000
"""A session without a request for this long is closed, whatever timeout its client has asked for."""
SUBSCRIPTIONS = 5
"""Of one session, at most."""
MONITORED_ITEMS = 500
"""Of one session, at most."""
EVENT_ITEMS = 20
"""Of one session, at most: each costs time at every result."""
QUEUE = 10
"""Values that wait in a monitored item. The handshake needs one: the latest."""
UNACKNOWLEDGED = 10
"""Notifications that are kept until the client has acknowledged them."""
NODES = 500
"""Nodes that one request may name."""
SHORTEST_PUBLISHING_MS, LONGEST_PUBLISHING_MS = 20.0, 10_000.0
LIFETIME, KEEP_ALIVE = 300, 100
"""Both in publishing intervals."""
LONGEST_URL = 4096
"""Of an endpoint, as the standard says (part 6, 7.1.2.3). Python's urllib keeps the URLs that it has parsed last."""


# With this logger, the one that asyncua makes for each subscription has a parent; else `logging` keeps them in its place.
logging.getLogger(monitored_item_service.__name__)


class Owner(Protocol):
    """What sessions need of the server."""

    async def refresh(self) -> None:
        """Bring the variables up to date, before something is read."""

    async def take_writes(self, writes: list[ua.WriteValue]) -> list[ua.StatusCode]:
        """Take what a client writes, all at once."""

    def is_connected(self, session: InternalSession) -> bool:
        """Whether a session has a connection."""


class Anybody(UserManager):  # type: ignore[misc] # `follow_imports` in pyproject.toml
    """Asks for no user: the certificates of clients decide who may connect."""

    def get_user(self, *_: Any, **__: Any) -> User:
        """Return the same user for everybody."""
        return User(role=UserRole.User)


class LimitedServer(InternalServer):  # type: ignore[misc]
    """Makes sessions with limits."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(user_manager=Anybody())
        self.owner = owner
        self.allow_remote_admin = False
        self.min_session_timeout_ms, self.max_session_timeout_ms = 1000, SESSION_MS
        self.max_unacked_messages_per_subscription = UNACKNOWLEDGED
        self.max_monitored_item_queue_size = QUEUE
        self.max_lifetime_count, self.max_keep_alive_count = LIFETIME, KEEP_ALIVE
        self.max_subscriptions = MAX_SESSIONS * SUBSCRIPTIONS
        self.match_discovery_endpoint_url = True
        self.supported_tokens = (ua.AnonymousIdentityToken,)

    def create_session(self, name: str, user: Any = None, external: bool = False) -> InternalSession:
        """Make a session for a client.

        Raises:
            ServiceError: There are too many.
        """
        sessions = self._external_sessions
        if len(sessions) >= MAX_SESSIONS:
            lost = [session for session in sessions.values() if not self.owner.is_connected(session)]
            if not lost:
                raise ServiceError(ua.StatusCodes.BadTooManySessions)
            self.unregister_external_session(lost[0])
            lost[0].session_timeout = 0.001  # its own watchdog closes it
        session = LimitedSession(self, self.aspace, self.subscription_service, name, external=True)
        # asyncua counts its tokens from 1000. After a restart, one client's old token would be that of another's session.
        self.unregister_external_session(session)
        session.auth_token = ua.NodeId(secrets.token_bytes(32), 0, ua.NodeIdType.ByteString)
        self.register_external_session(session)
        return session

    def _mangle_endpoint_url(self, own: str, params_ep_url: str | None = None, sockname: Any = None) -> str:
        """Return the address of the bridge by the name that the client uses, unless that is too long."""
        named = params_ep_url if len(params_ep_url or "") <= LONGEST_URL else None
        return str(super()._mangle_endpoint_url(own, params_ep_url=named, sockname=sockname))


class LimitedSession(InternalSession):  # type: ignore[misc]
    """A session of a client."""

    async def create_session(self, params: ua.CreateSessionParameters, sockname: Any = None) -> ua.CreateSessionResult:
        """Take the client's settings. A timeout that is not a number would never be over, and would keep the loop busy."""
        if math.isnan(params.RequestedSessionTimeout):
            params.RequestedSessionTimeout = float(SESSION_MS)
        return await super().create_session(params, sockname=sockname)

    async def read(self, params: ua.ReadParameters) -> list[ua.DataValue]:
        """Read attributes, as they are now."""
        _check(params.NodesToRead)
        await self.iserver.owner.refresh()
        return list(self.iserver.attribute_service.read(params))

    async def write(self, params: ua.WriteParameters) -> list[ua.StatusCode]:
        """Hand writes to the bridge."""
        _check(params.NodesToWrite)
        return list(await self.iserver.owner.take_writes(params.NodesToWrite))

    async def browse(self, params: ua.BrowseParameters) -> list[ua.BrowseResult]:
        """Browse."""
        _check(params.NodesToBrowse)
        return list(await super().browse(params))

    async def translate_browsepaths_to_nodeids(self, params: list[ua.BrowsePath]) -> list[ua.BrowsePathResult]:
        """Find nodes by their paths."""
        _check(params)
        return list(await super().translate_browsepaths_to_nodeids(params))

    async def call(self, params: list[ua.CallMethodRequest]) -> list[ua.CallMethodResult]:
        """Call methods."""
        _check(params)
        return list(await super().call(params))

    async def create_subscription(
        self, params: ua.CreateSubscriptionParameters, callback: Callable[..., Any], request_callback: Any = None
    ) -> ua.CreateSubscriptionResult:
        """Make a subscription, with a publishing interval that the bridge can keep."""
        if len(self._own_subscriptions()) >= SUBSCRIPTIONS:
            raise ServiceError(ua.StatusCodes.BadTooManySubscriptions)
        wanted = params.RequestedPublishingInterval
        wanted = wanted if wanted >= SHORTEST_PUBLISHING_MS else SHORTEST_PUBLISHING_MS  # also if it is not a number
        params.RequestedPublishingInterval = min(wanted, LONGEST_PUBLISHING_MS)
        created = await super().create_subscription(params, callback, request_callback=request_callback)
        # asyncua makes a logger for each subscription, which `logging` would keep until the bridge ends.
        logging.Logger.manager.loggerDict.pop(f"{monitored_item_service.__name__}.{created.SubscriptionId}", None)
        return created

    async def create_monitored_items(self, params: ua.CreateMonitoredItemsParameters) -> list[ua.MonitoredItemCreateResult]:
        """Watch attributes."""
        _check(params.ItemsToCreate)
        self._own_subscription(params.SubscriptionId)
        events = 0
        for item in params.ItemsToCreate:
            wanted = item.ItemToMonitor  # asyncua keeps it, with texts of any length that it does not use
            item.ItemToMonitor = ua.ReadValueId(NodeId=wanted.NodeId, AttributeId=wanted.AttributeId)
            if item.ItemToMonitor.AttributeId == ua.AttributeIds.EventNotifier:
                events += 1
                check_event_filter(item.RequestedParameters.Filter)
            else:
                check_data_filter(item.RequestedParameters.Filter)
        services = [sub.monitored_item_srv for sub in self._own_subscriptions()]
        watched = sum(len(service._monitored_items) for service in services)
        watched_events = sum(len(items) for service in services for items in service._monitored_events.values())
        if watched + len(params.ItemsToCreate) > MONITORED_ITEMS or (events and watched_events + events > EVENT_ITEMS):
            raise ServiceError(ua.StatusCodes.BadTooManyMonitoredItems)
        await self.iserver.owner.refresh()
        return list(await super().create_monitored_items(params))

    async def modify_monitored_items(self, params: ua.ModifyMonitoredItemsParameters) -> list[ua.MonitoredItemModifyResult]:
        """Change watched attributes. asyncua would take a size of 0 for a queue without a limit."""
        _check(params.ItemsToModify)
        watched = self._own_subscription(params.SubscriptionId).monitored_item_srv._monitored_events.values()
        events = {item for items in watched for item in items}
        for item in params.ItemsToModify:
            wanted = item.RequestedParameters.Filter or None  # None: asyncua keeps the filter
            if item.MonitoredItemId not in events:
                check_data_filter(wanted)
            elif wanted is not None:
                check_event_filter(wanted)
            item.RequestedParameters.Filter = wanted
            item.RequestedParameters.QueueSize = min(max(1, item.RequestedParameters.QueueSize), QUEUE)
        return list(await super().modify_monitored_items(params))

    async def set_monitoring_mode(self, params: ua.SetMonitoringModeParameters) -> list[ua.StatusCode]:
        """Begin or stop to report items."""
        _check(params.MonitoredItemIds)
        self._own_subscription(params.SubscriptionId)
        return list(await super().set_monitoring_mode(params))

    async def set_publishing_mode(self, params: ua.SetPublishingModeParameters) -> list[ua.StatusCode]:
        """Begin or stop to publish subscriptions."""
        _check(params.SubscriptionIds)
        params.SubscriptionIds = self._only_own(params.SubscriptionIds)
        return list(await super().set_publishing_mode(params))

    async def delete_subscriptions(self, ids: list[int]) -> list[ua.StatusCode]:
        """End subscriptions."""
        _check(ids)
        return list(await super().delete_subscriptions(self._only_own(ids)))

    def republish(self, params: ua.RepublishParameters) -> ua.NotificationMessage:
        """Send a notification again."""
        self._own_subscription(params.SubscriptionId)
        return super().republish(params)

    async def delete_monitored_items(self, params: ua.DeleteMonitoredItemsParameters) -> list[ua.StatusCode]:
        """Watch attributes no longer, and forget what has not been sent: asyncua would keep it while nobody asks for it."""
        _check(params.MonitoredItemIds)
        subscription = self._own_subscription(params.SubscriptionId)
        results = list(await super().delete_monitored_items(params))
        for id_ in params.MonitoredItemIds:
            subscription._triggered_datachanges.pop(id_, None)
            subscription._triggered_events.pop(id_, None)
        return results

    def publish(self, acks: list[ua.SubscriptionAcknowledgement] | None = None) -> tuple[int, list[ua.StatusCode]]:
        """Take acknowledgements. asyncua keeps a code for each of them until the request is answered."""
        acks = acks or []
        _check(acks)
        for ack, id_ in zip(acks, self._only_own([ack.SubscriptionId for ack in acks]), strict=True):
            ack.SubscriptionId = id_
        number, codes = super().publish(acks)
        return int(number), list(codes)

    async def close_session(self, delete_subs: bool = True) -> None:
        """Close the session with its subscriptions, whatever the client says: nobody could read them any more."""
        await super().close_session(True)

    def _own_subscriptions(self) -> list[Any]:
        return [sub for sub in self.subscription_service.subscriptions.values() if sub.session_id == self.session_id]

    def _only_own(self, ids: list[int]) -> list[int]:
        """Return the ids with 0, which no subscription has, in the place of those that are not of this session."""
        own = {sub.data.SubscriptionId for sub in self._own_subscriptions()}
        return [id_ if id_ in own else 0 for id_ in ids]

    def _own_subscription(self, id_: int) -> Any:
        """Return a subscription of this session: asyncua would change those of others.

        Raises:
            ServiceError: It has none with this id.
        """
        for sub in self._own_subscriptions():
            if sub.data.SubscriptionId == id_:
                return sub
        raise ServiceError(ua.StatusCodes.BadSubscriptionIdInvalid)


def _check(nodes: Iterable[Any] | None) -> None:
    if nodes is None:
        raise ServiceError(ua.StatusCodes.BadNothingToDo)
    if len(list(nodes)) > NODES:
        raise ServiceError(ua.StatusCodes.BadTooManyOperations)
