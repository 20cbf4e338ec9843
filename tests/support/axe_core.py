"""Looks for barriers in a page with axe-core, which is kept in `tests/support/axe`."""

from __future__ import annotations

from pathlib import Path

from support.browser import Browser

AXE = Path(__file__).parent / "axe" / "axe.min.js"
RUN = """axe.run(document).then((found) => found.violations.flatMap((rule) => rule.nodes.map((node) =>
  `${rule.id}: ${node.target.join(" ")}: ${node.failureSummary.replaceAll("\\n", " ")}`)))"""


def barriers(browser: Browser) -> list[str]:
    """Every violation of axe-core's rules in the open page: rule, element, what is wrong."""
    if not browser.evaluate("typeof axe === 'object'"):
        browser.evaluate(f"{AXE.read_text(encoding='utf-8')}; true")
    # Colours that still fade from one to the other would be measured on their way.
    browser.evaluate("Promise.all(document.getAnimations().map((one) => one.finished.catch(() => null))).then(() => true)")
    return list(browser.evaluate(RUN))
