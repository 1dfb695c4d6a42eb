"""``monconn top``: a full-screen live view of a running monconn.

:mod:`model <monconn.faces.tui.model>` holds the state and knows neither a screen nor a socket,
:mod:`poller <monconn.faces.tui.poller>` talks to the control port in a thread of its own, and
:mod:`screen <monconn.faces.tui.screen>` draws the model: :mod:`layout <monconn.faces.tui.layout>`
says where, :mod:`tables <monconn.faces.tui.tables>` and :mod:`header <monconn.faces.tui.header>`
make lines of text, :mod:`widgets <monconn.faces.tui.widgets>` shows them in the colours of
:mod:`theme <monconn.faces.tui.theme>`. What a row has, and how it is written, comes from
:mod:`monconn.ops.rows`; the filter language, with its completion, from :mod:`monconn.ops.filters`.
"""
