"""``monconn top``: a full-screen live view of a running monconn.

:mod:`model <monconn.faces.tui.model>` holds the state and knows neither a screen nor a socket,
:mod:`poller <monconn.faces.tui.poller>` talks to the control port in a thread of its own, and
:mod:`screen <monconn.faces.tui.screen>` draws the model. What a row has, and how it is written,
comes from :mod:`monconn.ops.rows`; the filter language from :mod:`monconn.ops.filters`.
"""
