"""Models how a PLC changes the recipe, which is a part of the handshake. No sockets, no threads and no clock."""

from __future__ import annotations

from anosegd.bridge.events import RecipeRequest
from anosegd.bridge.tags import Controls


class RecipeChange:
    """Holds the change that the PLC has asked for. Only one is under way at a time.

    Attributes:
        acknowledged: The change has ended: `recipe_acknowledge`.
        refused: It has failed: `recipe_refused`.
    """

    def __init__(self) -> None:
        self.acknowledged = self.refused = False
        self._request: RecipeRequest | None = None
        self._withdrawn = False  # `recipe_change` fell before the answer, which then does not count

    @property
    def busy(self) -> bool:
        """Whether the station carries out a change."""
        return self._request is not None

    def write(self, before: Controls, now: Controls, *, online: bool, number: int) -> RecipeRequest | None:
        """Take what the PLC has written.

        Args:
            before: What it had written before.
            now: What it has written now.
            online: Whether the station is heard.
            number: Identifies a request that follows.

        Returns:
            The request to send to the station, or None.
        """
        if now.recipe_change and not before.recipe_change and self._request is None:
            return self._ask(now, online=online, number=number)
        if not now.recipe_change:
            self.withdraw()
        return None

    def withdraw(self) -> None:
        """Forget the PLC's request: an answer that is still to come does not count."""
        self.acknowledged = self.refused = False
        self._withdrawn = True

    def answer(self, answered: int, *, accepted: bool, controls: Controls, online: bool, number: int) -> RecipeRequest | None:
        """Take the end of a change.

        Args:
            answered: The number of its request.
            accepted: Whether the recipe is in force.
            controls: What the PLC has written.
            online, number: As of `write`.

        Returns:
            The next request to send if the PLC has meanwhile asked for another recipe; otherwise None.
        """
        request = self._request
        if request is None or answered != request.number:
            return None
        self._request = None
        # A write that was lost may have hidden that `recipe_change` was low.
        if not self._withdrawn and request.recipe == controls.recipe:
            self.acknowledged, self.refused = True, not accepted
            return None
        return self._ask(controls, online=online, number=number) if controls.recipe_change else None

    def _ask(self, controls: Controls, *, online: bool, number: int) -> RecipeRequest | None:
        self._withdrawn = False
        if not online or not controls.recipe:
            self.acknowledged = self.refused = True
            return None
        self._request = RecipeRequest(number, controls.recipe)
        return self._request
