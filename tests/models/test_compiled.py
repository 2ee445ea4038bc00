"""Compiled denoisers: traced once for all budgets. CUDA graphs are tested in test_cuda.py."""

import json
import subprocess
import sys

# In a process of its own: the tracer cannot look through the checks of shapes that tests run with.
# Traced but not translated: that needs a C++ compiler and a minute, and is PyTorch's to test.
SCRIPT = """
import functools, json, torch
from presto_models import Condition, DiTConfig, LayerSchedule, PrestoDenoiser, PrestoDenoiserConfig
from presto_models.compiled import Compiled

traced = []
def backend(graph, inputs, options):
    traced.append(options)
    return graph.forward

module = torch.nn.Module
module.compile = functools.partialmethod(module.compile, backend=backend)

dit = DiTConfig(channels=4, width=16, depth=4, heads=2, text_width=8)
schedule = LayerSchedule((0.1, 1, 10), (4, 3, 2, 1))
guidance = {"guidance_interval": (0.0, 20.0), "guidance_scale": 0.5}
D = PrestoDenoiser(PrestoDenoiserConfig(dit, schedule=schedule, **guidance))
rng = torch.Generator().manual_seed(0)
for weight in D.parameters():
    weight.data = torch.randn(weight.shape, generator=rng) * 0.3
x = torch.randn(2, 4, 8, generator=rng)
cond = Condition(torch.randn(2, 3, 8, generator=rng), torch.ones(2, 3).bool(), torch.zeros(2))
sigmas = [torch.full((2,), sigma) for sigma in (30.0, 3.0, 0.3, 0.03, 30.0)]

with torch.inference_mode():
    one_level = [D(x, sigma, cond) for sigma in sigmas]
    two_levels = D(x, torch.tensor([30.0, 0.03]), cond)
    stated = D(x, sigmas[0], cond, budget=3)
names = list(D.state_dict())
fast = Compiled(D)
ready = fast.prepare(cond)
far = [float((fast(x, s, ready) - D_x).abs().max()) for s, D_x in zip(sigmas, one_level)]
graphs = len(traced)
far.append(float((fast(x, torch.tensor([30.0, 0.03]), ready) - two_levels).abs().max()))
far.append(float((fast(x, sigmas[0], ready, budget=3) - stated).abs().max()))
before = len(traced)
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
    D(x, sigmas[2], cond)
autocast_graphs = len(traced) - before
told = [fast.depth, fast.guidance_interval, fast.guidance_scale]
threads = traced[0] == {"cpp.threads": torch.get_num_threads()}
print(json.dumps([graphs, autocast_graphs, far, names == list(D.state_dict()), told, threads]))
"""


def test_blocks_are_compiled_once_for_all_budgets():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    graphs, autocast_graphs, far, same_names, told, threads = json.loads(done.stdout)
    assert graphs == 1  # for budgets 1, 2, 3, 4
    assert autocast_graphs == 1  # blocks are all given float32
    assert max(far) < 1e-5
    assert same_names
    assert told == [4, [0.0, 20.0], 0.5]  # pipelines ask for all
    assert threads  # else kernels kept on disk for another number of threads would be run
