"""The baselines: one forecaster per module, loaded by the module's name (`moeload-bench run sw_avg`).

Modules whose name starts with an underscore hold what several of them share.
"""
