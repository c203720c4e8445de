"""A data directory that will not last is named, by what the system says of its mounts."""

from pathlib import Path

import pytest

from perdure.middleware.persistence.data_directory import doubts_about

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
24 22 0:22 / /tmp rw - tmpfs tmpfs rw
25 22 0:23 / /in\\040memory rw - tmpfs tmpfs rw
26 22 0:24 / /srv rw - nfs4 server:/export rw
27 26 254:1 / /srv/disk rw master:3 - ext4 /dev/vdb rw
28 22 0:25 / /covered rw - ext4 /dev/vdc rw
29 28 0:26 / /covered rw - tmpfs tmpfs rw
a line that is none
"""


@pytest.mark.parametrize(
    ("folder", "word"),
    [
        ("/var/lib/perdure", None),
        ("/tmp/perdure", "in memory"),
        ("/in memory/perdure", "in memory"),
        ("/srv/data", "network file system"),
        ("/srv/disk/data", None),
        ("/covered/data", "in memory"),
    ],
)
def test_the_place_tells(tmp_path: Path, folder: str, word: str | None) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    doubts = doubts_about(Path(folder), mounts)
    assert [word in doubt.what for doubt in doubts if word] == ([True] if word else [])
    assert bool(doubts) == bool(word)


def test_a_containers_own_layer_is_named(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text("1 0 0:50 / / rw - overlay overlay rw\n2 1 254:0 / /data rw - ext4 /dev/vda rw\n")
    [doubt] = doubts_about(Path("/var/lib/perdure"), mounts)
    assert "container's own layer" in doubt.what
    assert "volume" in doubt.remedy
    assert doubts_about(Path("/data/perdure"), mounts) == []


def test_a_system_that_does_not_tell_is_no_reason_for_doubt(tmp_path: Path) -> None:
    assert doubts_about(Path("/srv"), tmp_path / "nowhere") == []
