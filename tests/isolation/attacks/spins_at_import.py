"""A module that never finishes importing (it would after 30 s)."""

import time

time.sleep(30)


class Forecaster:
    """Comes too late."""

    def observe(self, block: object) -> None:
        pass

    def forecast(self, request: object) -> None:
        pass
