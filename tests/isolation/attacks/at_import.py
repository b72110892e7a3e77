"""An attack that runs before there is a forecaster: the module's own code."""

import os

with open(os.environ.get("MOELOAD_VICTIM", "/etc/hostname")) as file:
    LOOT = file.read()


class Forecaster:
    """Never comes to be: opening the file raises."""

    def observe(self, block: object) -> None:
        pass

    def forecast(self, request: object) -> None:
        pass
