"""The shipped Grafana dashboard's expressions, as Grafana would send them."""

from __future__ import annotations

import json
import os
from typing import Any

from tools.steps import CHECKOUT

DASHBOARD = os.path.join(CHECKOUT, "config", "grafana", "kata-dashboard.json")


def load() -> Any:
    """Return the dashboard."""
    with open(DASHBOARD, encoding="utf-8") as file:
        return json.load(file)


def list_expressions() -> list[str]:
    """Return what all panels ask, with variables."""
    targets = (panel.get("targets", []) for panel in load()["panels"])
    return [target["expr"] for each in targets for target in each]


def fill_in(expression: str, pod: str = ".*", interval: str = "30s") -> str:
    """Put in what the variables stand for: everything, but perhaps one pod."""
    values = {"node": ".*", "namespace": ".*", "pod": pod, "__rate_interval": interval}
    for name, value in values.items():
        expression = expression.replace(f"${name}", value)
    return expression
