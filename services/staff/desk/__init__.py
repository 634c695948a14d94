"""The staff desk: the web page of a billing team, and the same as an API. A process of its own, so that no slow page holds up intake."""
