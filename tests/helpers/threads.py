"""How the frameworks run in tests, and in what asks the kit outside pytest. To be imported before them."""

import os

import backends

os.environ["OMP_NUM_THREADS"] = "1"  # networks here are tiny: waiting for a second thread costs four times the work itself
os.environ["MS_DEV_LAUNCH_BLOCKING"] = "1"  # for the same reason, of MindSpore's threads outside graphs: seven times
for variable in (variable for name in backends.names() for variable in backends.about(name).thread_variables):
    os.environ[variable] = "1"  # of frameworks that do not ask OMP_NUM_THREADS
# Networks here are compiled for a few calls each: in one piece, and without LLVM's optimisations, that takes a third of the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
                      "--xla_cpu_parallel_codegen_split_count=1")
