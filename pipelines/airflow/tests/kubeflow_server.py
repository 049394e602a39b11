"""The stand-in of pipelines/kubeflow's tests as a process of its own, in that project's environment.

Prints its address; then, for each line on standard input (JSON: statuses to fail with, by path), what it was asked to run.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])
from kfp_standin import KfpStandIn, serving

with serving(KfpStandIn()) as standin:
    print(standin.url, flush=True)
    for line in sys.stdin:
        standin.fail = json.loads(line)
        runs = [{**run, "pipeline": standin.pipelines[run["pipeline_version_reference"]["pipeline_id"]]["display_name"]} for run in standin.runs.values()]
        print(json.dumps(runs), flush=True)
