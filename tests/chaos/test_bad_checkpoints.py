"""A checkpoint that is not what its run wrote is refused; the one before it is used, and that is said."""

import json
import shutil

import pytest
from chaos_run import BATCH


def _cut(last, before):
    file = last / "optimizer_d.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return "optimizer_d.safetensors is not the file that COMPLETE names"


def _mixed(last, before):
    shutil.copy(before / "discriminator.safetensors", last)
    return "discriminator.safetensors is not the file that COMPLETE names"


def _foreign(last, before):
    document = json.loads((last / "COMPLETE").read_text())
    (last / "COMPLETE").write_text(json.dumps({**document, "run": "chaos-0123456789ab"}))
    return "it belongs to run chaos-0123456789ab"


@pytest.mark.parametrize("spoil", [_cut, _mixed, _foreign])
def test_a_bad_checkpoint_is_refused_and_the_one_before_is_used(run, left_alone, spoil):
    reference = left_alone()
    shutil.copytree(reference.folder, run.ganline.root / "runs" / reference.folder.name)
    before, last, end = run.ganline.checkpoints()[-3:]
    step = run.saved_steps()[-3]
    shutil.rmtree(end)
    why = spoil(last, before)
    assert run.train()["run"]["resumed_from"] == step * BATCH
    assert f"checkpoints/{last.name} is not used: {why}" in run.said
    run.ends_as(reference, since=step)
