"""Tars that the webdataset package wrote, indexed, verified and trained on by the real command."""

import tarfile

import numpy as np
import webdataset

RECIPE = """
name: theirs
data: {resolution: 32, channels: 3}
model: {width: 8, max_width: 16}
training: {images: 64, batch: 16, checkpoint_every: 64}
cluster: {workers: 0, cpus_per_worker: 1}
"""


def test_their_tars_are_indexed_trained_on_and_verified(embedded):
    with webdataset.ShardWriter(f"{embedded.folder}/t-%04d.tar", maxcount=40, verbose=0) as sink:
        for number in range(120):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 36, 3), dtype=np.uint8)
            sink.write({"__key__": f"{number:06}", "jpg": pixels, "cls": number % 2})
    (embedded.folder / "theirs.yaml").write_text(RECIPE)
    wanted = ["index", "theirs", "t-{0000..0002}.tar", "--resolution", 32, "--json"]
    indexed = embedded(*wanted).json
    assert (indexed["samples"], indexed["tars"], indexed["tars_read"], indexed["classes"]) == (120, 3, 3, ["0", "1"])
    again = embedded(*wanted)
    assert again.json == {**indexed, "tars_read": 0} and "Ray" not in again.err
    assert embedded("train", "theirs.yaml", "--json").json["run"]["images"] == 64

    other = embedded("train", "theirs.yaml", "--set", "data.resolution=64")
    assert other.code == 2 and "`ganline index` makes it anew" in other.err and "resolution 32" in other.err

    path = embedded.folder / "t-0001.tar"
    with tarfile.open(path) as tar:
        at = next(member.offset_data for member in tar if member.name == "000042.jpg")
    damaged = bytearray(path.read_bytes())
    damaged[at + 200] ^= 1
    path.write_bytes(damaged)
    verified = embedded("verify", "theirs")
    assert verified.code == 1 and f"shard {path} byte {at} key 000042: " in verified.out
    assert embedded.left_running() == []
