"""Does to a command under test what its plan says, at the very place. Every Python process that has this folder on its
path loads this file: the command's own and all of Ray's. The product has no hook for it.

`GANLINE_CHAOS` names a folder. In it lie `plan.json`, a list of disturbances, as tests/shared/disturbances.py writes
them; `steps-<rank>-<pid>.jsonl`, a line for each step that a rank took; and `<name>-<place>-<n>`, which says when the
disturbance of that name came for the n-th time, so that "once" holds for the run and not for a process; what may come
for ever leaves none.
"""

import errno
import importlib.machinery
import json
import os
import re
import signal
import sys
import threading
import time
import zlib
from pathlib import Path

_FOLDER = Path(os.environ.get("GANLINE_CHAOS", ""))
_AMID_CHECKPOINT = re.compile(r"/checkpoints/0*(\d+)-")


class _Place:
    """What the processes of a run tell each other, and the test, through the folder."""

    def __init__(self):
        self.poisoned = False  # the step that this process takes now

    def due(self, at, step, path=""):
        """The disturbances for here and now that have not come as often as they shall."""
        for one in json.loads((_FOLDER / "plan.json").read_text()):
            here = at == one["at"] and one["path"] in path and one["first"] <= step <= one["last"]
            if here and one["rank"] in (None, _rank()) and self._claimed(one, step):
                yield one

    def _claimed(self, one, step):
        if one["times"] < 0:
            return True
        # A step is a place of its own; of writes there are several at each, so all of them are one.
        place = step if one["at"] == "step" else "writes"
        for number in range(one["times"]):
            try:
                file = os.open(_FOLDER / f"{one['name']}-{place}-{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                continue
            os.write(file, json.dumps({"time": time.time(), "pid": os.getpid(), "rank": _rank()}).encode())
            os.close(file)
            return True
        return False


_place = _Place()


def _rank():
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_initialized():
        return 0
    return torch.distributed.get_rank()


def _act(one):
    do = one["do"]
    if do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "kill soon":  # in the middle of what comes next
        timer = threading.Timer(one["seconds"], os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    elif do == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif do == "wait":
        time.sleep(one["seconds"])
    elif do == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif do == "poison":
        _place.poisoned = True


def _weights(state):
    """A checksum of both networks."""
    crc = 0
    for network in (state.generator, state.discriminator):
        for weight in network.parameters():
            crc = zlib.crc32(weight.detach().contiguous().numpy().tobytes(), crc)
    return crc


def _patch_step(module):
    make_step, latents = module.make_step, module.latents

    def make_watched_step(state, *args, **kwargs):
        step, world = make_step(state, *args, **kwargs), module.world_size()
        log = open(_FOLDER / f"steps-{_rank()}-{os.getpid()}.jsonl", "a", buffering=1)  # noqa: SIM115

        def watched_step(images, labels, *rest):
            number, _place.poisoned = state.step, False
            for one in _place.due("step", number):
                _act(one)
            taken = step(images, labels, *rest)
            rows = zip(images.chunk(len(kwargs["streams"])), labels.chunk(len(kwargs["streams"])), strict=True)
            crcs = [zlib.crc32(y.numpy().tobytes(), zlib.crc32(x.numpy().tobytes())) for x, y in rows]
            seen = {str(stream): crc for stream, crc in zip(kwargs["streams"], crcs, strict=True)}
            line = {"time": time.time(), "pid": os.getpid(), "rank": _rank(), "world": world, "step": number}
            log.write(json.dumps({**line, "rows": seen, "weights": _weights(state)}) + "\n")
            return taken

        return watched_step

    def poisoned_latents(*args, **kwargs):
        drawn = latents(*args, **kwargs)
        return drawn.fill_(float("nan")) if _place.poisoned else drawn

    module.make_step, module.latents = make_watched_step, poisoned_latents


def _patch_storage(module):
    def before(write):
        def watched_write(self, first, second, *args, **kwargs):
            path = first if isinstance(first, str) else second  # `upload` has it second
            amid = _AMID_CHECKPOINT.search(path)
            for one in _place.due("write", int(amid[1]) if amid else 0, path):
                _act(one)
            return write(self, first, second, *args, **kwargs)

        return watched_write

    module.Storage.write = before(module.Storage.write)
    module.Storage.upload = before(module.Storage.upload)


_PATCHES = {"pipeline.training.step": _patch_step, "pipeline.storage": _patch_storage}


class _Finder:
    """Patches a module when it has been imported, and none before: most of Ray's processes import neither."""

    @staticmethod
    def find_spec(name, path, target=None):
        if name not in _PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_patch(module):
            run(module)
            _PATCHES[name](module)

        spec.loader.exec_module = run_and_patch
        return spec


if _FOLDER.is_absolute():
    sys.meta_path.insert(0, _Finder)
