#!/bin/sh
# Draw the figures of docs/guide/plots.md. Run from the root of the repository, with the extras torch, fast and plot installed.
# The traces lie in the package and in traces/; the results are those of `make results`.
set -eu
plot="${BIN:-.venv/bin}/moeload-bench export figure"
out=docs/guide/figures
bundled=qwen3moe-tiny-8e-aux0/test/seed1
balanced=qwen3moe-tiny-8e/test/seed1
switch=qwen3moe-8e-shift/test/seed1

$plot heatmap "$bundled" --out $out/heatmap.svg
$plot shares "$bundled" --layer 3 --last 2000 --out $out/shares.svg
$plot shares "$switch" --layer 3 --out $out/shares-switch.svg
$plot states "$bundled" --out $out/states.svg
$plot states "$balanced" --out $out/states-balanced.svg
$plot states "$switch" --out $out/states-switch.svg
$plot variance "$bundled" --window 10 --layer 1 --layer 4 --out $out/variance-10.svg
$plot variance "$bundled" --window 100 --layer 1 --layer 4 --out $out/variance-100.svg
$plot range "$bundled" --window 100 --layer 1 --layer 4 --out $out/range.svg
$plot training "$bundled" sw_avg last_value uniform --horizon 100 --out $out/training.svg
$plot horizon leaderboard/results/mini --out $out/horizon.svg
$plot cost leaderboard/results/mini --horizon 100 --out $out/cost.svg

# The screen of a training that goes wrong at step 800: recorded first, some three minutes of one core (extra record).
recordings=$(mktemp -d)
"${BIN:-.venv/bin}/moeload-bench" record $out/breaks-at-800.toml --seed 1 --out "$recordings"

# The screens and the page of inspect (extras live; chromium for the picture of the page).
screen() {
"${BIN:-.venv/bin}/python" - "$1" $2 <<'END'
import io, re, sys
from moeload_bench import inspect_trace, load_trace
from moeload_bench.cli.console import PlainConsole
from moeload_bench.ops.facts.terminal import overview
console = PlainConsole(width=80, record=True, file=io.StringIO(), color_system="truecolor")
trace = load_trace(sys.argv[1])
console.print(overview(inspect_trace(trace), f"moeload-bench plan {trace.id}"))
picture = console.export_svg(title=f"moeload-bench inspect {trace.id}", unique_id="inspect")
picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # its fonts would come from the network
open(sys.argv[2], "w", encoding="utf-8").write(picture)
END
}
screen "$recordings/breaks-at-800/test/seed1.parquet" $out/breaks.svg
screen "$switch" $out/inspect.svg
rm -r "$recordings"
page=$(mktemp --suffix .html)
"${BIN:-.venv/bin}/moeload-bench" inspect "$switch" --html "$page"
chromium --headless=new --no-sandbox --disable-gpu --hide-scrollbars --window-size=1000,900 --screenshot=$out/report.png "file://$page"
rm "$page"
