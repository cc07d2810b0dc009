"""What axe-core, from npm, says of a page."""

from typing import Any

from playwright.sync_api import Page

from socket_tier.pages import WEB

AXE = WEB / "node_modules" / "axe-core" / "axe.min.js"


def violations(page: Page, rules: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """The rules that a page breaks, each with the elements that do; ``rules`` are axe's options."""
    # Evaluated by the debugger, because the page's own policy lets no such script in.
    page.evaluate(AXE.read_text())
    found = page.evaluate("(rules) => axe.run(document, { ...rules, resultTypes: ['violations'] })", rules)
    assert found["passes"], "axe looked at nothing"
    return [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found["violations"]]
