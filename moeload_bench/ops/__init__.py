"""Tools for training engineers: a house of their own. The benchmark never imports it; it imports the benchmark.

Names of the benchmark that they use:

arrays: Array, BoolArray, FloatArray, IntArray, json_value
baseline_facts: ordered
bounds: MAX_DEPTH, check_decoded, check_depth, named_once, parse_json, whole_number
cli.opening: open_trace
cli.options: FirstLayer, Forecaster, INT, Level, ModelLayers, RunArgument, Seed, check_ending, no_trace,
  refuse_unused
cli.progress: pair_progress, plain_console, print_entries, print_next, print_on_interrupt, say, say_json
errors: ForecastError, MissingExtraError, MoeloadError, NotFoundError, PlacementError, PlotError, RecordingError,
  TraceError, counted, first_ten, not_found, printable, short
files: PACKAGE, read_at_most, replacing, write_whole
forecaster: ForecastRequest, StepBlock, TraceInfo, trace_info
harness.evaluate: evaluate
harness.replay: follow
isolation.arguments: split_targets
isolation.hosts: Level, parse_level
isolation.targets: class_target, parse_target
moeload_bench: plots
placement.cost: replicas_moved, step_imbalance, steps_last
placement.layouts: LAYOUTS, LINEAR, checked_layout, layout
placement.plans: ClusterShape, default_shape, least_slots, plan
placement.replan: CostModel, with_fewest_moves
placement.vllm_eplb: EVERY, VllmEplb
plots: TrainingErrors, View, training_errors
recording.callback: LoadRecorder
recording.parts: Parts, merge_shards, read_manifest, unfinished_trace
recording.stages: merge_stages
recording.writer: RecordingWarning, Row, rows_of
results.render: plain_table
results.results: Results, joined, load_results
results.skill: interval_of
schema: read_json
scoring.metrics: DEAD_SHARE
states.drift: row_means
states.rule: StateDetector, StateRule, grid_of
style: GREY, PALETTE, check_suffix, load_matplotlib, new_figure, save_figure, style
traces.archives: npy_header, read_array, read_arrays
traces.lookup: Place, find_run, load_trace, routing_folders
traces.means: mean_known, mean_over, ratio_of
traces.meta: BalancingMeta, OPTIONAL_COLUMNS, TraceMeta, checked_meta
traces.pages: varint
traces.parquet: check_cost, open_mapped, open_parquet
traces.routing: StepRouting, read_routing, routing_files
traces.store: data_sha256, read_trace, write_trace
traces.streaming: parts
traces.tensors: Header, Tensor, read_header
traces.trace: MAX_COUNT, MAX_LAYERS, Trace, TraceMeta, check_trace, layer_names, shares
words: FineProgress, Progress, every, listed, ordinal, page, shown, silent
"""
