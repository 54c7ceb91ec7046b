"""A stand-in for llama-bench: the same options and output, with speeds that are known beforehand (see `speed`)."""

import json
import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))


def values(flag):
    return [int(each) for each in sys.argv[sys.argv.index(flag) + 1].split(",")]


def speed(threads, ubatch, reading):
    """Two threads are best for generating, four for prompts; a batch of 1024 is best."""
    if not reading:
        return 100 - 30 * abs(threads - 2)
    return (400 - 50 * abs(threads - 4)) * (1.5 if ubatch == 1024 else 1)


with open(os.path.join(FOLDER, "benched"), "a", encoding="utf-8") as file:
    file.write(" ".join(sys.argv[1:]) + "\n")
if os.path.exists(os.path.join(FOLDER, "bench_fails")):
    print("error: failed to load model")
    sys.exit(1)
print("a line that is no JSON")
for threads in values("-t"):
    for ubatch in values("-ub"):
        for flag, field in (("-p", "n_prompt"), ("-n", "n_gen")):
            (count,) = values(flag)
            if count:
                taken = count / speed(threads, ubatch, flag == "-p")
                row = {
                    "n_prompt": 0,
                    "n_gen": 0,
                    "n_threads": threads,
                    "n_ubatch": ubatch,
                    "samples_ns": [int(taken * 1e9)],
                }
                print(json.dumps({**row, field: count}))
