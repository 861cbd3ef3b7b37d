"""The console: the service's pages for people, who look around in a store with a browser.

Pages are rendered here, and read without JavaScript. What is beside them (styles, scripts) stands in the package, so
that a browser loads nothing from elsewhere. A page is declared where the function stands that makes it, as a route of
the service is.
"""

from __future__ import annotations

from eventferry.errors import MissingExtraError

try:
    import jinja2  # noqa: F401
except ImportError:
    raise MissingExtraError("the console needs the extra 'http': pip install 'eventferry[http]'") from None
