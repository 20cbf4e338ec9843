"""Shows station, results and recipes as objects of OPC 40100-1 (Machine Vision, part 1). Runs on the event loop's thread.

The standard's `VisionSystem` has a state machine, the last results and the recipe in force. Results are variables in a ring.
Each result has an id and an event. Only the methods that read results, list recipes or prepare one are supported; triggers
and acknowledgements go through the handshake's variables, which the standard leaves to the vendor.
"""

from __future__ import annotations

import gzip
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import resources
from typing import Any
from uuid import uuid4

from asyncua import Node, Server, ua, uamethod
from asyncua.common.instantiate_util import instantiate
from asyncua.common.manage_nodes import delete_nodes

from anosegd import logs
from anosegd.bridge.tags import Outputs, Result

URI = "http://opcfoundation.org/UA/MachineVision"
NODESET = "Opc.Ua.MachineVision.NodeSet2.xml.gz"
NAME = "VisionSystem"
SHOWN = 20
"""Results in the folder `Results`; the next one takes the place of the oldest."""
KEPT = 200
"""Results that the methods find."""
# Numbers of the nodeset's types.
VISION_SYSTEM, STATE_MACHINE, AUTOMATIC_MODE, RESULTS, RESULT_FOLDER, RESULT = 1003, 1017, 1021, 1007, 1016, 2002
RECIPES, RECIPE_FOLDER, RECIPE, RESULT_READY = 1004, 1008, 1002, 1024
TOP_STATES = ("Preoperational", "Halted", "Error", "Operational")
ID_BASE, EXTERNAL_RECIPE, INTERNAL_RECIPE, CONFIGURATION = 3019, 3002, 3013, 3008
ID_TYPES = {
    EXTERNAL_RECIPE: "RecipeIdExternalDataType",
    INTERNAL_RECIPE: "RecipeIdInternalDataType",
    CONFIGURATION: "ConfigurationIdDataType",
}
RESULT_FIELDS = (
    "CreationTime",
    "IsPartial",
    "IsSimulated",
    "ResultState",
    "ResultId",
    "JobId",
    "PartId",
    "ExternalRecipeId",
    "InternalRecipeId",
    "InternalConfigurationId",
    "ResultContent",
)
COMPLETED, FAILED = 1, 4
"""Values of `ResultState`: a part was judged, or was not."""
SEVERITY = 500
NO_ERROR, UNKNOWN_ID, REFUSED = 0, 1, 2
"""Values of the methods' output `Error`."""
Prepare = Callable[[str], Awaitable[bool]]
Put = Callable[[ua.NodeId, ua.DataValue], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A result that methods find."""

    id: str
    data: Any
    """A ResultDataType."""


class MachineVision:
    """Owns the object `VisionSystem`."""

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare
        self._results: deque[Kept] = deque(maxlen=KEPT)
        self._run = uuid4().hex[:8]
        self._number = self._shown_number = 0
        self._slots: list[dict[str, Node]] = []
        self._state: str | None = None
        self._recipe: tuple[str, int] | None = ("", -1)  # name and settings; None: the station is not heard
        self._ids: dict[str, ua.NodeId] = {}
        self._nodes: dict[str, Node] = {}
        self._event: Any = None
        self._refused = logs.Throttle("bridge.client_refused")

    async def build(self, server: Server, index: int) -> None:
        """Add the standard's types, and the object.

        Args:
            server: Its address space is filled.
            index: The bridge's own namespace.
        """
        content = gzip.decompress((resources.files(__package__) / "nodeset" / NODESET).read_bytes())
        await server.import_xml(xmlstring=content.decode())
        space = await server.get_namespace_index(URI)
        self._server, self._index, self._space = server, index, space

        await _define_ids(server, space)

        def type_(number: int) -> Node:
            return server.get_node(ua.NodeId(number, space))

        async def add(parent: Node, number: int, name: str, *, own: bool = False, optional: bool = False) -> Node:
            place = name if parent == server.nodes.objects else f"{parent.nodeid.Identifier}.{name}"
            bname = ua.QualifiedName(name, index if own else space)
            nodes = await instantiate(parent, type_(number), ua.NodeId(place, index), bname, instantiate_optional=optional)
            return server.get_node(nodes[0].nodeid)

        system = await add(server.nodes.objects, VISION_SYSTEM, NAME, own=True)
        machine = await system.get_child(f"{space}:VisionStateMachine")
        automatic = await add(machine, AUTOMATIC_MODE, "AutomaticModeStateMachine")
        results = await add(system, RESULTS, "ResultManagement")
        folder = await add(results, RESULT_FOLDER, "Results")
        recipes = await add(system, RECIPES, "RecipeManagement")
        recipe_folder = await add(recipes, RECIPE_FOLDER, "Recipes")
        recipe = await add(recipe_folder, RECIPE, "Current", own=True)
        for name, parent in (("machine", machine), ("automatic", automatic)):
            state = await parent.get_child("0:CurrentState")
            self._nodes[name], self._nodes[f"{name}.id"] = state, await state.get_child("0:Id")
        for name in ("InternalId", "IsPrepared", "LastModified"):
            self._nodes[f"recipe.{name}"] = await recipe.get_child(f"{space}:{name}")
        for number, prefix in ((STATE_MACHINE, "machine"), (AUTOMATIC_MODE, "automatic")):
            for state in await type_(number).get_children(ua.ObjectIds.HasComponent, ua.NodeClass.Object):
                self._ids[f"{prefix}.{(await state.read_browse_name()).Name}"] = state.nodeid
        for n in range(SHOWN):
            slot = await add(folder, RESULT, f"Result{n}", own=True, optional=True)
            parts = {(await part.read_browse_name()).Name: part for part in await slot.get_children()}
            await _delete_below(server, slot, [node for name, node in parts.items() if name not in RESULT_FIELDS])
            self._slots.append({"": slot, **{name: parts[name] for name in RESULT_FIELDS}})
            for node in self._slots[-1].values():
                await server.iserver.write_attribute_value(node.nodeid, _bad(ua.StatusCodes.BadWaitingForInitialData))
        self._event = await server.get_event_generator(type_(RESULT_READY), system)
        self._event.event.Severity = SEVERITY
        await self._link(results, recipes, recipe)

    async def show(self, outputs: Outputs, put: Put) -> None:
        """Show these outputs: state, recipe and, if there is a new one, the result."""
        if outputs.station_state != self._state:
            self._state = outputs.station_state
            await self._show_state(outputs.station_state, put)
        recipe = (outputs.recipe, outputs.settings) if outputs.station_state else None
        if recipe != self._recipe:
            self._recipe = recipe
            await self._show_recipe(recipe, put)
        if outputs.result_valid and outputs.result_number != self._shown_number:
            self._shown_number = outputs.result_number
            await self._show_result(outputs.result, put)

    async def _show_recipe(self, recipe: tuple[str, int] | None, put: Put) -> None:
        lost = _bad(ua.StatusCodes.BadNoCommunication)
        for name, value in (
            ("InternalId", recipe and _id(INTERNAL_RECIPE, *recipe)),
            ("IsPrepared", True),
            ("LastModified", datetime.now(timezone.utc)),
        ):
            await put(self._nodes[f"recipe.{name}"].nodeid, lost if recipe is None else _good(value))

    async def _show_state(self, state: str, put: Put) -> None:
        """Show the state of the standard: one of the four, and in Operational one of the automatic mode."""
        top = state if state in TOP_STATES else "Operational" if state else ""
        for name, now in (("machine", top), ("automatic", "" if state in TOP_STATES else state)):
            if now:
                text, where = _good(ua.LocalizedText(now)), _good(self._ids.get(f"{name}.{now}", ua.NodeId()))
            else:  # the station is not heard, or the machine is not in its automatic mode
                text = where = _bad(ua.StatusCodes.BadStateNotActive if state else ua.StatusCodes.BadNoCommunication)
            await put(self._nodes[name].nodeid, text)
            await put(self._nodes[f"{name}.id"].nodeid, where)

    async def _show_result(self, result: Result, put: Put) -> None:
        self._number += 1
        kept = Kept(f"{self._run}-{self._number}", self._data_of(result, f"{self._run}-{self._number}"))
        self._results.append(kept)
        slot = self._slots[(self._number - 1) % SHOWN]
        await put(slot[""].nodeid, _good(kept.data))
        for name in RESULT_FIELDS:
            value = _good(getattr(kept.data, name))
            await put(slot[name].nodeid, value)
            setattr(self._event.event, name, value.Value.Value)
            self._event.event.data_types[name] = value.Value.VariantType
        try:
            await self._event.trigger(message=f"{result.outcome} {result.reason}".strip())
        except Exception as error:  # noqa: BLE001 - what a client has subscribed to must not end the bridge
            self._refused.warning(why=f"the event of a result could not be sent to all clients: {error!r}")

    def _data_of(self, result: Result, id_: str) -> Any:
        """Return a ResultDataType."""
        data = ua.ResultDataType()
        data.ResultId = ua.ResultIdDataType(Id=id_)
        data.JobId = ua.JobIdDataType(Id=id_)
        data.PartId = ua.PartIdDataType(Id=result.part_id)
        data.IsPartial, data.IsSimulated, data.HasTransferableDataOnFile = False, False, False
        data.ResultState = FAILED if result.outcome == "UNKNOWN" else COMPLETED
        data.ExternalRecipeId, data.InternalRecipeId = _id(EXTERNAL_RECIPE, result.recipe), _id(INTERNAL_RECIPE, result.recipe)
        data.InternalConfigurationId = _id(CONFIGURATION, f"{result.settings:08x}")
        data.CreationTime = datetime.now(timezone.utc)
        data.ResultContent = [
            ua.Variant(result.outcome, ua.VariantType.String),
            ua.Variant(result.reason, ua.VariantType.String),
            ua.Variant(result.defects, ua.VariantType.UInt32),
            ua.Variant(result.score, ua.VariantType.Double),
            ua.Variant(result.threshold, ua.VariantType.Double),
            ua.Variant(round(result.age_ms, 1), ua.VariantType.Double),
        ]
        return data

    # ---- methods

    async def _link(self, results: Node, recipes: Node, recipe: Node) -> None:
        """Link the methods that are supported; the others answer that they are not."""
        for node in (*await _methods_below(self._server.get_node(ua.NodeId(NAME, self._index))),):
            self._server.link_method(node, _not_supported)
        for parent, name, method in (
            (results, "GetResultById", self._get_result),
            (results, "GetResultListFiltered", self._get_results),
            (recipes, "PrepareRecipe", self._prepare_recipe),
            (recipes, "GetRecipeListFiltered", self._get_recipes),
        ):
            self._server.link_method(await parent.get_child(f"{self._space}:{name}"), method)

    @uamethod  # type: ignore[untyped-decorator] # `follow_imports` in pyproject.toml
    async def _get_result(self, _: Any, wanted: Any, *__: Any) -> tuple[Any, ...]:
        found = next((kept.data for kept in self._results if kept.id == getattr(wanted, "Id", None)), None)
        handle, missing = ua.Variant(0, ua.VariantType.UInt32), ua.Variant(UNKNOWN_ID, ua.VariantType.Int32)
        if found is None:
            return handle, False, ua.Variant(ua.ResultDataType(), ua.VariantType.ExtensionObject), missing
        return handle, False, found, ua.Variant(NO_ERROR, ua.VariantType.Int32)

    @uamethod  # type: ignore[untyped-decorator] # `follow_imports` in pyproject.toml
    async def _get_results(self, _: Any, state: int, *rest: Any) -> tuple[Any, ...]:
        part, recipe, most, start = rest[1], rest[2], rest[8], rest[9]
        found = [
            kept.data
            for kept in self._results
            if (not state or kept.data.ResultState == state)
            and getattr(part, "Id", "") in ("", None, kept.data.PartId.Id)
            and getattr(recipe, "Id", "") in ("", None, kept.data.ExternalRecipeId.Id)
        ]
        page = found[start : start + min(most or SHOWN, SHOWN)]
        return (
            start + len(page) >= len(found),
            ua.Variant(len(page), ua.VariantType.UInt32),
            ua.Variant(0, ua.VariantType.UInt32),
            ua.Variant(page, ua.VariantType.ExtensionObject, is_array=True),
            ua.Variant(NO_ERROR, ua.VariantType.Int32),
        )

    @uamethod  # type: ignore[untyped-decorator] # `follow_imports` in pyproject.toml
    async def _prepare_recipe(self, _: Any, external: Any, internal: Any) -> tuple[Any, ...]:
        name = str(getattr(external, "Id", "") or getattr(internal, "Id", "") or "")
        done = await self._prepare(name)
        return _id(INTERNAL_RECIPE, name), done, ua.Variant(NO_ERROR if done else REFUSED, ua.VariantType.Int32)

    @uamethod  # type: ignore[untyped-decorator] # `follow_imports` in pyproject.toml
    async def _get_recipes(self, _: Any, *__: Any) -> tuple[Any, ...]:
        known = [_id(INTERNAL_RECIPE, *self._recipe)] if self._recipe is not None else []
        return (
            True,
            ua.Variant(len(known), ua.VariantType.UInt32),
            ua.Variant(0, ua.VariantType.UInt32),
            ua.Variant(known, ua.VariantType.ExtensionObject, is_array=True),
            ua.Variant(NO_ERROR, ua.VariantType.Int32),
        )


async def _not_supported(*_: Any) -> ua.StatusCode:
    return ua.StatusCode(ua.StatusCodes.BadNotSupported)


async def _delete_below(server: Server, parent: Node, nodes: list[Node]) -> None:
    """Delete nodes to which only their parent refers. asyncua would search its whole address space for each of them."""
    await delete_nodes(server.iserver.isession, nodes, delete_target_references=False)
    space = server.iserver.aspace
    references = space[parent.nodeid].references
    references[:] = [reference for reference in references if reference.NodeId in space]


async def _methods_below(node: Node) -> list[Node]:
    found = list(await node.get_methods())
    for child in await node.get_children(ua.ObjectIds.HasComponent, ua.NodeClass.Object):
        found += await _methods_below(child)
    return found


async def _define_ids(server: Server, space: int) -> None:
    """Define the ids of recipes and configurations. The nodeset has no fields for them: they have those of their base type."""
    base = (await server.get_node(ua.NodeId(ID_BASE, space)).read_attribute(ua.AttributeIds.DataTypeDefinition)).Value.Value
    for number, name in ID_TYPES.items():
        node = server.get_node(ua.NodeId(number, space))
        encodings = await node.get_references(ua.ObjectIds.HasEncoding, ua.BrowseDirection.Forward)
        encoding = next(reference.NodeId for reference in encodings if reference.BrowseName.Name == "Default Binary")
        definition = replace(base, DefaultEncodingId=encoding, BaseDataType=ua.NodeId(ID_BASE, space))
        await node.write_attribute(ua.AttributeIds.DataTypeDefinition, ua.DataValue(ua.Variant(definition)))
        ua.register_extension_object(name, encoding, type(name, (ua.BinaryIdBaseDataType,), {}), node.nodeid)


def _id(kind: int, name: str, settings: int | None = None) -> Any:
    """Return a name as an id of the standard, of one of `ID_TYPES`; the checksum of the settings is its hash."""
    id_ = getattr(ua, ID_TYPES[kind])(Id=name)
    if settings is not None:
        id_.Hash, id_.HashAlgorithm = settings.to_bytes(4, "big"), "SHA-256, first 32 bits"
    return id_


def _good(value: Any) -> ua.DataValue:
    kind = {bool: ua.VariantType.Boolean, int: ua.VariantType.Int32}.get(type(value))
    return ua.DataValue(ua.Variant(value, kind), SourceTimestamp=datetime.now(timezone.utc))


def _bad(code: int) -> ua.DataValue:
    return ua.DataValue(StatusCode=ua.StatusCode(code), SourceTimestamp=datetime.now(timezone.utc))
