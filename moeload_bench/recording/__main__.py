import sys
from pathlib import Path
from moeload_bench.recording.recipe import load_recipe
from moeload_bench.recording.train import Job, record_recipe
name, seed, split, steps, out = sys.argv[1:6]
r = load_recipe(name)
def p(n, row):
    if n % 50 == 0:
        l = row["load"]; print(n, "loss %.3f aux %.3f gn %.2f t %.3f" % (row["loss"], row["aux_loss"], row["grad_norm"], row["step_time_s"]), "max/mean", (l.max(1) / l.mean(1)).round(2), flush=True)
print(record_recipe(Job(r, int(seed), split, int(steps), Path(out)), resume="--resume" in sys.argv, progress=p))
