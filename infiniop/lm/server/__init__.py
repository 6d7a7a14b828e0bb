"""The HTTP server: OpenAI's API over a `ServingEngine`."""

from .app import Limits, create_app

__all__ = ["Limits", "create_app"]
