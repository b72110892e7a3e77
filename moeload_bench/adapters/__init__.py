"""Other people's forecasters behind the contract: one module per library, imported only when its forecaster is used."""
