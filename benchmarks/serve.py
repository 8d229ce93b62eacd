"""The server under load: latency, mixed against single tasks, a thousand artifacts, ten times its capacity.

    python benchmarks/serve.py --prompt prompts/command --prompt prompts/voice [--server-core 0 --client-core 1]

Server and generator are pinned to a core each and talk over loopback. Clips are those of the bundled corpus, each
made new to the server's cache; `tiny`, one thread. Bounded in time: about eight times `--seconds`, and loading.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bank import perturbed_copies

import speechprompt
from speechprompt import SpokenLM
from speechprompt.benchmarking.load import Requests, ask_once, milliseconds, open_loop
from speechprompt.benchmarking.server_process import ServerProcess, serving
from speechprompt.prompting.artifact import read_config

CLIPS = Path(speechprompt.__file__).parent / "corpora" / "demo" / "clips"
CLIENTS = (1, 8, 32)
MIXED_TASKS = 32
OVERLOAD, OVERLOAD_DEADLINE, OVERLOAD_CONNECTIONS = 10, 2.0, 300


def pinned(folder: Path, core: int) -> AbstractContextManager[ServerProcess]:
    """`speechprompt serve` on a core of its own."""
    return serving(folder, threads=1, before=("taskset", "-c", str(core)))


def under_load(
    server: ServerProcess, clients: int, seconds: float, clips: Sequence[bytes], tasks: Sequence[str]
) -> dict[str, Any]:
    """A closed loop, in numbers."""
    load = server.under_load(clients, seconds, Requests(clips, tasks))
    return {
        "clients": clients,
        "requests": len(load.outcomes),
        "failed": len(load.outcomes) - load.answered,
        "requests_a_second": round(len(load.outcomes) / load.wall_seconds, 1),
        "cpu_ms_a_request": round(1e3 * load.cpu_seconds / len(load.outcomes), 2),
        "p50_ms": milliseconds(load.outcomes, 0.5),
        "p99_ms": milliseconds(load.outcomes, 0.99),
    }


def latency(
    server: ServerProcess, seconds: float, clips: Sequence[bytes], tasks: Sequence[str]
) -> list[dict[str, Any]]:
    """One task a request, at several numbers of clients."""
    return [under_load(server, clients, seconds, clips, tasks[:1]) for clients in CLIENTS]


def mixed(
    server: ServerProcess, seconds: float, clips: Sequence[bytes], tasks: Sequence[str]
) -> dict[str, Any]:
    """All requests about one task against each about any of many, in turn so that drift cancels."""
    kinds = {"single": tasks[:1], "mixed": tasks}
    runs: dict[str, list[dict[str, Any]]] = {"single": [], "mixed": []}
    for kind in ("single", "mixed", "mixed", "single"):
        runs[kind].append(under_load(server, 32, seconds / 2, clips, kinds[kind]))
    mean = {
        (kind, number): sum(run[number] for run in runs[kind]) / 2
        for kind in runs
        for number in ("requests_a_second", "cpu_ms_a_request")
    }
    return {
        "tasks": len(tasks),
        **{f"{kind}_{number}": round(value, 2) for (kind, number), value in mean.items()},
        "throughput_ratio": round(
            mean["mixed", "requests_a_second"] / mean["single", "requests_a_second"], 3
        ),
        "cpu_ratio": round(mean["single", "cpu_ms_a_request"] / mean["mixed", "cpu_ms_a_request"], 3),
    }


def memory(
    prompts: Sequence[Path], core: int, count: int, clips: Sequence[bytes], scratch: Path
) -> dict[str, Any]:
    """What an artifact costs the process that serves so many, and what asking all of them takes."""
    lm = SpokenLM.load(read_config(prompts[0]).spoken_lm)
    resident: dict[int, int] = {}
    for number in (10, count):
        folder = scratch / f"{number}"
        copies = perturbed_copies(prompts[0], lm, folder, number)
        size = sum((copies[0] / name).stat().st_size for name in ("prompt.safetensors",))
        with pinned(folder, core) as server:
            warm = Requests(clips, ["task0000"])
            asyncio.run(ask_once(server.url, warm()))
            resident[number] = server.resident_bytes
            if number == count:
                answers, seconds = asyncio.run(ask_once(server.url, Requests(clips, ["*"])()))
    each = (resident[count] - resident[10]) / (count - 10)
    bound = 1.2 * size + 16 * 1024
    return {
        "artifacts": count,
        "file_bytes": size,
        "resident_bytes_each": round(each),
        "bound_bytes": round(bound),
        "within_bound": each <= bound,
        "ask_all_answers": len(answers["predictions"]),
        "ask_all_seconds": round(seconds, 3),
    }


def overload(
    server: ServerProcess,
    seconds: float,
    capacity: dict[str, Any],
    clips: Sequence[bytes],
    tasks: Sequence[str],
) -> dict[str, Any]:
    """Ten times the capacity from one client, then one request after another as if nothing had been."""
    requests = Requests(clips, tasks[:1], f"?deadline_seconds={OVERLOAD_DEADLINE}")
    cpu, alone = server.cpu_seconds, capacity["cpu_ms_a_request"] / 1e3
    rate = OVERLOAD * capacity["requests_a_second"]
    outcomes = asyncio.run(open_loop(server.url, rate, seconds, requests, OVERLOAD_CONNECTIONS))
    cpu = server.cpu_seconds - cpu
    began = time.monotonic()
    _, first = asyncio.run(ask_once(server.url, requests()))
    recovered = time.monotonic() - began
    after = under_load(server, 1, 2.0, clips, tasks[:1])
    of = {status: [o for o in outcomes if o.status == status] for status in {o.status for o in outcomes}}
    accepted, refused = of.get(200, []), of.get(429, [])
    return {
        "capacity": capacity["requests_a_second"],
        "generator_behind_p99_ms": round(
            1e3 * sorted(o.late_seconds for o in outcomes)[int(0.99 * len(outcomes))], 1
        ),
        "refused_late": sum('"status": 429' in line for line in server.log.read_text().splitlines()),
        "cpu_ms_a_refusal": round(1e3 * (cpu - alone * len(accepted)) / max(1, len(refused)), 3),
        "offered_a_second": round(len(outcomes) / seconds, 1),
        "statuses": {str(status): len(found) for status, found in sorted(of.items())},
        "answered_a_second": round(len(accepted) / seconds, 1),
        "accepted_p50_ms": milliseconds(accepted, 0.5),
        "accepted_p99_ms": milliseconds(accepted, 0.99),
        "accepted_slowest_ms": milliseconds(accepted, 1.0),
        "deadline_ms": 1e3 * OVERLOAD_DEADLINE,
        "late": sum(o.seconds > OVERLOAD_DEADLINE for o in accepted),
        "refused_p50_ms": milliseconds(refused, 0.5),
        "refused_p99_ms": milliseconds(refused, 0.99),
        "first_answer_afterwards_ms": round(1e3 * max(first, recovered), 1),
        "afterwards": after,
    }


def main() -> None:
    """Run what was asked for and print one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", type=Path, action="append", required=True, help="a trained artifact")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--count", type=int, default=1000, help="artifacts whose memory is measured")
    parser.add_argument("--only", choices=("latency", "mixed", "memory", "overload"), action="append")
    arguments = parser.parse_args()
    wanted = arguments.only or ["latency", "mixed", "memory", "overload"]
    os.sched_setaffinity(0, {arguments.client_core})
    clips = [path.read_bytes() for path in sorted(CLIPS.iterdir())[::20]]
    report: dict[str, Any] = {"cores": [arguments.server_core, arguments.client_core], "clips": len(clips)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "mixed"
        lm = SpokenLM.load(read_config(arguments.prompt[0]).spoken_lm)
        per_prompt = -(-MIXED_TASKS // len(arguments.prompt))
        for number, prompt in enumerate(arguments.prompt):
            for copy in perturbed_copies(prompt, lm, folder / "unnamed", per_prompt):
                copy.rename(folder / f"{number}-{copy.name}")
        tasks = [path.name for path in sorted(folder.iterdir()) if path.name != "unnamed"]
        with pinned(folder, arguments.server_core) as server:
            under_load(server, 8, 2.0, clips, tasks)  # warm
            if "latency" in wanted:
                report["latency"] = latency(server, arguments.seconds, clips, tasks)
            if "mixed" in wanted:
                report["mixed"] = mixed(server, arguments.seconds, clips, tasks)
            if "overload" in wanted:
                capacity = under_load(server, 32, arguments.seconds / 2, clips, tasks[:1])
                report["overload"] = overload(server, arguments.seconds, capacity, clips, tasks)
        if "memory" in wanted:
            place = arguments.server_core
            report["memory"] = memory(arguments.prompt, place, arguments.count, clips, Path(scratch))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
