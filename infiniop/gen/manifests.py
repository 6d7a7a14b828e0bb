"""Manifests of the built-in native backends, from the `backends` table of `registry.yaml`."""

from __future__ import annotations

import json

from .lock import Registry


def generate(registry: Registry) -> dict[str, str]:
    """Manifest texts by backend name; Python backends have none."""
    return {
        name: json.dumps({"name": name, **{k: row[k] for k in ("library", "device", "priority")}}, indent=2) + "\n"
        for name, row in registry.backends.items()
        if "library" in row
    }
